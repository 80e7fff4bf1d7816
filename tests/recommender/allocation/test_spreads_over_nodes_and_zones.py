import pytest

from recommender.allocation import Node, allocate
from tests.recommender.allocation.builders import (
    EXACT,
    a_demand,
    a_node,
    carried,
    check_limits,
    check_met,
    nodes,
    nodes_of,
    rates_by_node,
    variants,
)


def zoned() -> list[Node]:
    return [a_node(f"{zone}{k}", zone=zone) for zone in "abc" for k in range(2)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_many_nodes_as_asked(count: int) -> None:
    demand = a_demand(rate_rps=10.0, min_nodes=count)
    answer = allocate([demand], nodes(5), effort=EXACT)
    assert len(nodes_of(answer, "chat")) == count


@pytest.mark.parametrize("count", [2, 3])
def test_as_many_zones_as_asked(count: int) -> None:
    demand = a_demand(rate_rps=10.0, min_zones=count)
    cluster = zoned()
    answer = allocate([demand], cluster, effort=EXACT)
    check_met(answer, demand, cluster)


def test_zones_of_pools_with_different_prices() -> None:
    cluster = [a_node("a", zone="a"), a_node("b", zone="b", price_per_gpu_hour=9.0)]
    demand = a_demand(rate_rps=20.0, variants=variants(1), min_zones=2)
    answer = allocate([demand], cluster, effort=EXACT)
    assert answer.cost_per_hour == pytest.approx(3.0 + 9.0)


@pytest.mark.parametrize("rate_rps", [10.0, 20.0, 35.0, 60.0])
def test_the_rate_survives_the_worst_node(rate_rps: float) -> None:
    demand = a_demand(rate_rps=rate_rps, survives_node_loss=True)
    answer = allocate([demand], nodes(4), effort=EXACT)
    rates = rates_by_node(answer, demand)
    assert sum(rates.values()) - max(rates.values()) >= rate_rps
    assert answer.shortfalls == ()


def test_survival_costs_one_replica_where_nodes_are_many() -> None:
    demand = a_demand(rate_rps=30.0, variants=variants(1), survives_node_loss=True)
    answer = allocate([demand], nodes(4), effort=EXACT)
    assert carried(answer, demand) == pytest.approx(40.0)


def test_survival_on_two_nodes_takes_twice_the_rate() -> None:
    demand = a_demand(rate_rps=30.0, variants=variants(1), survives_node_loss=True)
    answer = allocate([demand], nodes(2), effort=EXACT)
    assert sorted(rates_by_node(answer, demand).values()) == [30.0, 30.0]


def test_spread_finds_nodes_beside_large_replicas() -> None:
    """Two whole nodes are taken; the small demand must get the other two."""
    cluster = nodes(4)
    demands = [
        a_demand("large", 160.0, variants=variants(8)),
        a_demand("halves", 80.0, variants=variants(4)),
        a_demand("small", 20.0, variants=variants(1), min_nodes=2),
    ]
    answer = allocate(demands, cluster, effort=EXACT)
    check_limits(answer, demands, cluster)
    for demand in demands:
        check_met(answer, demand, cluster)


def test_spread_costs_a_larger_node_where_the_pool_has_no_second() -> None:
    """A whole-node replica and a spread one cannot share two nodes: a third is paid."""
    cluster = [*nodes(2), a_node("spare", price_per_gpu_hour=5.0)]
    demands = [
        a_demand("large", 80.0, variants=variants(8)),
        a_demand("small", 20.0, variants=variants(1), min_nodes=2),
    ]
    answer = allocate(demands, cluster, effort=EXACT)
    check_limits(answer, demands, cluster)
    assert answer.shortfalls == ()
    assert "spare" in {p.node for p in answer.placements}
