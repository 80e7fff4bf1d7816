"""Guards around the size: missing data holds, scale-in waits, bounds bind.

Each is a small function that returns the count and adds its reason when it acted.
"""

from controller.decide.types import Reason, Wish
from controller.service import Bounds

SCALE_IN_WINDOW_S = 90.0
"""Scale-in follows the highest wish of this window."""

Wanted = tuple[int, tuple[Reason, ...]]


def remember_wish(
    wishes: tuple[Wish, ...], serving: int, lead_s: float, now_s: float
) -> tuple[Wish, ...]:
    """Append a wish and drop those outside the scale-in window (one lead time at least)."""
    window_s = max(SCALE_IN_WINDOW_S, lead_s)
    return (*(wish for wish in wishes if wish.at_s > now_s - window_s), Wish(now_s, serving))


def slow_in(wanted: Wanted, current: int, wishes: tuple[Wish, ...]) -> Wanted:
    """Do not go below the highest recent wish."""
    count, reasons = wanted
    highest = max((wish.serving for wish in wishes), default=count)
    if count >= current or highest <= count:
        return wanted
    return min(highest, current), (*reasons, Reason.COOLING_DOWN)


def bounded(wanted: Wanted, bounds: Bounds) -> Wanted:
    """Keep within the service's bounds."""
    count, reasons = wanted
    inside = min(max(count, bounds.low), bounds.high)
    if inside == count:
        return wanted
    return inside, (*reasons, Reason.AT_MAXIMUM if inside < count else Reason.AT_MINIMUM)
