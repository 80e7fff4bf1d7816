"""What a demand has on real nodes, and what that leaves missing; weighed as in `block`.

The one place where an answer's figures come from: they are read off placements, never off
the solver, so that an answer cannot claim what is not there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recommender.allocation.block import LOSS_WEIGHT, SEGMENTS, SPREAD_WEIGHT, idle
from recommender.allocation.values import Demand, Market, Node

TOLERANCE_RATIO = 1e-6
"""A rate is carried when this share of it, at most, is missing: HiGHS' own tolerance."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one demand has."""

    replicas: int
    carried_rps: float
    spot_rps: float
    worst_node_rps: float
    """On the node that carries most."""
    nodes: int
    zones: int
    cost_per_hour: float
    gpus: int


def holding(
    demand: Demand, replicas: Mapping[tuple[int, str], int], nodes: Mapping[str, Node]
) -> Holding:
    """Add up replicas by variant (index) and node."""
    rates: dict[str, float] = {}
    spot, cost, gpus = 0.0, 0.0, 0
    for (index, name), count in replicas.items():
        variant, node = demand.variants[index], nodes[name]
        rates[name] = rates.get(name, 0.0) + variant.rate_rps * count
        spot += variant.rate_rps * count if node.market is Market.SPOT else 0.0
        cost += variant.gpus * count * node.marginal_per_gpu_hour
        gpus += variant.gpus * count
    return Holding(
        replicas=sum(replicas.values()),
        carried_rps=sum(rates.values()),
        spot_rps=spot,
        worst_node_rps=max(rates.values(), default=0.0),
        nodes=len(rates),
        zones=len({nodes[name].zone for name in rates}),
        cost_per_hour=cost,
        gpus=gpus,
    )


def missing_rps(demand: Demand, held: Holding) -> float:
    """Not carried; not after the worst node's loss, where that is asked."""
    lost = held.worst_node_rps if demand.survives_node_loss else 0.0
    missing = demand.rate_rps - (held.carried_rps - lost)
    return missing if missing > TOLERANCE_RATIO * demand.rate_rps else 0.0


def violation(demand: Demand, held: Holding) -> float:
    """All that is missing, weighed."""
    if idle(demand):
        return 0.0
    total = SPREAD_WEIGHT * sum(
        max(0, least - has) / least
        for least, has, matters in (
            (demand.min_replicas, held.replicas, demand.min_replicas > 0),
            (demand.min_nodes, held.nodes, demand.min_nodes > 1),
            (demand.min_zones, held.zones, demand.min_zones > 1),
        )
        if matters
    )
    if demand.rate_rps == 0:
        return total
    if demand.survives_node_loss:
        total += LOSS_WEIGHT * min(1.0, missing_rps(demand, held) / demand.rate_rps)
    missing = 1.0 - held.carried_rps / demand.rate_rps
    left = missing if missing > TOLERANCE_RATIO else 0.0
    for width, weight in SEGMENTS:
        total += weight * min(max(left, 0.0), width)
        left -= width
    return total


def within_own_limits(demand: Demand, held: Holding) -> bool:
    """Whether nothing exceeds max_replicas, the spot share or the demand's budget."""
    most, budget = demand.max_replicas, demand.budget_per_hour
    return (
        (most is None or held.replicas <= most)
        and (budget is None or held.cost_per_hour <= budget + 1e-6)
        and held.spot_rps <= demand.spot_ratio * held.carried_rps * (1 + 1e-6)
    )


def total_cost(holdings: Iterable[Holding]) -> float:
    """Of all demands."""
    return sum(held.cost_per_hour for held in holdings)
