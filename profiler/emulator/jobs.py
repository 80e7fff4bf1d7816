"""A request in the emulated engine: what was asked, and how far it has come.

The server makes a `Generation`, hands it to the engine and awaits the `Job` it gets back.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from sys import maxsize

from profiler.emulator.tokens import Answer

WHOLE = maxsize
"""`Job.beyond(WHOLE)` returns only when the request is finished."""


class Finish(StrEnum):
    """Why a request ended; vLLM's `finished_reason`, in its order."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    REPETITION = "repetition"


@dataclass(frozen=True, slots=True)
class Generation:
    """What a client asked for, resolved: the engine makes exactly this."""

    prompt: Sequence[bytes | int]
    """The prompt's tokens, pieces of text or ids."""
    output_tokens: int
    """Tokens to generate, ≥ 1."""
    max_tokens: int
    """Tokens that the client allowed."""
    answer: Answer
    finish: Finish
    """STOP where the answer ends by itself, LENGTH where `max_tokens` cuts it."""


@dataclass(slots=True, eq=False)
class Job:
    """A request in flight. The engine writes it, one handler waits on it."""

    number: int
    generation: Generation
    arrival_s: float
    """When the server saw it, engine seconds."""
    visible_s: float
    """When the scheduler may see it: arrival plus the API's own time."""
    hit_tokens: int = 0
    slot: int = -1
    generated: int = 0
    last_token_s: float = float("nan")
    finish: Finish | None = None
    _wanted: int = 0
    _waiter: asyncio.Future[None] | None = field(default=None, repr=False)

    def advance(self, generated: int, finish: Finish | None = None) -> None:
        """Note progress, and wake the handler when it has come far enough."""
        self.generated = generated
        self.finish = finish
        waiter = self._waiter
        if waiter is not None and (finish is not None or generated > self._wanted):
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def beyond(self, seen: int) -> None:
        """Return once more than `seen` tokens are there, or the request is finished."""
        while self.finish is None and self.generated <= seen:
            self._wanted = seen
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
