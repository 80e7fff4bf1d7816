"""Decide how many replicas serve and stand by, and what to do to get there.

Pure: `decide(seen, state, now_s)` takes values and returns values. Its stages, a module
each: `forecast` the demand over the start-up time, `size` the replicas that carry it,
`stabilise` against flapping and missing data, `protect` with standbys and failover.
"""

from controller.decide.decide import decide
from controller.decide.types import (
    Action,
    Admit,
    Decision,
    Drain,
    Numbers,
    Reason,
    Remove,
    Start,
    State,
    Withdraw,
    explain,
    needed,
)

__all__ = [
    "Action",
    "Admit",
    "Decision",
    "Drain",
    "Numbers",
    "Reason",
    "Remove",
    "Start",
    "State",
    "Withdraw",
    "decide",
    "explain",
    "needed",
]
