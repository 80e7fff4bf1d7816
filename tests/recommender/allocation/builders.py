"""Small clusters and demands; and what any answer must keep to."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from recommender.allocation import Allocation, Demand, Effort, Market, Node, Placement, Variant

EXACT = Effort(gap_ratio=0.0, time_limit_s=60.0)


def a_node(name: str = "n0", **changes: Any) -> Node:
    return replace(Node(name, "H100", 8, price_per_gpu_hour=3.0), **changes)


def nodes(count: int, **changes: Any) -> list[Node]:
    return [a_node(f"n{k}", **changes) for k in range(count)]


def variants(*gpus: int, gpu: str = "H100") -> tuple[Variant, ...]:
    """Each GPU carries 10 requests a second, large replicas a little more."""
    return tuple(Variant(f"{gpu}x{g}", gpu, g, 10.0 * g + g // 2) for g in gpus)


def a_demand(service: str = "chat", rate_rps: float = 20.0, **changes: Any) -> Demand:
    return replace(Demand(service, rate_rps, variants(1, 2, 4, 8)), **changes)


def replicas_of(answer: Allocation, service: str) -> int:
    return sum(p.replicas for p in answer.placements if p.service == service)


def nodes_of(answer: Allocation, service: str) -> set[str]:
    return {p.node for p in answer.placements if p.service == service}


def rates_by_node(answer: Allocation, demand: Demand) -> dict[str, float]:
    rate = {v.name: v.rate_rps for v in demand.variants}
    rates: dict[str, float] = defaultdict(float)
    for p in answer.placements:
        if p.service == demand.service:
            rates[p.node] += rate[p.variant] * p.replicas
    return dict(rates)


def carried(answer: Allocation, demand: Demand) -> float:
    return sum(rates_by_node(answer, demand).values())


def because(answer: Allocation, service: str) -> str:
    return next(s.because for s in answer.shortfalls if s.service == service)


def changed(before: Sequence[Placement], after: Sequence[Placement]) -> Counter[str]:
    """Replicas started and stopped, by service."""

    def count(placements: Sequence[Placement]) -> Counter[tuple[str, str, str]]:
        return Counter({(p.service, p.variant, p.node): p.replicas for p in placements})

    found: Counter[str] = Counter()
    old, new = count(before), count(after)
    for (service, *_), replicas in ((old - new) + (new - old)).items():
        found[service] += replicas
    return found


def fits(sizes: Sequence[int], domains: Sequence[int]) -> bool:
    """Whether replicas of these sizes fit into the domains, by trying."""
    if not sizes:
        return True
    first, *rest = sorted(sizes, reverse=True)
    return any(
        fits(rest, [d - first * (k == i) for k, d in enumerate(domains)])
        for i in range(len(domains))
        if domains[i] >= first and domains[i] not in domains[:i]
    )


def check_limits(answer: Allocation, demands: Sequence[Demand], cluster: Sequence[Node]) -> None:
    """What must hold whatever is missing: room, markets, budgets, and honest figures."""
    by_name = {n.name: n for n in cluster}
    of = {d.service: {v.name: v for v in d.variants} for d in demands}
    on_node: dict[str, list[int]] = defaultdict(list)
    cost = 0.0
    for p in answer.placements:
        variant, node = of[p.service][p.variant], by_name[p.node]
        assert p.replicas > 0
        assert variant.gpu == node.gpu
        on_node[p.node] += [variant.gpus] * p.replicas
        cost += variant.gpus * p.replicas * node.marginal_per_gpu_hour
    for name, sizes in on_node.items():
        assert fits(sizes, by_name[name].domains), (name, sizes)
    for demand in demands:
        rates = rates_by_node(answer, demand)
        spot = sum(r for name, r in rates.items() if by_name[name].market is Market.SPOT)
        assert spot <= demand.spot_ratio * sum(rates.values()) + 1e-6
        if demand.max_replicas is not None:
            assert replicas_of(answer, demand.service) <= demand.max_replicas
    assert abs(answer.cost_per_hour - cost) < 1e-6
    assert answer.bound_per_hour <= answer.objective_per_hour + 1e-9


def check_met(answer: Allocation, demand: Demand, cluster: Sequence[Node]) -> None:
    """The rate, also without the worst node, and spread over nodes and zones."""
    rates = rates_by_node(answer, demand)
    lost = max(rates.values(), default=0.0) if demand.survives_node_loss else 0.0
    assert sum(rates.values()) - lost >= demand.rate_rps * (1 - 2e-6)
    zones = {n.zone for n in cluster if n.name in rates}
    assert replicas_of(answer, demand.service) >= demand.min_replicas
    if demand.rate_rps or demand.min_replicas:
        assert len(rates) >= demand.min_nodes
        assert len(zones) >= demand.min_zones
