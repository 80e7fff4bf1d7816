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
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil

import numpy as np

from benchmarks.figure import tell
from recommender.allocation import (
    Allocation,
    Demand,
    Effort,
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
    turns = sorted(range(len(demands)), key=lambda i: (-demands[i].priority, *order(demands[i])))
    for index in turns:
        money, shares[index] = _serve(demands[index], nodes, free, choice)
        cost += money
    return cost, shares


def _serve(
    demand: Demand, nodes: Sequence[Node], free: dict[str, int], choice: Choice
) -> tuple[float, float]:
    """Place one demand replica by replica, cheapest pair of variant and node first."""
    pairs = sorted(
        ((v, n) for v in demand.variants for n in nodes if n.gpu == v.gpu),
        key=lambda pair: choice(pair[0], pair[1], demand),
    )
    got = Got(demand)
    for variant, node in pairs:
        while free[node.name] >= variant.gpus and not got.enough and got.may(variant, node):
            free[node.name] -= variant.gpus
            got.add(variant, node)
    return got.cost, min(got.carried / demand.rate_rps, 1.0)


@dataclass
class Got:
    """What the greedy has given one demand."""

    demand: Demand
    nodes: set[str] = field(default_factory=set)
    zones: set[str] = field(default_factory=set)
    cost: float = 0.0
    carried: float = 0.0
    spot: float = 0.0
    worst: float = 0.0

    @property
    def enough(self) -> bool:
        """Rate, nodes and zones."""
        lost = self.worst if self.demand.survives_node_loss else 0.0
        spread = len(self.nodes) >= self.demand.min_nodes
        return (
            self.carried - lost >= self.demand.rate_rps
            and spread
            and len(self.zones) >= self.demand.min_zones
        )

    def may(self, variant: Variant, node: Node) -> bool:
        """Within the spot share of the rate; a new node where spread is still wanted."""
        demand = self.demand
        extra = variant.rate_rps if node.market is Market.SPOT else 0.0
        if self.spot + extra > demand.spot_ratio * max(demand.rate_rps, self.carried):
            return False
        carries = self.carried >= demand.rate_rps
        if carries and len(self.zones) < demand.min_zones and node.zone in self.zones:
            return False
        spread = demand.survives_node_loss or len(self.nodes) < demand.min_nodes
        return not (node.name in self.nodes and (spread or carries))

    def add(self, variant: Variant, node: Node) -> None:
        """One replica."""
        self.nodes.add(node.name)
        self.zones.add(node.zone)
        self.cost += variant.gpus * node.marginal_per_gpu_hour
        self.carried += variant.rate_rps
        self.spot += variant.rate_rps if node.market is Market.SPOT else 0.0
        self.worst = max(self.worst, variant.rate_rps)


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
    carried = dict.fromkeys((d.service for d in demands), 0.0)
    for p in answer.placements:
        carried[p.service] += rates[p.service, p.variant] * p.replicas
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


def tell_usual(demands: list[Demand], nodes: list[Node], case: str) -> Allocation:
    """Everything can be met: time, proof, and cost against greedy."""
    answer, cold_s = timed(lambda: allocate(demands, nodes))
    tell(case, "cold: wall time", cold_s, "s", 2.0, "lower")
    tell(case, "cold: gap to the bound proved", answer.gap_ratio, "ratio", 0.01, "lower")
    tell(case, "demands not met", len(answer.shortfalls), "services", 0, "lower")
    bound = round(answer.bound_per_hour, 3)
    tell(
        case, "cost and starts, to the bound", answer.objective_per_hour, "per hour", bound, "lower"
    )
    tell(case, "GPUs used", used_gpus(answer, demands), "GPUs", 1000, "lower")
    plain = first_fit(demands, nodes, lambda d: (-d.rate_rps,), per_request)
    for name, (cost, shares) in (("first-fit", plain), ("tuned greedy", tuned(demands, nodes))):
        tell(case, f"{name}: cost over ours", cost / answer.cost_per_hour, "×", 1.0, "higher")
        unmet = sum(s < 1 - 1e-6 for s in shares)
        tell(case, f"{name}: demands not met", unmet, "services", 0, "higher")
    return answer


def used_gpus(answer: Allocation, demands: Sequence[Demand]) -> int:
    """GPUs of all replicas."""
    gpus = {(d.service, v.name): v.gpus for d in demands for v in d.variants}
    return sum(gpus[p.service, p.variant] * p.replicas for p in answer.placements)


def tell_tick(demands: list[Demand], nodes: list[Node], before: Allocation, case: str) -> None:
    """Five services want 5 % more; from what runs, and from nothing."""
    rng = np.random.default_rng(3)
    raised = {demands[i].service for i in rng.choice(len(demands), 5, replace=False)}
    after = [replace(d, rate_rps=1.05 * d.rate_rps) if d.service in raised else d for d in demands]
    warm, warm_s = timed(lambda: allocate(after, nodes, running=before.placements))
    cold, _ = timed(lambda: allocate(after, nodes))
    case = f"{case}; 5 want 5 % more"
    tell(case, "warm: wall time", warm_s, "s", 2.0, "lower")
    tell(case, "warm: gap to the bound proved", warm.gap_ratio, "ratio", 0.02, "lower")
    tell(case, "warm: replicas started or stopped", warm.moved, "replicas", 10, "lower")
    fine = Effort(gap_ratio=0.01)
    exact, exact_s = timed(lambda: allocate(after, nodes, running=before.placements, effort=fine))
    tell(case, "warm, to 1 %: wall time", exact_s, "s", 2.0, "lower")
    tell(case, "warm, to 1 %: replicas started or stopped", exact.moved, "replicas", 10, "lower")
    moved = changed(before.placements, cold.placements)
    tell(case, "cold: replicas started or stopped", moved, "replicas", 10, "lower")


def tell_shortage(nodes: list[Node]) -> None:
    """Demand beyond the cluster: what is missing against greedy, by priority."""
    demands = make_demands(100, 1.3)
    answer, wall_s = timed(lambda: allocate(demands, nodes))
    case = f"{len(demands)} services that want 130 % of the usual case"
    tell(case, "wall time", wall_s, "s", 2.0, "lower")
    rivals = {
        "ours": shares_of(answer, demands),
        "first-fit": first_fit(demands, nodes, lambda d: (-d.rate_rps,), per_request)[1],
        "tuned greedy": tuned(demands, nodes)[1],
    }
    for priority, (name, shares) in product((2, 1, 0), rivals.items()):
        mine = [s for s, d in zip(shares, demands, strict=True) if d.priority == priority]
        label = f"{name}: missing of {len(mine)} services, priority {priority}"
        tell(case, label, sum(1 - s for s in mine), "services", 0, "lower")
        tell(case, f"{name}: least share carried, priority {priority}", min(mine), "ratio", 1,
             "higher")  # fmt: skip
    for name, shares in rivals.items():
        served = sum(s > 1 - 1e-6 for s in shares)
        tell(case, f"{name}: services in full", served, "services", 100, "higher")


def tell_size(times: int) -> None:
    """Beyond the goal: so many times the services and the nodes, a tenth of them free."""
    nodes = [replace(n, name=f"{n.name}-{k}") for k in range(times) for n in make_nodes()]
    demands = make_demands(100 * times, 0.9)
    answer, wall_s = timed(lambda: allocate(demands, nodes))
    case = f"{len(demands)} services, {sum(n.gpus for n in nodes)} GPUs"
    tell(case, "cold: wall time", wall_s, "s", 20.0, "lower")
    tell(case, "cold: gap to the bound proved", answer.gap_ratio, "ratio", 0.01, "lower")
    tell(case, "demands not met", len(answer.shortfalls), "services", 0, "lower")


def main() -> None:
    """Tell all figures."""
    nodes = make_nodes()
    size = f"100 services, {sum(n.gpus for n in nodes)} GPUs of {len(CARDS)} types"
    for name, load in (("full", 1.0), ("roomy", 0.8)):
        demands, case = make_demands(100, load), f"{size}, {name}"
        tell_tick(demands, nodes, tell_usual(demands, nodes, case), case)
    tell_shortage(nodes)
    tell_size(10)


if __name__ == "__main__":
    main()
