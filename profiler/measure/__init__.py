"""Runs against a real engine: inject a trace, and report what came back.

Called by `whaleflux bench`. What it measures is what a client sees,
through whatever router stands in between; what the engine says of itself is `monitor`'s.
"""

from profiler.measure.client import (
    Outcome,
    Request,
    Status,
    Target,
    complete,
    offered_models,
    open_session,
)
from profiler.measure.openloop import Pace, replay
from profiler.measure.prompts import PromptKind
from profiler.measure.report import Report, Spread, as_table, summarise

__all__ = [
    "Outcome",
    "Pace",
    "PromptKind",
    "Report",
    "Request",
    "Spread",
    "Status",
    "Target",
    "as_table",
    "complete",
    "offered_models",
    "open_session",
    "replay",
    "summarise",
]
