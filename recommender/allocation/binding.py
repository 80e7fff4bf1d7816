"""Which constraints cost money, or service where not all are met, and how much.

Read off the dual values of the relaxation of the last problem solved (fractions of replicas
allowed): for money, the problem that minimised cost; for service, that of the highest
priority which cannot be met in full. A dual is the worth of the next unit, not of ten.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recommender.allocation.audit import Holding
from recommender.allocation.model import Model
from recommender.allocation.packing import Packing
from recommender.allocation.solver import Problem, relax
from recommender.allocation.stages import Plan
from recommender.allocation.values import Binding, Demand

_WORTH = 0.005
"""Not told below this, an hour or in weighed shares: half a cent."""

_UPPER = ("max_replicas", "budget_per_hour", "spot_ratio")
"""A demand's rows that hold it down; all others hold it up."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What one unit more of something would do."""

    per: float
    """By how much the objective would fall."""
    short: bool
    """Whether the objective is what is missing rather than money."""

    def __str__(self) -> str:
        if self.short:
            return f"would lessen what is missing by {self.per:.2f} of a demand"
        return f"would save {self.per:.2f} an hour"


def explain_binding(
    model: Model, plan: Plan, packing: Packing, held: Sequence[Holding]
) -> tuple[Binding, ...]:
    """Constraints by worth, service before money."""
    found: list[tuple[float, Binding]] = []
    for problem, short in ((plan.short, True), (plan.priced, False)):
        if problem is not None:
            some = list(_of(model, problem, packing, held, short))
            found += sorted(some, key=lambda pair: -pair[0])
    told: dict[str, Binding] = {}
    for _, binding in found:
        told.setdefault(binding.what, binding)
    return tuple(told.values())


def _of(
    model: Model, problem: Problem, packing: Packing, held: Sequence[Holding], short: bool
) -> Iterator[tuple[float, Binding]]:
    relaxed = relax(_by_rows(model, problem))
    if relaxed is None:
        return
    pools: dict[tuple[str, ...], tuple[float, list[int]]] = defaultdict(lambda: (0.0, []))
    for row, label in enumerate(model.labels):
        worth = -float(relaxed.row_dual[row])
        if label.kind == "gpus":
            gain, inside = pools[_name(model, label.of)]
            pools[_name(model, label.of)] = (max(gain, worth / label.unit), [*inside, label.of])
        elif label.kind == "budget" and worth > _WORTH:
            spent = sum(h.cost_per_hour for h in held)
            says = f"budget_per_hour: {spent:.2f} of {problem.row_upper[row]:.2f} is spent; "
            yield worth, Binding("budget", f"{says}one more {Gain(worth, short)}")
    for name, (worth, inside) in pools.items():
        if worth > _WORTH:
            yield worth, _pool(model, packing, name, set(inside), Gain(worth, short))
    for index, block in enumerate(model.blocks):
        duals: dict[str, float] = {}
        for row in range(block.first_row, block.last_row) if block.options else ():
            kind, dual = model.labels[row].kind, float(relaxed.row_dual[row])
            if problem.row_lower[row] > 0 or kind in _UPPER:
                duals[kind] = abs(dual)
        yield from _own(block.demand, duals, held[index], short)


def _by_rows(model: Model, problem: Problem) -> Problem:
    """The same without bounds of single columns that a pool's row says as well."""
    upper = problem.upper.copy()
    for block in model.blocks:
        mine = upper[block.first_column : block.first_column + len(block.options)]
        mine[mine > 0] = np.inf
    return replace(problem, upper=upper)


def _own(
    demand: Demand, duals: dict[str, float], held: Holding, short: bool
) -> Iterator[tuple[float, Binding]]:
    """A demand's own limits; spread that costs nothing is not told."""
    rate = max(demand.rate_rps, 1e-9)
    worths = {
        "max_replicas": (1.0, f"max_replicas {demand.max_replicas}", "one more"),
        "budget_per_hour": (1.0, f"budget_per_hour {demand.budget_per_hour}", "one more"),
        "spot_ratio": (
            0.01 * held.carried_rps / rate, f"spot_ratio {demand.spot_ratio:g}", "0.01 more",
        ),
        "min_replicas": (1.0, f"min_replicas {demand.min_replicas}", "one less"),
        "min_nodes": (1.0, f"min_nodes {demand.min_nodes}", "one less"),
        "min_zones": (1.0, f"min_zones {demand.min_zones}", "one less"),
        "survives_node_loss": (
            held.worst_node_rps / rate, "survives_node_loss", "doing without",
        ),
    }  # fmt: skip
    for kind, (unit, field, change) in worths.items():
        worth = duals.get(kind, 0.0) * unit
        asked = kind != "min_nodes" or demand.min_nodes > 1  # survival asks for two as well
        if worth > _WORTH and asked:
            what = f"{demand.service} {kind}"
            yield worth, Binding(what, f"{demand.service}: {field}; {change} {Gain(worth, short)}")


def _name(model: Model, pool: int) -> tuple[str, ...]:
    first = model.pools[pool].nodes[0]
    return (first.gpu, str(first.market), f"{first.price_per_gpu_hour:.2f}")


def _pool(
    model: Model, packing: Packing, name: tuple[str, ...], inside: set[int], gain: Gain
) -> Binding:
    total = sum(model.pools[p].gpus for p in inside)
    taken = total - sum(bin_.free for p in inside for bin_ in packing.bins[p])
    gpu, market, price = name
    count = f"all {total}" if taken == total else f"{taken} of {total}"
    says = f"{gpu}: {count} {market} GPUs at {price} are taken; one more {gain}"
    return Binding(f"{gpu} {market} at {price}", says)
