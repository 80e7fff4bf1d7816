"""What an engine says of itself, as cumulative values read before and after a point.

Filled in by the caller from `/metrics` (the controller composes it from `monitor`'s
signals): nothing here knows an engine's metric names. None is a value that the engine does
not publish; client timings stand in for it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Total:
    """A histogram's sum and count."""

    total: float
    count: float

    def since(self, earlier: "Total | None") -> "Total | None":
        """What was added; None without a beginning, after a restart, or when nothing was."""
        if earlier is None or self.count <= earlier.count or self.total < earlier.total:
            return None
        return Total(self.total - earlier.total, self.count - earlier.count)

    @property
    def mean(self) -> float:
        """Mean value of what was counted."""
        return self.total / self.count


@dataclass(frozen=True, slots=True)
class Phases:
    """One look at the engine; times in seconds, lengths in tokens, None: not published."""

    running: float | None = None
    waiting: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    cached_tokens: float | None = None
    """Prompt tokens found in the prefix cache."""
    preemptions: float | None = None
    ttft: Total | None = None
    itl: Total | None = None
    """Gaps between tokens, each gap counted once."""
    queue: Total | None = None
    prefill: Total | None = None
    """From first scheduled to first token, per finished request."""
    decode: Total | None = None
    iteration_tokens: Total | None = None
    """Tokens per engine step; its count is a count of steps."""

    @property
    def in_flight(self) -> float | None:
        """Requests running and waiting; None when the engine does not say."""
        if self.running is None or self.waiting is None:
            return None
        return self.running + self.waiting

    @property
    def absent(self) -> tuple[str, ...]:
        """The phase histograms that the engine does not publish, for a note."""
        kept = (
            ("time to first token", self.ttft),
            ("inter-token latency", self.itl),
            ("prefill time", self.prefill),
            ("running and waiting", self.in_flight),
        )
        return tuple(name for name, value in kept if value is None)


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """The engine's KV cache as it configured it; None: not published."""

    capacity_tokens: int | None = None
    block_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    cache_bytes: int | None = None
    """Size that the cache was given by hand, bytes."""
    blocks_overridden: bool = False
    """Whether the number of blocks was given by hand, for tests."""
    prefix_caching: bool | None = None


ReadPhases = Callable[[], Awaitable[Phases | None]]
"""Look at the engine now; None when it publishes no metrics. Raises `RetryLater` when an
engine that did publish them no longer answers."""


async def no_phases() -> Phases | None:
    """The port of an engine without metrics."""
    return None
