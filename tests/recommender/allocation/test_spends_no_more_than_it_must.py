import pytest

from recommender.allocation import Market, allocate
from tests.recommender.allocation.builders import (
    EXACT,
    a_demand,
    a_node,
    check_limits,
    nodes,
    nodes_of,
    variants,
)


def test_reserved_gpus_fill_first_then_spot_then_on_demand() -> None:
    cluster = [
        a_node("dear"),
        a_node("spot", market=Market.SPOT, price_per_gpu_hour=1.0, gpus=2),
        a_node("paid", market=Market.RESERVED, gpus=2),
    ]
    for rate, wanted in (
        (20.0, {"paid"}),
        (40.0, {"paid", "spot"}),
        (50.0, {"paid", "spot", "dear"}),
    ):
        answer = allocate([a_demand(rate_rps=rate, variants=variants(1))], cluster, effort=EXACT)
        assert nodes_of(answer, "chat") == wanted


def test_free_gpus_are_not_wasted() -> None:
    demand = a_demand(rate_rps=20.0, variants=variants(2, 8))
    answer = allocate([demand], nodes(2, price_per_gpu_hour=0.0), effort=EXACT)
    assert [p.variant for p in answer.placements] == ["H100x2"]
    assert answer.cost_per_hour == 0.0


def test_a_spot_share_is_kept() -> None:
    cluster = [a_node("spot", market=Market.SPOT, price_per_gpu_hour=1.0), a_node("dear")]
    demand = a_demand(rate_rps=40.0, variants=variants(1), spot_ratio=0.5)
    answer = allocate([demand], cluster, effort=EXACT)
    check_limits(answer, [demand], cluster)
    assert answer.cost_per_hour == pytest.approx(2 * 1.0 + 2 * 3.0)


def test_says_what_one_more_gpu_would_save() -> None:
    cluster = [a_node("spot", market=Market.SPOT, price_per_gpu_hour=1.0, gpus=2), a_node("dear")]
    answer = allocate([a_demand(rate_rps=40.0, variants=variants(1))], cluster, effort=EXACT)
    says = next(b.says for b in answer.binding if b.what.startswith("H100 spot"))
    assert says == "H100: all 2 spot GPUs at 1.00 are taken; one more would save 2.00 an hour"


def test_the_bound_meets_the_objective_when_solved_to_the_end() -> None:
    answer = allocate([a_demand(rate_rps=55.0)], nodes(2), effort=EXACT)
    assert answer.gap_ratio == pytest.approx(0.0, abs=1e-6)
    assert answer.objective_per_hour >= answer.cost_per_hour


def test_the_same_question_has_the_same_answer() -> None:
    demands = [a_demand(f"s{k}", 13.0 + 7 * k) for k in range(4)]
    assert allocate(demands, nodes(3)) == allocate(demands, nodes(3))
