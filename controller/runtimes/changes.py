"""Wake-ups per service: a change made while nobody waits is not lost."""

import asyncio
from collections import defaultdict

from controller.service import ServiceId


class Changes:
    """One event per service, cleared by whoever was woken."""

    def __init__(self) -> None:
        self._events: defaultdict[ServiceId, asyncio.Event] = defaultdict(asyncio.Event)

    def note(self, service: ServiceId) -> None:
        """Something changed."""
        self._events[service].set()

    async def wait(self, service: ServiceId) -> None:
        """Return when something changed since the last return."""
        event = self._events[service]
        await event.wait()
        event.clear()
