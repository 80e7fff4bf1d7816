"""Which point comes next: informative, within the budget, never twice, and in the end none."""

import pytest

from profiler.errors import Refused
from profiler.measure.profiling import Bounds, Decode, Mixed, Point, Prefill, candidates, next_point
from profiler.measure.profiling.design import point_cost_s
from tests.profiler.profiling.rig import BOUNDS, PRIOR

BEND = 0.08


def chosen(count: int, budget_s: float = 1e6) -> list[Point]:
    points: list[Point] = []
    while len(points) < count:
        choice = next_point(PRIOR, BEND, candidates(BOUNDS), set(points), budget_s)
        if choice is None:
            break
        points.append(choice.point)
    return points


def test_points_differ_and_cover_every_kind() -> None:
    points = chosen(14)
    assert len(set(points)) == len(points)
    kinds = {type(p) for p in points}
    assert kinds == {Prefill, Decode, Mixed}
    assert any(isinstance(p, Prefill) and p.cached for p in points)


def test_the_first_points_are_the_most_informative_for_their_time() -> None:
    gains = []
    measured: set[Point] = set()
    for point in chosen(8):
        choice = next_point(PRIOR, BEND, [point], measured, 1e6)
        assert choice is not None
        gains.append(choice.gain_nats)
        measured.add(point)
    assert gains[0] > gains[-1] > 0


def test_it_ends_when_nothing_teaches_enough() -> None:
    points = chosen(200)
    assert len(points) < len(candidates(BOUNDS))


def test_what_exceeds_the_budget_is_not_chosen() -> None:
    dearest = max(point_cost_s(PRIOR.cost, p) for p in candidates(BOUNDS))
    for point in chosen(10, budget_s=dearest / 4):
        assert point_cost_s(PRIOR.cost, point) <= dearest / 4
    assert next_point(PRIOR, BEND, candidates(BOUNDS), set(), 0.0) is None


def test_candidates_stay_within_what_the_engine_holds() -> None:
    for point in candidates(BOUNDS):
        if isinstance(point, Prefill):
            assert point.tokens + point.cached < BOUNDS.max_model_len
            assert point.tokens <= BOUNDS.chunk_tokens
            assert point.cached % BOUNDS.block_tokens == 0
        else:
            extra = isinstance(point, Mixed)
            assert point.sequences + extra <= BOUNDS.max_num_seqs
            length = point.context + BOUNDS.stream_tokens(point.sequences, point.context)
            assert length <= BOUNDS.max_model_len
            assert point.sequences * length <= (BOUNDS.capacity_tokens or 0)


def test_without_prefix_caching_no_point_asks_for_it() -> None:
    bounds = Bounds(2048, 16384, 16, prefix_caching=False)
    assert not any(isinstance(p, Prefill) and p.cached for p in candidates(bounds))


@pytest.mark.parametrize("longest", [64, 128, 512])
def test_small_engines_still_have_points_of_both_kinds(longest: int) -> None:
    points = candidates(Bounds(longest, 4096, 2, chunk_tokens=16))
    assert any(isinstance(p, Prefill) for p in points)
    assert any(isinstance(p, Decode) for p in points)


def test_an_engine_too_small_to_measure_is_refused() -> None:
    with pytest.raises(Refused, match="max_model_len 32"):
        Bounds(32, 4096)
    with pytest.raises(Refused, match="max_num_batched_tokens"):
        Bounds(2048, 4096, chunk_tokens=8)
