"""Poll with a deadline, so that no test sleeps and hopes.

Called by tests and by the harness itself. A predicate that raises counts as
"not yet"; what it raised last is in the failure's text.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class NotInTime(AssertionError):
    """The deadline passed before the predicate held."""


def eventually(predicate: Callable[[], T], timeout_s: float, what: str, every_s: float = 0.05) -> T:
    """Return the predicate's first truthy answer; raise `NotInTime` after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            answer = predicate()
            if answer:
                return answer
            last = answer
        except Exception as error:
            last = error
        if time.monotonic() >= deadline_s:
            raise NotInTime(f"{what}: not within {timeout_s:g} s (last: {last!r})")
        time.sleep(every_s)
