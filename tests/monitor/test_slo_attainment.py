"""Attainment is judged from increments; silence is neither success nor outage."""

from collections.abc import Mapping, Sequence

import pytest

from monitor import Attainment, EngineSignals, attainment, merge, read_signals
from profiler.slo import Slo
from tests.monitor.pages import E2E, ITL, TPOT, TTFT, vllm

SLO = Slo(ttft_s=0.1, itl_s=0.1)


def seen(histograms: Mapping[str, Sequence[float]]) -> EngineSignals:
    return read_signals(vllm(histograms).page())


QUIET = seen({TTFT: [9.0], TPOT: [9.0], ITL: [9.0], E2E: [9.0]})
BUSY = seen(
    {
        TTFT: [9.0, 0.05, 0.05, 0.05, 0.5],
        TPOT: [9.0, 0.05, 0.05, 0.5, 0.5],
        ITL: [9.0, *[0.05] * 19, 0.5],
        E2E: [9.0, 0.5, 0.5, 0.5, 0.5],
    }
)


def test_judges_each_bound_and_takes_the_least() -> None:
    got = attainment(QUIET, BUSY, SLO, window_s=15.0)
    assert got == Attainment(4, ttft_ratio=0.75, itl_ratio=0.5, window_s=15.0)
    assert got is not None
    assert got.ratio == 0.5


def test_what_is_not_bounded_is_not_judged() -> None:
    got = attainment(QUIET, BUSY, Slo(e2e_s=1.0))
    assert got is not None
    assert (got.e2e_ratio, got.ttft_ratio, got.ratio) == (1, None, 1)


def test_falls_back_to_gaps_per_token() -> None:
    older = [
        seen({TTFT: [9.0] * n, ITL: gaps}) for n, gaps in ((1, [9.0]), (3, [9.0, *[0.05] * 4]))
    ]
    got = attainment(older[0], older[1], Slo(itl_s=0.1))
    assert got == Attainment(2, itl_ratio=1.0)


def test_no_requests_judge_nothing() -> None:
    assert attainment(BUSY, BUSY, SLO) is None


def test_an_objective_without_bounds_judges_nothing() -> None:
    assert attainment(QUIET, BUSY, Slo()) is None


def test_a_restart_judges_nothing() -> None:
    assert attainment(BUSY, QUIET, SLO) is None


def test_a_restart_shows_in_any_counter() -> None:
    before = read_signals(vllm({TTFT: [0.05]}).counter("vllm:prompt_tokens", 50).page())
    after = read_signals(vllm({TTFT: [0.05] * 9}).counter("vllm:prompt_tokens", 5).page())
    assert attainment(before, after, Slo(ttft_s=0.1)) is None


def test_a_part_of_an_objective_is_not_reported_as_the_whole() -> None:
    assert attainment(seen({TTFT: [9.0]}), seen({TTFT: [9.0, 0.05]}), SLO) is None


def test_single_token_answers_have_no_gap_to_judge() -> None:
    before = seen({TTFT: [9.0], TPOT: [9.0]})
    got = attainment(before, seen({TTFT: [9.0, 0.05], TPOT: [9.0]}), SLO)
    assert got == Attainment(1, ttft_ratio=1.0)


def test_merging_weighs_by_requests() -> None:
    one, two = Attainment(30, ttft_ratio=1.0, window_s=10), Attainment(10, ttft_ratio=0.6)
    merged = merge([one, None, two])
    assert merged is not None
    assert (merged.requests, merged.window_s) == (40, 10)
    assert merged.ttft_ratio == pytest.approx(0.9)


def test_merging_nothing_is_nothing() -> None:
    assert merge([]) is None
    assert merge([None]) is None


def test_a_share_unknown_to_one_replica_is_taken_from_the_others() -> None:
    merged = merge([Attainment(1, ttft_ratio=1.0), Attainment(3, ttft_ratio=0.5, itl_ratio=0.7)])
    assert merged is not None
    assert merged.ttft_ratio == pytest.approx(0.625)
    assert merged.itl_ratio == pytest.approx(0.7)


@pytest.mark.parametrize(("requests", "share"), [(0, 1.0), (5, None)])
def test_an_attainment_of_nothing_cannot_be_made(requests: float, share: float | None) -> None:
    with pytest.raises(ValueError, match="a request and a share"):
        Attainment(requests, ttft_ratio=share)
