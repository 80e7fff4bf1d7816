"""The terms that policies are judged on: the same for all; frozen, checked, told by whoever asks.

Chance comes from `seed` alone: which scrapes are missed and which starts fail is the same for
every policy that asks at the same moments.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from profiler.errors import Refused


class Routing(StrEnum):
    """How the router chooses among the replicas that serve."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    """Fewest requests under way, as counted at the last look and sent since."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of simulated time, its end excluded."""

    from_s: float
    to_s: float

    def __post_init__(self) -> None:
        """Refuse what is no stretch."""
        if not self.from_s <= self.to_s:
            raise Refused(f"a span from {self.from_s} to {self.to_s} s: let it end after it began")

    def holds(self, at_s: float) -> bool:
        """Whether a moment lies in it."""
        return self.from_s <= at_s < self.to_s


@dataclass(frozen=True, slots=True)
class NodeLoss:
    """All replicas of a node die, those that start there too; the node does not come back."""

    at_s: float
    node: int
    """Nodes are filled one after the other, from 0."""


@dataclass(frozen=True, slots=True)
class SlowReplica:
    """One replica's steps take `factor` times as long."""

    replica: int
    """In order of starts, from 0; the first ones are those that serve from the beginning."""
    factor: float
    span: Span


@dataclass(frozen=True, slots=True)
class LongStarts:
    """Starts that begin in the span take `factor` times as long."""

    factor: float
    span: Span


@dataclass(frozen=True, slots=True)
class FailedStarts:
    """Starts that begin in the span fail with a chance of `ratio`, when they should be ready."""

    span: Span
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Garbled:
    """Scrapes in the span show `value` (NaN, or below zero) in place of what they measure."""

    value: float
    span: Span


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong."""

    node_losses: tuple[NodeLoss, ...] = ()
    slow_replicas: tuple[SlowReplica, ...] = ()
    long_starts: tuple[LongStarts, ...] = ()
    failed_starts: tuple[FailedStarts, ...] = ()
    garbled: tuple[Garbled, ...] = ()
    missed_scrapes: tuple[Span, ...] = ()
    missed_ratio: float = 0.0
    """Chance that a scrape of the whole fleet fails."""
    silent_ratio: float = 0.0
    """Chance that one replica does not answer a scrape; what it counted is told with the next."""

    def __post_init__(self) -> None:
        """Refuse what cannot happen."""
        ratios = [fault.ratio for fault in self.failed_starts]
        if not all(0 <= r <= 1 for r in (*ratios, self.missed_ratio, self.silent_ratio)):
            raise Refused("faults: a chance must lie in [0, 1]")
        factors = [f.factor for f in self.slow_replicas] + [f.factor for f in self.long_starts]
        for factor in factors:
            if not 0 < factor < math.inf:
                raise Refused(f"faults: a factor must be a positive number, got {factor}")


NO_FAULTS = Faults()


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything about a replay but trace, engine and policy."""

    start_up_s: float = 90.0
    """From asking for a replica until it serves."""
    scrape_s: float = 15.0
    initial: int = 1
    """Replicas that serve from the first moment, taken into the bounds."""
    min_replicas: int = 1
    max_replicas: int = 64
    routing: Routing = Routing.ROUND_ROBIN
    look_s: float = 1.0
    """How often the least-loaded router counts what is under way."""
    replicas_per_node: int = 8
    appears_s: float = 0.0
    """When the service is created; its first replicas start then, where that is after 0 s."""
    vanishes_s: float = math.inf
    """When it is deleted: what serves drains, who waits at the gateway is not served."""
    until_s: float | None = None
    """Policies are asked until then at least; None: until the last request came."""
    patience_s: float = 600.0
    """After the end, how long requests at the gateway are waited for."""
    faults: Faults = NO_FAULTS
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no replay could run under."""
        for name in ("scrape_s", "look_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise Refused(f"{name} must be a positive number, got {getattr(self, name)}")
        for name in ("start_up_s", "patience_s", "appears_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise Refused(f"{name} must be a number of 0 or more, got {getattr(self, name)}")
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise Refused(
                f"replicas from {self.min_replicas} to {self.max_replicas}: give a minimum of 0 or "
                "more and a maximum of at least that and 1"
            )
        if self.replicas_per_node < 1:
            raise Refused(f"replicas_per_node must be at least 1, got {self.replicas_per_node}")
        if not self.appears_s <= self.vanishes_s:
            raise Refused("vanishes_s must not come before appears_s")

    def bounded(self, replicas: float) -> int:
        """Take a count into the bounds."""
        return int(min(max(replicas, self.min_replicas), self.max_replicas))
