"""Workloads from traces and hints, and back into traces of any rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.errors import Refused
from profiler.trace import Lengths, Trace, gamma_renewal
from recommender import Workload, workload_from_hints, workload_from_trace
from tests.recommender.builders import a_workload


def test_the_same_seed_gives_the_same_requests() -> None:
    first, second = a_workload().trace(200, seed=7), a_workload().trace(200, seed=7)
    assert np.array_equal(first.arrival_s, second.arrival_s)
    assert np.array_equal(first.input_tokens, second.input_tokens)
    assert not np.array_equal(first.arrival_s, a_workload().trace(200, seed=8).arrival_s)


@given(st.floats(0.01, 1e3), st.floats(0.01, 1e3))
def test_another_rate_gives_the_same_requests_scaled_in_time(one: float, other: float) -> None:
    first, second = a_workload().at_rate(one).trace(50), a_workload().at_rate(other).trace(50)
    assert np.array_equal(first.input_tokens, second.input_tokens)
    assert np.array_equal(first.output_tokens, second.output_tokens)
    assert np.allclose(first.arrival_s * one, second.arrival_s * other, rtol=1e-9)


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_a_trace_has_the_rate_and_the_burstiness_asked_for(cv: float) -> None:
    gaps = np.diff(a_workload(rate_rps=5.0, cv=cv).trace(20_000).arrival_s)
    assert 1 / gaps.mean() == pytest.approx(5.0, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


@pytest.mark.parametrize(("prompt", "answer"), [(1, 1), (7, 3), (512, 128), (30_000, 2_000)])
def test_lengths_are_spread_about_their_means(prompt: int, answer: int) -> None:
    workload = a_workload(mean_input_tokens=prompt, mean_output_tokens=answer)
    assert workload.mean_input_tokens == pytest.approx(prompt, rel=0.1)
    assert workload.mean_output_tokens == pytest.approx(answer, rel=0.1)
    assert workload.input_tokens.min() >= 1
    assert workload.output_tokens.min() >= 1
    assert workload.input_tokens.max() <= 4.2 * prompt + 1


def test_hints_give_the_same_lengths_each_time() -> None:
    assert np.array_equal(a_workload().input_tokens, a_workload().input_tokens)


def test_prompt_and_answer_lengths_know_nothing_of_each_other() -> None:
    workload = a_workload(mean_input_tokens=500, mean_output_tokens=200)
    assert abs(np.corrcoef(workload.input_tokens, workload.output_tokens)[0, 1]) < 0.1


def test_a_workload_reads_its_figures_off_a_trace() -> None:
    rng = np.random.default_rng(3)
    trace = gamma_renewal(4.0, 2000.0, Lengths.fixed(100, 20), rng, cv=2.0)
    workload = workload_from_trace(trace)
    assert workload.rate_rps == pytest.approx(4.0, rel=0.15)
    assert workload.cv == pytest.approx(2.0, rel=0.15)
    assert (workload.mean_input_tokens, workload.longest_tokens) == (100, 120)


def test_a_clockwork_trace_keeps_a_little_chance() -> None:
    trace = Trace.of(np.arange(10.0), np.full(10, 5), np.zeros(10))
    workload = workload_from_trace(trace)
    assert (workload.rate_rps, workload.cv) == (1.0, 0.1)
    assert workload.mean_output_tokens == 1  # an answer that was not recorded


@pytest.mark.parametrize("arrivals", [[], [0.0], [0.0, 0.0]])
def test_a_trace_without_a_rate_is_refused(arrivals: list[float]) -> None:
    ones = np.ones(len(arrivals))
    with pytest.raises(Refused, match="at least two requests at different times"):
        workload_from_trace(Trace.of(arrivals, ones, ones))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("place", range(4))
def test_hints_that_are_no_positive_number_are_refused_by_name(place: int, bad: float) -> None:
    hints = [1.0, 100.0, 20.0, 1.0]
    hints[place] = bad
    name = ("rate", "input tokens", "output tokens", "cv")[place]
    with pytest.raises(Refused, match=f"workload: {name} must be a positive number, got"):
        workload_from_hints(*hints)


def test_a_share_of_requests_that_go_round_is_calmer() -> None:
    workload = a_workload(cv=2.0)
    assert workload.shared(4).cv == pytest.approx(1.0)
    assert workload.shared(1) is workload
    gaps = np.diff(workload.at_rate(4.0).trace(40_000).rank(0, 4).arrival_s)
    drawn = np.diff(workload.shared(4).at_rate(1.0).trace(10_000).arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(drawn.std() / drawn.mean(), rel=0.1)


def test_a_recording_is_shared_out_as_it_came(recorded: Workload) -> None:
    whole = recorded.recorded
    assert whole is not None
    part = recorded.shared(2).recorded
    assert part is not None
    assert np.array_equal(part.input_tokens, whole.input_tokens[::2])
    # at half the rate the requests come when they came: bursts are no longer for being shared
    assert part.compressed(0.5).arrival_s == pytest.approx(whole.arrival_s[::2])
    assert recorded.shared(500).recorded is None  # too few are left: drawn instead


def test_fewer_requests_come_from_all_over_a_recording(recorded: Workload) -> None:
    whole = recorded.recorded
    assert whole is not None
    some = recorded.trace(400)
    assert len(some) == 400
    assert np.array_equal(some.input_tokens[:50], whole.input_tokens[:50])
    assert np.array_equal(some.input_tokens[-50:], whole.input_tokens[-50:])
    assert (len(some) - 1) / some.duration_s == pytest.approx(recorded.rate_rps)
    assert len(recorded.trace(10**6)) == len(whole)
