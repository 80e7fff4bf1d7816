"""Allocation at size: 100 services on 1,000 GPUs of four types, against greedy first-fit.

    python -m benchmarks.allocate

Seeded. Rates follow from model size, memory and tensor parallel efficiency; prices are list
prices of clouds, rounded; a fifth of the services wants spread or survival, a third limits
spot. Greedies see the same demands: `first_fit` takes each service's cheapest variant a
request, largest services first; `tuned` repeats it over orders and choices and keeps the best.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np

from recommender.allocation import (
    Allocation,
    Demand,
    Market,
    Node,
    Placement,
    Variant,
    allocate,
)


@dataclass(frozen=True)
class Card:
    """A GPU type of the benchmark."""

    gpu: str
    price: float
    speed: float
    memory_gb: int
    nodes: int


CARDS = (
    Card("L40S", 1.0, 1.0, 48, 25),
    Card("A100-80G", 1.9, 1.6, 80, 40),
    Card("H100-SXM", 3.2, 3.0, 80, 40),
    Card("H200-SXM", 4.0, 3.8, 141, 20),
)
MODELS_GB = (18, 36, 70, 150, 260)
MARKETS = {Market.RESERVED: (0.4, 0.6), Market.ON_DEMAND: (0.4, 1.0), Market.SPOT: (0.2, 0.45)}
"""Share of the nodes, share of the list price."""
ZONES = ("a", "b", "c")


def make_nodes() -> list[Node]:
    """Nodes of 8 GPUs, 125 in all."""
    nodes = []
    for card in CARDS:
        for market, (share, factor) in MARKETS.items():
            for k in range(round(card.nodes * share)):
                name = f"{card.gpu}-{market}-{k}"
                zone = ZONES[k % len(ZONES)]
                nodes.append(Node(name, card.gpu, 8, zone, market, card.price * factor))
    return nodes


def make_demands(services: int, load: float, seed: int = 7) -> list[Demand]:
    """Services that want `load` times the GPUs of the usual case, more or less."""
    rng = np.random.default_rng(seed)
    demands = []
    for i in range(services):
        memory = float(rng.choice(MODELS_GB, p=[0.3, 0.25, 0.2, 0.2, 0.05]))
        variants = tuple(make_variants(memory, 200 / memory * rng.uniform(0.5, 2.0), rng))
        h100s = min(float(rng.lognormal(np.log(5.0), 0.8)), 60.0)
        best = max(v.rate_rps / v.gpus for v in variants if v.gpu == "H100-SXM")
        spread = rng.random()
        demands.append(
            Demand(
                service=f"service-{i:03d}",
                rate_rps=h100s * best * load,
                variants=variants,
                priority=int(rng.choice([0, 1, 2], p=[0.3, 0.5, 0.2])),
                spot_ratio=float(rng.choice([0.0, 0.3, 1.0])),
                min_nodes=2 if spread < 0.10 else 1,
                min_zones=2 if 0.10 <= spread < 0.15 else 1,
                survives_node_loss=0.15 <= spread < 0.20,
            )
        )
    return demands


def make_variants(memory_gb: float, rate_rps: float, rng: np.random.Generator) -> Iterator[Variant]:
    """Every tensor parallel size that leaves room for a KV cache."""
    for card, tp in product(CARDS, (1, 2, 4, 8)):
        room = 0.9 * card.memory_gb * tp
        if 1.2 * memory_gb < room:
            batch = 1 - 0.3 * memory_gb / room
            rate = rate_rps * card.speed * tp**0.93 * batch * rng.uniform(0.9, 1.1)
            yield Variant(f"{card.gpu}x{tp}", card.gpu, tp, rate)


Order = Callable[[Demand], tuple[float, ...]]
Choice = Callable[[Variant, Node, Demand], float]


def per_request(variant: Variant, node: Node, _: Demand) -> float:
    """Money for one request a second."""
    price = node.marginal_per_gpu_hour + 1e-4
    return variant.gpus * price / variant.rate_rps


def whole(variant: Variant, node: Node, demand: Demand) -> float:
    """Money for the whole service, rounding included."""
    return ceil(demand.rate_rps / variant.rate_rps) * variant.gpus * (
        node.marginal_per_gpu_hour + 1e-4
    )  # fmt: skip


def listed(variant: Variant, node: Node, _: Demand) -> float:
    """List price for one request a second: does not know that reserved is paid."""
    return variant.gpus * node.price_per_gpu_hour / variant.rate_rps


def first_fit(
    demands: Sequence[Demand], nodes: Sequence[Node], order: Order, choice: Choice
) -> tuple[float, list[float]]:
    """Cost and share carried, by demand; spread and survival are minded, spot too."""
    free = {node.name: node.gpus for node in nodes}
    cost, shares = 0.0, [0.0] * len(demands)
    for index in sorted(range(len(demands)), key=lambda i: (-demands[i].priority,
                                                            *order(demands[i]))):  # fmt: skip
        money, shares[index] = _serve(demands[index], nodes, free, choice)
        cost += money
    return cost, shares


def _serve(
    demand: Demand, nodes: Sequence[Node], free: dict[str, int], choice: Choice
) -> tuple[float, float]:
    pairs = sorted(
        ((v, n) for v in demand.variants for n in nodes if n.gpu == v.gpu),
        key=lambda pair: choice(*pair, demand),
    )
    on: Counter[str] = Counter()
    zones: set[str] = set()
    cost = carried = spot = worst = 0.0
    for variant, node in pairs:
        while free[node.name] >= variant.gpus:
            lost = worst if demand.survives_node_loss else 0.0
            if carried - lost >= demand.rate_rps and len(on) >= demand.min_nodes:
                if len(zones) >= demand.min_zones:
                    return cost, 1.0
                if node.zone in zones:
                    break
            extra = variant.rate_rps if node.market is Market.SPOT else 0.0
            if spot + extra > demand.spot_ratio * max(demand.rate_rps, carried):
                break
            wants = demand.min_nodes > len(on) or demand.survives_node_loss
            if node.name in on and (wants or demand.min_zones > len(zones)):
                break
            free[node.name] -= variant.gpus
            on[node.name] += 1
            zones.add(node.zone)
            carried, spot = carried + variant.rate_rps, spot + extra
            worst = max(worst, variant.rate_rps)
            cost += variant.gpus * node.marginal_per_gpu_hour
    return cost, min(carried / demand.rate_rps, 1.0)


def tuned(demands: Sequence[Demand], nodes: Sequence[Node]) -> tuple[float, list[float]]:
    """The best of several orders and choices: most carried first, then least money."""
    orders: tuple[Order, ...] = (
        lambda d: (-max(v.gpus for v in d.variants),),
        lambda d: (-min(v.gpus for v in d.variants), -d.rate_rps),
        lambda d: (-min(whole(v, nodes[-1], d) for v in d.variants),),
        lambda d: (min(whole(v, nodes[-1], d) for v in d.variants),),
    )
    tries = [
        first_fit(demands, nodes, order, choice)
        for order, choice in product(orders, (per_request, whole, listed))
    ]
    return min(tries, key=lambda t: (round(missing(demands, t[1]), 3), t[0]))


def missing(demands: Sequence[Demand], shares: Sequence[float]) -> float:
    """Services' worth of demand not carried, each weighed by its priority plus one."""
    return sum((1 - s) * (d.priority + 1) for d, s in zip(demands, shares, strict=True))


def shares_of(answer: Allocation, demands: Sequence[Demand]) -> list[float]:
    """Share of each demand that is carried."""
    rates = {(d.service, v.name): v.rate_rps for d in demands for v in d.variants}
    carried: Counter[str] = Counter()
    for p in answer.placements:
        carried[p.service] += rates[p.service, p.variant] * p.replicas  # type: ignore[assignment]
    return [min(carried[d.service] / d.rate_rps, 1.0) for d in demands]


def changed(before: Sequence[Placement], after: Sequence[Placement]) -> int:
    """Replicas started or stopped."""
    old, new = (
        Counter({(p.service, p.variant, p.node): p.replicas for p in placements})
        for placements in (before, after)
    )
    return (new - old).total() + (old - new).total()


def timed(call: Callable[[], Allocation]) -> tuple[Allocation, float]:
    """The answer and its wall seconds."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def main() -> None:
    """Tell all figures."""
    nodes, demands = make_nodes(), make_demands(100, 1.0)
    case = f"{len(demands)} services, {sum(n.gpus for n in nodes)} GPUs of {len(CARDS)} types"
    cold, cold_s = timed(lambda: allocate(demands, nodes))
    print(
        cold.cost_per_hour,
        cold.objective_per_hour,
        cold.bound_per_hour,
        cold.gap_ratio,
        len(cold.shortfalls),
        cold_s,
    )


if __name__ == "__main__":
    main()
