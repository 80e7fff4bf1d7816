"""Why a demand is not met: the constraint, and what would mend it.

First what it cannot get from any allocation: no such GPU, no link domain large enough, its
own limits (found by lifting them one at a time on an empty cluster). Only then what others
have taken: the budget, the GPUs.
"""

from collections.abc import Sequence
from dataclasses import replace

from recommender.allocation.audit import Holding, missing_rps, violation
from recommender.allocation.model import Model, Terms, write_model
from recommender.allocation.packing import Packing
from recommender.allocation.pools import Pool
from recommender.allocation.solver import Solved, solve
from recommender.allocation.values import Demand, Shortfall

_NOTHING = 1e-6
_RUN_S = 0.2


def explain_shortfalls(
    model: Model, packing: Packing, held: Sequence[Holding], terms: Terms
) -> tuple[Shortfall, ...]:
    """One for each demand that misses something, in the demands' order."""
    spent = sum(h.cost_per_hour for h in held)
    return tuple(
        Shortfall(
            demand.service,
            missing_rps(demand, mine),
            _hopeless(demand, model.pools)
            or _own_limit(demand, model.pools)
            or _budget(demand, model, packing, terms, spent)
            or _taken(demand, model, packing),
        )
        for demand, mine in zip(model.demands, held, strict=True)
        if violation(demand, mine) > _NOTHING
    )


def _hopeless(demand: Demand, pools: Sequence[Pool]) -> str | None:
    """No GPU of the right type, or none in a link domain that is large enough."""
    wanted = sorted({variant.gpu for variant in demand.variants})
    domains = {
        gpu: max((max(p.domains) for p in pools if p.gpu == gpu), default=0) for gpu in wanted
    }
    if not any(domains.values()):
        return f"variants: no node has {_either(wanted)}; add one, or a variant for what there is"
    if all(variant.gpus > domains[variant.gpu] for variant in demand.variants):
        least = min(variant.gpus for variant in demand.variants)
        return (
            f"variants: a replica needs {least} GPUs in one link domain and the largest has "
            f"{max(domains.values())}; add larger nodes or a smaller variant"
        )
    return None


def _own_limit(demand: Demand, pools: tuple[Pool, ...]) -> str | None:
    """What it misses with the cluster to itself, and the limit that is to blame."""
    missing = _alone(demand, pools)
    if missing <= _NOTHING:
        return None
    lifted = {name: _alone(other, pools) for name, other in _without(demand).items()}
    name = min(lifted, key=lambda name: (lifted[name], list(lifted).index(name)), default=None)
    if name is None or lifted[name] >= missing - _NOTHING:
        return (
            f"gpus: all nodes with {_either(sorted({v.gpu for v in demand.variants}))} together "
            "do not carry it; add nodes or variants"
        )
    return _mend(demand, name)


def _mend(demand: Demand, name: str) -> str:
    value = getattr(demand, name)
    says = {
        "budget_per_hour": f"budget_per_hour {demand.budget_per_hour or 0:.2f} is too small for "
        "the rate; raise it",
        "max_replicas": f"max_replicas {value} do not carry the rate; raise it or give larger "
        "variants",
        "spot_ratio": f"spot_ratio {value} leaves too few nodes that are not spot; raise it or "
        "add nodes",
        "survives_node_loss": "survives_node_loss: no other node carries the rate when the worst "
        "is lost; add nodes",
        "min_zones": f"min_zones {value}: its GPU types are in fewer zones; add nodes elsewhere "
        "or lower it",
        "min_nodes": f"min_nodes {value}: its GPU types are on fewer nodes; add nodes or lower it",
        "min_replicas": f"min_replicas {value} find no room; add nodes or lower it",
    }
    return says[name]


def _without(demand: Demand) -> dict[str, Demand]:
    """The demand with one of its limits lifted, by the limit."""
    lifted = {
        "budget_per_hour": replace(demand, budget_per_hour=None),
        "max_replicas": replace(demand, max_replicas=None),
        "spot_ratio": replace(demand, spot_ratio=1.0),
        "survives_node_loss": replace(demand, survives_node_loss=False),
        "min_zones": replace(demand, min_zones=1),
        "min_nodes": replace(demand, min_nodes=1),
        "min_replicas": replace(demand, min_replicas=0),
    }
    return {name: other for name, other in lifted.items() if other != demand}


def _alone(demand: Demand, pools: tuple[Pool, ...]) -> float:
    """The least it misses with all nodes to itself, weighed."""
    model = write_model([demand], pools, {}, Terms(None, 0.0))
    problem = replace(model.problem, cost=model.violation)
    answer = solve(problem, None, 0.0, _RUN_S, plain=True)
    return answer.objective if isinstance(answer, Solved) else 0.0


def _budget(
    demand: Demand, model: Model, packing: Packing, terms: Terms, spent: float
) -> str | None:
    """The budget for all, where nodes with room are too dear for what is left."""
    if terms.budget_per_hour is None:
        return None
    left = terms.budget_per_hour - spent
    prices = [
        variant.gpus * model.pools[pool].marginal_per_gpu_hour
        for variant in demand.variants
        for pool, bins in packing.bins.items()
        if model.pools[pool].gpu == variant.gpu and any(b.free >= variant.gpus for b in bins)
    ]
    if not prices or min(prices) <= left + 1e-9:
        return None
    return (
        f"budget_per_hour {terms.budget_per_hour:.2f}: {left:.2f} is left and the cheapest replica "
        f"with room costs {min(prices):.2f} an hour; raise it or lower other demands"
    )


def _taken(demand: Demand, model: Model, packing: Packing) -> str:
    """GPUs that others hold, or that its spread and spot share do not allow."""
    states, room = [], False
    for gpu in sorted({variant.gpu for variant in demand.variants}):
        bins = [b for p, bins in packing.bins.items() if model.pools[p].gpu == gpu for b in bins]
        total, free = sum(b.room for b in bins), sum(b.free for b in bins)
        largest = max((b.free for b in bins), default=0)
        least = min(variant.gpus for variant in demand.variants if variant.gpu == gpu)
        room |= largest >= least
        states.append(
            f"{gpu} {total - free} of {total} GPUs taken, {least} needed in one link domain "
            f"and {largest} free"
        )
    if room:
        return (
            "gpus: the room left does not suit its spread, spot_ratio or limits "
            f"({'; '.join(states)}); add nodes or loosen them"
        )
    return f"gpus: {'; '.join(states)}; add nodes or variants, or raise priority {demand.priority}"


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)
