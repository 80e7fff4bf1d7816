"""What allocation is asked and what it answers; frozen, in GPUs, requests a second and money.

Money is one currency throughout, per hour. Rates are requests a second within the SLO: how
they come about is `recommender.capacity`'s business.
"""

from dataclasses import dataclass
from enum import StrEnum


class Market(StrEnum):
    """How a node's GPUs are paid for."""

    ON_DEMAND = "on-demand"
    RESERVED = "reserved"
    """Paid whether used or not: using one more costs nothing, so reserved GPUs fill first."""
    SPOT = "spot"
    """Cheap, and may be taken away at short notice."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of serving a service; what one replica needs and carries."""

    name: str
    gpu: str
    gpus: int
    """All in one link domain of one node."""
    rate_rps: float
    """What one replica carries within the SLO."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one service must have."""

    service: str
    rate_rps: float
    variants: tuple[Variant, ...]
    priority: int = 0
    """Higher is more important: served in full before a lower one gets anything it wants."""
    min_replicas: int = 1
    max_replicas: int | None = None
    min_nodes: int = 1
    """Different nodes that must carry it."""
    min_zones: int = 1
    """Different zones that must carry it."""
    survives_node_loss: bool = False
    """The rate must still be carried with the node that carries most of it lost."""
    spot_ratio: float = 1.0
    """At most this share of the carried rate on spot nodes, 0–1."""
    budget_per_hour: float | None = None
    """For on-demand and spot GPUs; reserved ones are paid anyway."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine with GPUs of one type."""

    name: str
    gpu: str
    gpus: int
    zone: str = ""
    market: Market = Market.ON_DEMAND
    price_per_gpu_hour: float = 0.0
    link_domain: int = 8
    """GPUs that share fast links; no replica crosses two domains."""

    @property
    def marginal_per_gpu_hour(self) -> float:
        """What using one more GPU costs: nothing where it is reserved."""
        return 0.0 if self.market is Market.RESERVED else self.price_per_gpu_hour

    @property
    def domains(self) -> tuple[int, ...]:
        """GPUs in each link domain of this node; the last may be smaller."""
        whole, rest = divmod(self.gpus, self.link_domain)
        return (self.link_domain,) * whole + ((rest,) if rest else ())


@dataclass(frozen=True, slots=True)
class Placement:
    """Replicas of one variant of one service on one node."""

    service: str
    variant: str
    node: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A demand that is not met in full."""

    service: str
    missing_rps: float
    """Not carried, or not carried once the worst node is lost where that is asked; 0 when
    only replicas, nodes or zones are missing."""
    because: str
    """The constraint that binds and what would mend it."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A constraint that costs money, or service where not all are met."""

    what: str
    says: str


@dataclass(frozen=True, slots=True)
class Effort:
    """How far the search goes; it ends at whichever comes first."""

    gap_ratio: float = 0.01
    """Good enough: this close to the bound that HiGHS proves."""
    time_limit_s: float = 2.0
    """HiGHS' own time over all its runs: the work around them comes on top, about as much
    where all can be met, and a second or two a distinct priority of a hundred services where
    not. An answer cut off by it may differ between runs."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Who runs where, what it costs, what is missing and what binds."""

    placements: tuple[Placement, ...]
    cost_per_hour: float
    """For the on-demand and spot GPUs in use."""
    reserved_cost_per_hour: float
    """For all reserved GPUs, used or not."""
    objective_per_hour: float
    """What was minimised: the cost, the started replicas, and a tie-break per GPU."""
    bound_per_hour: float
    """Proved by HiGHS: no allocation that leaves as little missing has a lower objective."""
    gap_ratio: float
    """Distance of objective and bound, of the objective."""
    violation_gap_ratio: float
    """How far, at most, what is missing is from the least possible, to a thousandth of a
    demand; 0 when nothing is missing."""
    shortfalls: tuple[Shortfall, ...]
    binding: tuple[Binding, ...]
    moved: int
    """Replicas started and stopped, compared with what was running."""
