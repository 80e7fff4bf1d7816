import math
from dataclasses import replace
from typing import Any

import pytest

from profiler.errors import Refused
from recommender.allocation import Demand, Effort, Node, Variant, allocate
from tests.recommender.allocation.builders import a_demand, a_node, variants


def refused(demands: list[Demand], cluster: list[Node], **terms: Any) -> str:
    with pytest.raises(Refused) as caught:
        allocate(demands, cluster, **terms)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rate_rps": -1.0}, "rate_rps"),
        ({"rate_rps": math.nan}, "rate_rps"),
        ({"rate_rps": math.inf}, "rate_rps"),
        ({"variants": ()}, "variants is empty"),
        ({"variants": (Variant("a", "H100", 0, 1.0),)}, "gpus"),
        ({"variants": (Variant("a", "H100", 1, 0.0),)}, "rate_rps"),
        ({"variants": variants(1) * 2}, "variant H100x1 is given 2 times"),
        ({"min_replicas": -1}, "min_replicas"),
        ({"min_nodes": 0}, "min_nodes"),
        ({"min_zones": 0}, "min_zones"),
        ({"spot_ratio": 1.5}, "spot_ratio"),
        ({"spot_ratio": math.nan}, "spot_ratio"),
        ({"budget_per_hour": -1.0}, "budget_per_hour"),
    ],
)
def test_a_demand_that_is_no_demand(changes: dict[str, Any], field: str) -> None:
    message = refused([a_demand(**changes)], [a_node()])
    assert message.startswith("service chat: ")
    assert field in message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"min_replicas": 3}, "min_replicas 3"),
        ({"min_nodes": 3}, "min_nodes 3"),
        ({"min_zones": 3}, "min_zones 3"),
    ],
)
def test_pins_that_contradict_each_other(changes: dict[str, Any], field: str) -> None:
    message = refused([a_demand(max_replicas=2, **changes)], [a_node()])
    assert f"{field} exceeds max_replicas 2" in message


def test_survival_with_one_replica() -> None:
    message = refused([a_demand(max_replicas=1, survives_node_loss=True)], [a_node()])
    assert "survives_node_loss needs two replicas" in message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"gpus": 0}, "gpus"),
        ({"link_domain": 0}, "link_domain"),
        ({"price_per_gpu_hour": -1.0}, "price_per_gpu_hour"),
        ({"price_per_gpu_hour": math.nan}, "price_per_gpu_hour"),
    ],
)
def test_a_node_that_is_no_node(changes: dict[str, Any], field: str) -> None:
    assert refused([a_demand()], [replace(a_node(), **changes)]).startswith(f"node n0: {field}")


def test_a_name_given_twice() -> None:
    assert "service chat is given 2 times" in refused([a_demand(), a_demand()], [a_node()])
    assert "node n0 is given 2 times" in refused([a_demand()], [a_node(), a_node()])


@pytest.mark.parametrize(
    "terms",
    [
        {"budget_per_hour": -1.0},
        {"change_cost_per_hour": math.nan},
        {"effort": Effort(gap_ratio=-0.1)},
        {"effort": Effort(time_limit_s=0.0)},
    ],
)
def test_terms_that_are_no_amounts(terms: dict[str, Any]) -> None:
    assert "must be" in refused([a_demand()], [a_node()], **terms)
