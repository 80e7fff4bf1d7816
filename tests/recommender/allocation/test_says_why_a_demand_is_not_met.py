import pytest

from recommender.allocation import Demand, Market, Node, allocate
from tests.recommender.allocation.builders import (
    EXACT,
    a_demand,
    a_node,
    because,
    carried,
    check_limits,
    nodes,
    replicas_of,
    variants,
)


@pytest.mark.parametrize(
    ("demand", "cluster", "says"),
    [
        (a_demand(variants=variants(1, gpu="B200")), nodes(1), "no node has B200"),
        (a_demand(variants=variants(8)), nodes(2, gpus=4), "needs 8 GPUs in one link domain"),
        (a_demand(variants=variants(8)), nodes(1, link_domain=4), "needs 8 GPUs"),
        (a_demand(rate_rps=50.0, variants=variants(1), max_replicas=3), nodes(1), "max_replicas 3"),
        (a_demand(rate_rps=50.0, budget_per_hour=9.0), nodes(1), "budget_per_hour 9.00"),
        (a_demand(spot_ratio=0.5), nodes(1, market=Market.SPOT), "spot_ratio 0.5"),
        (a_demand(survives_node_loss=True), nodes(1), "survives_node_loss"),
        (a_demand(min_nodes=2, min_replicas=2), nodes(1), "min_nodes 2"),
        (a_demand(min_zones=2), nodes(3, zone="a"), "min_zones 2"),
        (a_demand(rate_rps=500.0), nodes(2), "do not carry it; add nodes"),
    ],
)  # fmt: skip
def test_its_own_limit_or_the_cluster(demand: Demand, cluster: list[Node], says: str) -> None:
    answer = allocate([demand], cluster, effort=EXACT)
    check_limits(answer, [demand], cluster)
    assert says in because(answer, "chat")


def test_what_the_limits_allow_is_still_served() -> None:
    demand = a_demand(rate_rps=50.0, variants=variants(1), max_replicas=3)
    answer = allocate([demand], nodes(1), effort=EXACT)
    assert carried(answer, demand) == pytest.approx(30.0)
    assert answer.shortfalls[0].missing_rps == pytest.approx(20.0)


def test_what_is_missing_after_the_worst_node_is_counted() -> None:
    demand = a_demand(rate_rps=20.0, survives_node_loss=True)
    answer = allocate([demand], nodes(1), effort=EXACT)
    assert carried(answer, demand) >= 20.0
    assert answer.shortfalls[0].missing_rps == pytest.approx(20.0)


def test_gpus_that_more_important_demands_hold() -> None:
    high, low = a_demand("high", 80.0, priority=1), a_demand("low", 40.0)
    answer = allocate([low, high], nodes(1), effort=EXACT)
    assert [s.service for s in answer.shortfalls] == ["low"]
    assert carried(answer, high) >= 80.0
    assert "H100 8 of 8 GPUs taken" in because(answer, "low")
    assert "priority 0" in because(answer, "low")


def test_a_budget_that_is_spent() -> None:
    demands = [a_demand("a", 40.0), a_demand("b", 40.0)]
    answer = allocate(demands, nodes(2), budget_per_hour=15.0, effort=EXACT)
    assert answer.cost_per_hour <= 15.0
    assert all("budget_per_hour 15.00" in s.because for s in answer.shortfalls)
    assert any(b.what == "budget" for b in answer.binding)


def test_a_budget_of_nothing_leaves_reserved_gpus() -> None:
    cluster = [a_node("paid", market=Market.RESERVED, gpus=2), a_node("free")]
    demand = a_demand(rate_rps=40.0)
    answer = allocate([demand], cluster, budget_per_hour=0.0, effort=EXACT)
    assert {p.node for p in answer.placements} == {"paid"}
    assert answer.cost_per_hour == 0.0
    assert answer.reserved_cost_per_hour == pytest.approx(6.0)


def test_equals_share_a_shortage() -> None:
    demands = [a_demand("a", 80.0, variants=variants(1)), a_demand("b", 80.0, variants=variants(1))]
    answer = allocate(demands, nodes(1), effort=EXACT)
    assert carried(answer, demands[0]) == carried(answer, demands[1]) == pytest.approx(40.0)


def test_a_higher_priority_is_served_whatever_it_costs_the_lower() -> None:
    big = a_demand("big", 80.0, variants=variants(8), priority=1)
    small = [a_demand(f"small{k}", 10.0) for k in range(8)]
    answer = allocate([*small, big], nodes(1), effort=EXACT)
    assert replicas_of(answer, "big") == 1
    assert len(answer.shortfalls) == 8


def test_no_nodes_and_no_demands() -> None:
    assert allocate([], nodes(1)).placements == ()
    assert allocate([], []).binding == ()
    answer = allocate([a_demand()], [])
    assert answer.placements == ()
    assert answer.shortfalls[0].missing_rps == pytest.approx(20.0)
