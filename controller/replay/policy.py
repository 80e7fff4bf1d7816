"""What a scaling policy may see in a replay, and what it answers; frozen values.

Ours and every opponent's go through the same door: at each of its own ticks a policy is shown
the latest scrape, or none, and what replicas there are, and says how many it wants. It keeps
its own state, has no clock, and never sees the trace.
"""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ReplicaSample:
    """One serving replica as a scrape shows it."""

    name: str
    running: float
    """Requests in its batch."""
    waiting: float
    """Requests in its queue."""
    kv_usage_ratio: float
    """KV cache in use, 0 to 1."""
    counts: "ReplicaCounts | None" = None
    """None: not told."""


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """What one replica did since it began, as its page counts it."""

    prompt_tokens: float
    """Of the requests whose first token was made."""
    generation_tokens: float
    preemptions: float
    finished: float
    gaps: float
    """Gaps between tokens, and their sum in seconds."""
    gaps_s: float
    input_tokens: float
    """Of the requests that finished, as the next."""
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """The fleet at one moment, and what happened since the scrape before; sums over replicas."""

    at_s: float
    since_s: float
    """Length of the interval that the counts below are of."""
    replicas: tuple[ReplicaSample, ...]
    """Those that serve and answered."""
    arrivals: int
    """Requests that came."""
    finished: int
    prompt_tokens: int
    """Of the requests whose first token was made."""
    generation_tokens: int
    """Made."""
    ttft_s: tuple[float, ...]
    """Of the requests whose first token came in the interval."""
    itl_s: tuple[float, ...]
    """Mean gaps of the requests that finished in it, where they made two tokens or more."""
    e2e_s: tuple[float, ...]
    """Of the requests that finished in it."""
    input_tokens: tuple[int, ...]
    """Prompts of the requests that finished in it, as the next."""
    output_tokens: tuple[int, ...]
    gateway_waiting: int = 0
    """Requests that the router holds because no replica serves."""

    @property
    def running(self) -> float:
        """Requests in batches."""
        return sum(replica.running for replica in self.replicas)

    @property
    def waiting(self) -> float:
        """Requests in the engines' queues."""
        return sum(replica.waiting for replica in self.replicas)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas there are, as the runtime knows without any scrape."""

    serving: int
    starting: int
    """Asked for and not ready."""
    draining: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What everybody is told beforehand: the same for all policies."""

    capacity_rps: float
    """What one replica carries within the SLO, at the trace's mean lengths."""
    max_num_seqs: int
    kv_capacity_tokens: int
    """Of one replica."""
    ttft_s: float
    """Bounds of the SLO; infinite where there is none."""
    itl_s: float
    percentile: float
    start_up_s: float
    min_replicas: int
    max_replicas: int
    prefill_tokens_s: float
    """Prompt tokens a second that one replica computes when it does nothing else."""
    decode_tokens_s: float
    """Tokens a second that one replica makes at the largest batch within the ITL bound."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a policy wants now."""

    replicas: int
    """Serving and starting together, before bounds."""
    reason: str = ""
    needed: int | None = None
    """Those that the load needs now, where it holds more for a while; None: as many as wanted."""
    replace: str = ""
    """A serving replica whose place a new one shall take once it is ready; empty: none."""


class Policy(Protocol):
    """A scaling policy: pure, its state passed in and out."""

    @property
    def name(self) -> str:
        """As reports call it."""

    @property
    def interval_s(self) -> float:
        """Between its ticks."""

    def start(self, known: Known) -> Any:
        """Give the state to begin with."""

    def decide(
        self, scrape: Scrape | None, fleet: Fleet, state: Any, now_s: float
    ) -> tuple[Wish, Any]:
        """Say how many replicas are wanted; None: the scrape failed or has not come yet."""
