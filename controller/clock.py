"""The one place that reads a clock; everything else takes `now_s`."""

import time


def monotonic_s() -> float:
    """Give seconds on a clock that never goes back: for decisions and durations."""
    return time.monotonic()


def wall_s() -> float:
    """Seconds since the epoch: for people and for the API only."""
    return time.time()  # noqa: TID251 - the one place
