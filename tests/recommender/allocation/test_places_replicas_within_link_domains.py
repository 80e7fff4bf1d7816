from recommender.allocation import Placement, Variant, allocate
from tests.recommender.allocation.builders import (
    EXACT,
    a_demand,
    a_node,
    check_limits,
    nodes,
    nodes_of,
    replicas_of,
)


def sized(*gpus: int) -> tuple[Variant, ...]:
    return tuple(Variant(f"x{g}", "H100", g, 10.0 * g) for g in gpus)


def test_counts_that_fit_in_all_but_in_no_domain() -> None:
    """Eight GPUs, two replicas of three: a third would need a ninth."""
    demand = a_demand(rate_rps=90.0, variants=sized(3))
    answer = allocate([demand], nodes(1), effort=EXACT)
    check_limits(answer, [demand], nodes(1))
    assert replicas_of(answer, "chat") == 2
    assert answer.shortfalls[0].missing_rps == 30.0


def test_sizes_that_do_not_divide_each_other_are_packed() -> None:
    """Three and five fill a domain of eight; four and four do; three and four do not."""
    cluster = nodes(3)
    demands = [
        a_demand("threes", 60.0, variants=sized(3)),
        a_demand("fives", 100.0, variants=sized(5)),
        a_demand("fours", 80.0, variants=sized(4)),
    ]
    answer = allocate(demands, cluster, effort=EXACT)
    check_limits(answer, demands, cluster)
    assert answer.shortfalls == ()


def test_a_replica_does_not_cross_link_domains() -> None:
    demand = a_demand(rate_rps=120.0, variants=sized(8))
    answer = allocate([demand], nodes(1, gpus=12, link_domain=8), effort=EXACT)
    assert replicas_of(answer, "chat") == 1


def test_what_is_left_of_a_node_is_a_smaller_domain() -> None:
    demand = a_demand(rate_rps=120.0, variants=sized(4))
    cluster = nodes(1, gpus=12, link_domain=8)
    answer = allocate([demand], cluster, effort=EXACT)
    check_limits(answer, [demand], cluster)
    assert replicas_of(answer, "chat") == 3


def test_running_replicas_make_way_for_larger_ones() -> None:
    """Small ones on both nodes leave seven and seven; a large one needs eight together."""
    cluster = nodes(2)
    small = a_demand("small", 20.0, variants=sized(1))
    large = a_demand("large", 80.0, variants=sized(8))
    spread = [Placement("small", "x1", name, 1) for name in ("n0", "n1")]
    answer = allocate([small, large], cluster, running=spread, effort=EXACT)
    check_limits(answer, [small, large], cluster)
    assert answer.shortfalls == ()
    assert len(nodes_of(answer, "small")) == 1
    assert answer.moved == 3  # one small stopped and started again, the large one started


def test_a_full_cluster_is_filled_to_the_last_gpu() -> None:
    cluster = [*nodes(3), a_node("n3", gpus=4)]
    demands = [
        a_demand("eights", 160.0, variants=sized(8)),
        a_demand("fours", 80.0, variants=sized(4)),
        a_demand("ones", 40.0, variants=sized(1)),
    ]
    answer = allocate(demands, cluster, effort=EXACT)
    check_limits(answer, demands, cluster)
    assert answer.shortfalls == ()
