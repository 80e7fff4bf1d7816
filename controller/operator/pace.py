"""How often services are looked at: every second, less often beyond a few hundred replicas.

Pods that come, go or die are seen at once all the same; what waits longer are pages of metrics.
"""

from collections.abc import Callable

from controller.loop import TICK_S

PAGES_PER_S = 400
"""What one operator reads: a page, and what is made of it, takes about a millisecond of CPU."""
_COUNTED_EVERY_S = 1.0


class Pace:
    """Answers from the number of replicas there are."""

    def __init__(self, replicas: Callable[[], int], now_s: Callable[[], float]) -> None:
        self._replicas, self._now_s = replicas, now_s
        self._counted_s, self._period_s = -float("inf"), TICK_S

    def __call__(self) -> float:
        """Seconds between two looks at a service."""
        now_s = self._now_s()
        if now_s - self._counted_s >= _COUNTED_EVERY_S:
            self._counted_s = now_s
            self._period_s = max(TICK_S, self._replicas() / PAGES_PER_S)
        return self._period_s
