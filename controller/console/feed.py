"""What the console sends: views and history as JSON, made once a second for all clients.

`controller.console.server` runs it. Nothing is encoded while nobody asks, and a client that
falls behind misses seconds rather than queueing them: memory does not grow with slowness.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import fields

import msgspec

from controller.console.history import Columns, History, ServiceKey, key_of
from controller.view import ServiceView

PERIOD_S = 1.0
MOST_OF_TIME, LONGEST_S = 0.05, 4.0
"""What reading the services may take of a core: a thousand are read less often, yet before a page
takes the stream for lost."""

Views = Callable[[], tuple[ServiceView, ...]]

log = logging.getLogger(__name__)

_FIELDS = tuple(field.name for field in fields(ServiceView))


class Feed:
    """Samples the views every second or so and wakes those who wait for the next."""

    def __init__(self, views: Views, now_s: Callable[[], float]) -> None:
        self._views, self._now_s = views, now_s
        self._history = History()
        self._seen: tuple[ServiceView, ...] = ()
        self._at_s = now_s()
        self._whole: bytes | None = None
        self._newest: bytes | None = None
        self._next = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Sample until cancelled."""
        took_s = 0.0
        while True:
            await asyncio.sleep(min(max(PERIOD_S, took_s / MOST_OF_TIME), LONGEST_S))
            began_s = self._now_s()
            self.sample()
            took_s = self._now_s() - began_s

    def sample(self) -> None:
        """Read the views now; a second that cannot be read is skipped, and says why."""
        try:
            seen = self._views()
        except Exception:
            log.exception("console: the services could not be read; trying again")
            return
        self._seen, self._at_s = seen, self._now_s()
        self._history.record(seen, self._at_s)
        self._whole = self._newest = None
        self._wake()

    def close(self) -> None:
        """End every stream after the event it is sending."""
        self._closed = True
        self._wake()

    def whole(self) -> bytes:
        """Give every service with its history, as of the last sample."""
        if self._whole is None:
            self._whole = self._encode(self._history.columns)
        return self._whole

    def newest(self) -> bytes:
        """Give the same with the last second of history alone."""
        if self._newest is None:
            self._newest = self._encode(self._history.newest)
        return self._newest

    async def seconds(self) -> AsyncGenerator[bytes]:
        """Give `newest` now and after each sample, until closed."""
        while not self._closed:
            waited = self._next
            yield self.newest()
            await waited.wait()

    def _wake(self) -> None:
        waited, self._next = self._next, asyncio.Event()
        waited.set()

    def _encode(self, history: Callable[[ServiceKey], Columns]) -> bytes:
        services = [
            {name: getattr(view, name) for name in _FIELDS} | {"history": history(key_of(view))}
            for view in self._seen
        ]
        document = {"at_s": self._at_s, "services": services}
        return msgspec.json.encode(document, enc_hook=float)  # numpy's scalars; NaN becomes null
