"""Traces rebuilt from counts: nothing is invented, nothing is lost, and a gap is no silence."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.replay.counted import Buckets, Counted, Floats
from controller.replay.history import rebuilt
from controller.replay.ours import ours
from controller.replay.run import replay
from profiler.errors import Refused
from profiler.trace import Lengths, Trace, gamma_renewal, poisson
from tests.controller.replay.builders import a_trace, slow_served, some_terms
from tests.controller.replay.histories import BOUNDS, LOWER, buckets, counted

NAN = float("nan")
lengths_by_interval = st.lists(
    st.lists(st.integers(1, 3000), max_size=30), min_size=1, max_size=12
).filter(any)


@given(lengths_by_interval, st.integers(0, 5))
def test_arrivals_and_sums_of_every_interval_are_kept(lengths: list[list[int]], seed: int) -> None:
    trace = rebuilt(counted(lengths), seed)
    assert len(trace) == sum(map(len, lengths))
    edges = np.searchsorted(trace.arrival_s, 15.0 * np.arange(len(lengths) + 1))
    for row, first, end in zip(lengths, edges, edges[1:], strict=False):
        assert end - first == len(row)
        assert trace.input_tokens[first:end].sum() == sum(row)
        assert trace.output_tokens[first:end].sum() == sum(row)


@given(lengths_by_interval)
def test_every_length_lies_in_the_bucket_it_was_counted_in(lengths: list[list[int]]) -> None:
    trace = rebuilt(counted(lengths))
    want, have = (
        np.histogram(tokens, np.append(LOWER + 0.5, np.inf))[0]
        for tokens in (np.concatenate(lengths), trace.input_tokens)
    )
    np.testing.assert_array_equal(have, want)


@given(lengths_by_interval, st.data())
def test_what_is_not_known_is_cut_out_of_time(lengths: list[list[int]], data: Any) -> None:
    gaps = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    came = [NAN if gap else len(row) for row, gap in zip(lengths, gaps, strict=True)]
    left = [row for row, gap in zip(lengths, gaps, strict=True) if not gap]
    history = counted(lengths, came)
    if not any(left):
        with pytest.raises(Refused, match="no request came"):
            rebuilt(history)
        return
    trace = rebuilt(history)
    assert trace.duration_s <= 15.0 * len(left)
    assert len(trace) == sum(map(len, left))
    assert trace.input_tokens.sum() == sum(map(sum, left))
    assert history.known_s == 15.0 * len(left)
    assert history.replica_s == 2 * history.known_s


def test_requests_take_the_lengths_of_those_that_end_after_who_was_there_before() -> None:
    # three long ones were under way; of the five that came, two have not ended
    history = counted([[900, 900, 900, 7], [7, 7]], [3, 2], held=np.array([3.0, 2.0]))
    trace = rebuilt(history)
    assert len(trace) == 5
    assert trace.input_tokens[3:].max() <= 1000
    assert (trace.input_tokens <= 10).sum() >= 2  # of the three that ended, all but who is shuffled


def test_a_request_that_never_ended_takes_a_length_that_was_seen() -> None:
    trace = rebuilt(counted([[], [30, 30]], [6, 0]))
    assert len(trace) == 6
    assert set(trace.input_tokens) <= {25, 30, 35}  # two of them, together of 60
    assert trace.arrival_s.max() < 15.0


def test_the_same_seed_gives_the_same_trace() -> None:
    history = counted([[5, 60, 700]] * 9)
    first, again, other = rebuilt(history, 1), rebuilt(history, 1), rebuilt(history, 2)
    np.testing.assert_array_equal(first.arrival_s, again.arrival_s)
    np.testing.assert_array_equal(first.input_tokens, again.input_tokens)
    assert not np.array_equal(first.arrival_s, other.arrival_s)


def gaps_cv(arrival_s: Floats) -> float:
    gaps = np.diff(arrival_s)
    return float(gaps.std() / gaps.mean())


def counted_arrivals(trace: Trace, interval_s: float = 15.0) -> Counted:
    counts = np.bincount((trace.arrival_s // interval_s).astype(int))
    return counted([[50] * int(n) for n in counts], interval_s=interval_s)


@pytest.mark.parametrize("cv", [1.0, 3.0])
def test_within_an_interval_arrivals_are_as_bursty_as_they_were(cv: float) -> None:
    rng = np.random.default_rng(3)
    trace = gamma_renewal(4.0, 15_000, Lengths.fixed(50, 50), rng, cv=cv)
    found = gaps_cv(rebuilt(counted_arrivals(trace)).arrival_s)
    assert found == pytest.approx(cv, rel=0.2)


def test_a_rate_that_changes_is_no_burst() -> None:
    rng = np.random.default_rng(4)
    every = poisson(12.0, 15_000, Lengths.fixed(50, 50), rng)
    share = 0.5 + 0.5 * np.sin(every.arrival_s / 40.0)  # over a few intervals
    kept = every.arrival_s[rng.random(len(every)) < share]
    trace = Trace.of(kept, [50] * kept.size, [50] * kept.size)
    found = gaps_cv(rebuilt(counted_arrivals(trace)).arrival_s)
    assert found == pytest.approx(gaps_cv(kept), rel=0.2)


@pytest.mark.parametrize("sign", [-1, 1])
def test_prompts_and_answers_go_together_as_they_did(sign: int) -> None:
    rng = np.random.default_rng(5)
    one = rng.normal(size=(600, 20))
    other = 0.7 * sign * one + 0.7 * rng.normal(size=one.shape)
    prompts, answers = (np.rint(400 + 90 * np.clip(z, -4, 4)).astype(int) for z in (one, other))
    history = counted(prompts.tolist(), answers=buckets(answers.tolist()))
    trace = rebuilt(history)
    truth = np.corrcoef(prompts.ravel(), answers.ravel())[0, 1]
    found = np.corrcoef(trace.input_tokens, trace.output_tokens)[0, 1]
    assert found == pytest.approx(truth, abs=0.25)  # wide buckets blur it


def test_chance_is_taken_for_no_correlation() -> None:
    rng = np.random.default_rng(6)
    prompts, answers = rng.integers(10, 900, (2, 300, 20))
    trace = rebuilt(counted(prompts.tolist(), answers=buckets(answers.tolist())))
    assert abs(np.corrcoef(trace.input_tokens, trace.output_tokens)[0, 1]) < 0.05


def test_a_policy_makes_of_it_what_it_makes_of_the_truth() -> None:
    which, terms = slow_served(), some_terms(initial=4, scrape_s=15.0)
    truth = a_trace(rate_rps=40, duration_s=900)
    rows = np.split(np.arange(len(truth)), np.searchsorted(truth.arrival_s, np.arange(15, 900, 15)))
    history = counted(
        [truth.input_tokens[row].tolist() for row in rows],
        answers=buckets([truth.output_tokens[row].tolist() for row in rows]),
    )
    was, would_be = (
        replay(trace, which, ours(which, terms), terms) for trace in (truth, rebuilt(history))
    )
    assert would_be.gpu_hours == pytest.approx(was.gpu_hours, rel=0.1)
    assert would_be.attained_ratio == pytest.approx(was.attained_ratio, abs=0.02)


def test_prefix_hits_are_shared_out() -> None:
    trace = rebuilt(counted([[100] * 8], hit_ratio=0.5))
    assert trace.prefix_tokens.sum() == pytest.approx(0.5 * trace.input_tokens.sum(), abs=8)


@pytest.mark.parametrize("bad", [NAN, -3.0])
def test_nonsense_in_a_histogram_does_no_harm(bad: float) -> None:
    history = counted([[50] * 8, [60] * 8])
    counts, total = history.prompts.counts.copy(), history.prompts.total.copy()
    counts[0, :], total[0] = bad, bad
    trace = rebuilt(replace(history, prompts=Buckets(LOWER, BOUNDS, counts, total)))
    assert len(trace) == 16
    assert trace.input_tokens.min() >= 1
    assert trace.input_tokens.max() <= 200


def test_no_lengths_at_all_are_refused() -> None:
    with pytest.raises(Refused, match="no prompt lengths"):
        rebuilt(counted([[], []], [4, 4]))


def test_first_tokens_are_judged_as_they_were_counted() -> None:
    known = np.array([True, True, False])
    seconds = Buckets(
        np.array([0.0, 0.5, 1.0]), np.array([0.5, 1.0, np.inf]),
        np.array([[8.0, 1.0, 1.0], [0.0, 4.0, 0.0], [0.0, 0.0, 99.0]]), np.zeros(3),
    )  # fmt: skip
    assert seconds.share_within(1.0, known) == pytest.approx(13 / 14)
    assert seconds.share_within(0.75, known) == pytest.approx((8 + 2.5) / 14)
    assert seconds.share_within(np.inf, known) == 1.0
    assert np.isnan(seconds.share_within(1.0, ~np.ones(3, bool)))
    np.testing.assert_allclose(seconds.quantile(0.5), [0.3125, 0.75, np.inf])
    assert np.isnan(replace(seconds, counts=np.zeros((1, 3))).quantile(0.5)).all()


def test_buckets_of_engines_with_other_bounds_stand_side_by_side() -> None:
    both = Buckets(
        np.array([0.0, 0.0, 1.0]), np.array([1.0, 2.0, np.inf]), np.array([[4.0, 4.0, 0.0]]),
        np.zeros(1),
    )  # fmt: skip
    assert both.share_within(1.0, np.array([True])) == pytest.approx(6 / 8)
    assert both.quantile(0.75)[0] == pytest.approx(1.0)
