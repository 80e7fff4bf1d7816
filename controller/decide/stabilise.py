"""Guards around the size: missing data holds, scale-in waits, bounds bind.

Each is a small function that returns the count and adds its reason when it acted.
"""

from dataclasses import replace

from controller.decide.history import BIN_S
from controller.decide.types import Action, Reason, Start, State, Wish
from controller.observation import READY, Observation, Phase
from controller.service import Bounds

SCALE_IN_LEADS = 2.0
SCALE_IN_LEAST_S = 30.0
SCALE_IN_SCRAPES = 18.0
"""Scale-in follows the highest wish of a window of so many start-up times: what is quick to
have again may be given up soon. Never of fewer scrapes than tell a lull from a trend."""
TELLS_RATIO = 0.5
"""Of that window that must be known, lest a few scrapes that came through scale in."""

BACK_OFF_FIRST_S = 1.0
BACK_OFF_LONGEST_S = 60.0
"""A start after one that failed waits, twice as long after each further failure."""

Wanted = tuple[int, tuple[Reason, ...]]


def scale_in_window_s(lead_s: float, cadence_s: float) -> float:
    """How long a wish binds; `cadence_s`: between scrapes."""
    return max(SCALE_IN_LEADS * lead_s, SCALE_IN_SCRAPES * cadence_s, SCALE_IN_LEAST_S)


def remember_wish(
    wishes: tuple[Wish, ...], wish: Wish, *, current: int, window_s: float
) -> tuple[Wish, ...]:
    """Append a wish and drop those outside the scale-in window.

    An empty window, after a restart, an outage of the signals or a clock that went back, begins
    with what serves now: one scrape is no reason to give up what a whole window had needed.
    Wishes of one sample's time are kept as one, the highest.
    """
    recent = tuple(each for each in wishes if wish.at_s - window_s < each.at_s <= wish.at_s)
    if not recent:
        return (Wish(wish.at_s, max(current, wish.serving)),)
    last = recent[-1]
    if int(last.at_s // BIN_S) == int(wish.at_s // BIN_S):
        return (*recent[:-1], Wish(last.at_s, max(last.serving, wish.serving)))
    return (*recent, wish)


def slow_in(wanted: Wanted, current: int, wishes: tuple[Wish, ...], known_ratio: float) -> Wanted:
    """Do not go below the highest recent wish, nor down at all where few of them could be made.

    `known_ratio`: share of the scale-in window whose load is known.
    """
    count, reasons = wanted
    highest = max((wish.serving for wish in wishes), default=count)
    if known_ratio < TELLS_RATIO:
        highest = max(highest, current)
    if count >= current or highest <= count:
        return wanted
    return min(highest, current), (*reasons, Reason.COOLING_DOWN)


def bounded(wanted: Wanted, bounds: Bounds) -> Wanted:
    """Keep within the service's bounds."""
    count, reasons = wanted
    low = 0 if count == 0 and bounds.zero_after_s is not None else bounds.low
    inside = min(max(count, low), bounds.high)
    if inside == count:
        return wanted
    return inside, (*reasons, Reason.AT_MAXIMUM if inside < count else Reason.AT_MINIMUM)


def back_off(seen: Observation, state: State, now_s: float) -> State:
    """Count replicas that failed before they were ready; the next that gets ready clears it.

    One that was ready all along clears nothing: a standby may fail to start beside it.
    """
    fallen = frozenset(
        s.replica.id
        for s in seen.sightings
        if s.replica.phase is Phase.FAILED and s.replica.ready_s is None
    )
    soonest_s = min(state.start_after_s, now_s + BACK_OFF_LONGEST_S)  # the clock may go back
    new = fallen - state.fallen
    state = replace(state, fallen=fallen, start_after_s=soonest_s)
    if new:
        pause_s = min(BACK_OFF_FIRST_S * 2.0**state.failed_starts, BACK_OFF_LONGEST_S)
        failed = min(state.failed_starts + len(new), 16)
        return replace(state, failed_starts=failed, failed_s=now_s, start_after_s=now_s + pause_s)
    mended = any(
        s.replica.phase in READY
        and not s.replica.stale
        and s.replica.ready_s is not None
        and s.replica.ready_s > state.failed_s
        for s in seen.sightings
    )
    return replace(state, failed_starts=0, start_after_s=float("-inf")) if mended else state


def without_starts(actions: tuple[Action, ...]) -> tuple[Action, ...]:
    """Leave starts for later; everything else goes on."""
    return tuple(action for action in actions if not isinstance(action, Start))
