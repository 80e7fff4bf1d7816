"""Time as the emulator sees it: engine seconds, real or turned by hand.

The engine, the server and the process take a `Clock`; nothing else here reads one. Engine
time runs `speed` times as fast as the wall, so every duration that the emulator reports is
in the emulated engine's own seconds.
"""

import asyncio
import heapq
import time
from itertools import count
from typing import Protocol


class Clock(Protocol):
    """What the emulator asks of time."""

    def now_s(self) -> float:
        """Engine seconds since an arbitrary origin; never goes back."""

    async def sleep_until(self, at_s: float) -> None:
        """Return at `at_s` or later; gives other tasks a turn even when it is past."""


class RealClock:
    """The host's monotonic clock, `speed` times as fast."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed

    def now_s(self) -> float:
        """Engine seconds since the host booted, times speed."""
        return time.monotonic() * self._speed

    async def sleep_until(self, at_s: float) -> None:
        """Sleep on the event loop; its timer wakes up to 1 ms late."""
        await asyncio.sleep(max(at_s - self.now_s(), 0.0) / self._speed)


class ManualClock:
    """A fake that moves only when told to; sleepers wake in order of their moment."""

    SETTLE_TURNS = 8
    """Turns of the event loop in which a woken engine gets to its next sleep."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_s(self) -> float:
        """Where `advance` has brought it."""
        return self._now_s

    async def sleep_until(self, at_s: float) -> None:
        """Wait until the clock is advanced that far."""
        if at_s <= self._now_s:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (at_s, next(self._order), woken))
        await woken

    @property
    def sleepers(self) -> int:
        """How many wait for it to move."""
        return len(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Pass `seconds`, waking each sleeper at its own moment."""
        target_s = self._now_s + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= target_s:
            at_s, _, woken = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, at_s)
            if not woken.done():
                woken.set_result(None)
            await self._settle()
        self._now_s = target_s

    async def _settle(self) -> None:
        for _ in range(self.SETTLE_TURNS):
            await asyncio.sleep(0)


def wall_s() -> float:
    """Seconds since the epoch, for `created` fields: the process's edge, injected inwards."""
    return time.time()  # noqa: TID251 - a room below controller has no clock of it
