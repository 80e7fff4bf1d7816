"""Allocation by trying everything; the oracle for small instances."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product

from recommender.allocation import Demand, Market, Node
from tests.recommender.allocation.builders import fits

TIE_PER_GPU_HOUR = 1e-4
Key = tuple[int, int, int]
"""Demand, variant, node."""


def ways(demands: Sequence[Demand], cluster: Sequence[Node]) -> Iterator[Counter[Key]]:
    """Every placement that fits."""
    per_node = []
    for n, node in enumerate(cluster):
        keys = [
            (d, v, n)
            for d, demand in enumerate(demands)
            for v, variant in enumerate(demand.variants)
            if variant.gpu == node.gpu and variant.gpus <= node.gpus
        ]
        sizes = [demands[d].variants[v].gpus for d, v, _ in keys]
        per_node.append(
            [
                Counter({k: c for k, c in zip(keys, counts, strict=True) if c})
                for counts in product(*(range(node.gpus // s + 1) for s in sizes))
                if sum(c * s for c, s in zip(counts, sizes, strict=True)) <= node.gpus
                and fits(
                    [s for c, s in zip(counts, sizes, strict=True) for _ in range(c)], node.domains
                )
            ]
        )
    for parts in product(*per_node):
        yield sum(parts, Counter())


def best(
    demands: Sequence[Demand],
    cluster: Sequence[Node],
    running: Counter[Key],
    budget_per_hour: float | None,
    change_cost_per_hour: float,
) -> tuple[dict[int, float], float]:
    """What each priority misses at least, highest first, and the least objective then."""
    least: tuple[tuple[float, ...], float] | None = None
    priorities = sorted({d.priority for d in demands}, reverse=True)
    for way in ways(demands, cluster):
        money = [_money(way, i, demands, cluster) for i in range(len(demands))]
        if budget_per_hour is not None and sum(money) > budget_per_hour + 1e-9:
            continue
        if not all(_allowed(way, i, d, cluster, money[i]) for i, d in enumerate(demands)):
            continue
        miss = tuple(
            round(sum(missing(way, i, d, cluster) for i, d in enumerate(demands)
                      if d.priority == p), 6)
            for p in priorities
        )  # fmt: skip
        gpus = sum(demands[d].variants[v].gpus * c for (d, v, _), c in way.items())
        started = (way - running).total()
        value = sum(money) + TIE_PER_GPU_HOUR * gpus + change_cost_per_hour * started
        if least is None or (miss, value) < least:
            least = (miss, value)
    assert least is not None, "placing nothing is a way"
    return dict(zip(priorities, least[0], strict=True)), least[1]


def _mine(way: Counter[Key], index: int) -> list[tuple[int, int, int]]:
    return [(v, n, c) for (d, v, n), c in way.items() if d == index]


def _money(
    way: Counter[Key], index: int, demands: Sequence[Demand], cluster: Sequence[Node]
) -> float:
    return sum(
        demands[index].variants[v].gpus * c * cluster[n].price_per_gpu_hour
        for v, n, c in _mine(way, index)
        if cluster[n].market is not Market.RESERVED
    )


def _allowed(
    way: Counter[Key], index: int, demand: Demand, cluster: Sequence[Node], money: float
) -> bool:
    mine = _mine(way, index)
    total = sum(demand.variants[v].rate_rps * c for v, _, c in mine)
    spot = sum(
        demand.variants[v].rate_rps * c for v, n, c in mine if cluster[n].market is Market.SPOT
    )
    replicas = sum(c for *_, c in mine)
    return (
        spot <= demand.spot_ratio * total + 1e-9
        and (demand.max_replicas is None or replicas <= demand.max_replicas)
        and (demand.budget_per_hour is None or money <= demand.budget_per_hour + 1e-9)
    )


def missing(way: Counter[Key], index: int, demand: Demand, cluster: Sequence[Node]) -> float:
    """As `block` weighs it, said again in other words."""
    if demand.rate_rps == 0 and demand.min_replicas == 0:
        return 0.0
    mine = _mine(way, index)
    by_node: Counter[int] = Counter()
    for v, n, c in mine:
        by_node[n] += demand.variants[v].rate_rps * c  # type: ignore[assignment]
    total = 0.0
    replicas, zones = sum(c for *_, c in mine), {cluster[n].zone for n in by_node}
    if demand.min_replicas:
        total += 0.1 * max(0.0, 1 - replicas / demand.min_replicas)
    if demand.min_nodes > 1:
        total += 0.1 * max(0.0, 1 - len(by_node) / demand.min_nodes)
    if demand.min_zones > 1:
        total += 0.1 * max(0.0, 1 - len(zones) / demand.min_zones)
    if demand.rate_rps == 0:
        return total
    share = sum(by_node.values()) / demand.rate_rps
    if demand.survives_node_loss:
        left = share - max(by_node.values(), default=0) / demand.rate_rps
        total += 0.25 * max(0.0, 1 - left)
    lack = max(0.0, 1 - share)
    return total + lack + max(0.0, lack - 0.5) + 2 * max(0.0, lack - 0.9)
