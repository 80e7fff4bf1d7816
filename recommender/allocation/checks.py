"""Refuse what makes no sense, in one line that names the field and the mend.

Called first by `allocate`, so that everything behind it may trust its values. A demand that
is merely impossible today (no such GPU, too little budget) is no mistake: it is a shortfall.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf, isfinite

from profiler.errors import Refused
from recommender.allocation.values import Demand, Effort, Node, Variant


def check(demands: Sequence[Demand], nodes: Sequence[Node]) -> None:
    """Raise `Refused` for the first mistake found."""
    _unique("service", (demand.service for demand in demands))
    _unique("node", (node.name for node in nodes))
    for demand in demands:
        _check_demand(demand)
    for node in nodes:
        _check_node(node)


def check_terms(budget_per_hour: float | None, change_cost_per_hour: float, effort: Effort) -> None:
    """Raise `Refused` for a setting that is no amount."""
    if budget_per_hour is not None:
        _amount("budget_per_hour", budget_per_hour)
    _amount("change_cost_per_hour", change_cost_per_hour)
    _amount("gap_ratio", effort.gap_ratio)
    _amount("time_limit_s", effort.time_limit_s, above=True)


def _check_demand(demand: Demand) -> None:
    at = f"service {demand.service}: "
    _amount(f"{at}rate_rps", demand.rate_rps)
    if demand.budget_per_hour is not None:
        _amount(f"{at}budget_per_hour", demand.budget_per_hour)
    if not 0 <= demand.spot_ratio <= 1:
        raise Refused(f"{at}spot_ratio must lie between 0 and 1, got {demand.spot_ratio}")
    if not demand.variants:
        raise Refused(f"{at}variants is empty: give at least one way of serving it")
    _unique(f"{at}variant", (variant.name for variant in demand.variants))
    for variant in demand.variants:
        _check_variant(f"{at}variant {variant.name}: ", variant)
    _check_counts(at, demand)


def _check_variant(at: str, variant: Variant) -> None:
    if variant.gpus < 1:
        raise Refused(f"{at}gpus must be at least 1, got {variant.gpus}")
    _amount(f"{at}rate_rps", variant.rate_rps, above=True)


def _check_counts(at: str, demand: Demand) -> None:
    """Counts alone, then pins that contradict each other."""
    for name, value, least in (
        ("min_replicas", demand.min_replicas, 0),
        ("min_nodes", demand.min_nodes, 1),
        ("min_zones", demand.min_zones, 1),
    ):
        if value < least:
            raise Refused(f"{at}{name} must be at least {least}, got {value}")
    most = inf if demand.max_replicas is None else demand.max_replicas
    needs = {
        "min_replicas": demand.min_replicas,
        "min_nodes": demand.min_nodes if demand.min_nodes > 1 else 0,
        "min_zones": demand.min_zones if demand.min_zones > 1 else 0,
    }
    for name, value in needs.items():
        if value > most:
            raise Refused(
                f"{at}{name} {value} exceeds max_replicas {demand.max_replicas}: "
                "raise max_replicas or lower the other"
            )
    if demand.survives_node_loss and demand.rate_rps > 0 and most < 2:
        raise Refused(
            f"{at}survives_node_loss needs two replicas, max_replicas is {demand.max_replicas}: "
            "raise it or give survival up"
        )


def _check_node(node: Node) -> None:
    at = f"node {node.name}: "
    if node.gpus < 1:
        raise Refused(f"{at}gpus must be at least 1, got {node.gpus}; leave empty nodes out")
    if node.link_domain < 1:
        raise Refused(f"{at}link_domain must be at least 1, got {node.link_domain}")
    _amount(f"{at}price_per_gpu_hour", node.price_per_gpu_hour)


def _amount(name: str, value: float, *, above: bool = False) -> None:
    if not isfinite(value) or value < 0 or (above and value == 0):
        wanted = "a positive number" if above else "zero or more"
        raise Refused(f"{name} must be {wanted}, got {value}")


def _unique(kind: str, names: Iterable[str]) -> None:
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise Refused(f"{kind} {name} is given {count} times: names must differ")
