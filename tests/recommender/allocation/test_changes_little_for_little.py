from dataclasses import replace

from recommender.allocation import Demand, Placement, allocate
from tests.recommender.allocation.builders import (
    EXACT,
    a_demand,
    a_node,
    changed,
    check_limits,
    nodes,
    replicas_of,
    variants,
)

CLUSTER = [
    *nodes(4),
    *(a_node(f"a{k}", gpu="A100", price_per_gpu_hour=1.5) for k in range(4)),
]


def demands() -> list[Demand]:
    both = (*variants(1, 2, 4), *variants(1, 2, 4, gpu="A100"))
    return [a_demand(f"s{k}", 11.0 + 9.0 * k, variants=both) for k in range(5)]


def test_nothing_changes_when_nothing_did() -> None:
    first = allocate(demands(), CLUSTER, effort=EXACT)
    again = allocate(demands(), CLUSTER, running=first.placements, effort=EXACT)
    assert again.placements == first.placements
    assert again.moved == 0


def test_others_stay_when_one_wants_a_little_more() -> None:
    first = allocate(demands(), CLUSTER, effort=EXACT)
    more = [replace(d, rate_rps=d.rate_rps * 1.3) if d.service == "s2" else d for d in demands()]
    after = allocate(more, CLUSTER, running=first.placements, effort=EXACT)
    check_limits(after, more, CLUSTER)
    assert set(changed(first.placements, after.placements)) == {"s2"}
    assert after.moved == changed(first.placements, after.placements).total()


def test_a_start_that_saves_less_than_it_costs_is_not_made() -> None:
    """What runs on the dear node stays there, unless moving is worth it."""
    running = [Placement("chat", "H100x1", "n0", 1)]
    cluster = [a_node(), a_node("cheap", price_per_gpu_hour=2.9)]
    demand = a_demand(rate_rps=10.0)
    stays = allocate([demand], cluster, running=running, change_cost_per_hour=0.2, effort=EXACT)
    assert stays.moved == 0
    moves = allocate([demand], cluster, running=running, change_cost_per_hour=0.05, effort=EXACT)
    assert {p.node for p in moves.placements} == {"cheap"}
    assert moves.moved == 2


def test_a_lost_node_is_no_mistake() -> None:
    running = [Placement("chat", "H100x1", "gone", 2), Placement("chat", "H100x1", "n0", 1)]
    demand = a_demand(rate_rps=30.0, variants=variants(1))
    answer = allocate([demand], nodes(2), running=running, effort=EXACT)
    assert replicas_of(answer, "chat") == 3
    assert answer.moved == 2  # started anew; nothing is left to stop


def test_services_and_variants_that_are_gone_are_stopped() -> None:
    running = [Placement("old", "H100x1", "n0", 2), Placement("chat", "H100x9", "n0", 1)]
    answer = allocate([a_demand(rate_rps=10.0)], nodes(1), running=running, effort=EXACT)
    assert {p.service for p in answer.placements} == {"chat"}
    assert answer.moved == 4


def test_a_surplus_ends_even_where_gpus_are_free() -> None:
    running = [Placement("chat", "H100x1", "n0", 5)]
    demand = a_demand(rate_rps=20.0, variants=variants(1))
    answer = allocate([demand], nodes(1, price_per_gpu_hour=0.0), running=running, effort=EXACT)
    assert replicas_of(answer, "chat") == 2


def test_more_running_than_a_node_holds_is_cut_to_what_fits() -> None:
    running = [Placement("chat", "H100x4", "n0", 5)]
    demand = a_demand(rate_rps=160.0, variants=variants(4))
    answer = allocate([demand], nodes(2), running=running, effort=EXACT)
    check_limits(answer, [demand], nodes(2))
    assert answer.shortfalls == ()
