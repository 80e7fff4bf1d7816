"""The kernels schedule as the naive engine does, step by step, under every set of rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.scheduler import Limits
from profiler.timings import Steps
from profiler.trace import Trace
from profiler.twin import Simulation, simulate

from .engines import COST, VARIANTS, limits, steady, traces
from .naive import naive_run

PLENTY = Limits(64, 2048, 4000)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_step_and_every_time_is_that_of_the_naive_engine(
    variant: str, data: st.DataObject
) -> None:
    trace = data.draw(traces())
    bounds = data.draw(limits(**VARIANTS[variant]))
    simulation = Simulation(COST, bounds, step_interval_s=0)
    simulation.feed(trace)
    finished, steps = simulation.run()
    requests, rows = naive_run(trace, bounds)
    expected = Steps(*map(np.array, zip(*rows, strict=True)))
    for name in Steps._fields:
        np.testing.assert_allclose(
            getattr(steps, name), getattr(expected, name), rtol=1e-12, err_msg=name
        )
    for row, number in enumerate(finished.request):
        request = requests[number]
        assert finished.preemptions[row] == request.preemptions
        assert finished.hit_tokens[row] == request.hit
        assert finished.scheduled_s[row] == pytest.approx(request.scheduled_s, rel=1e-12)
        assert finished.first_token_s[row] == pytest.approx(request.first_token_s, rel=1e-12)
        assert finished.last_token_s[row] == pytest.approx(request.last_token_s, rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_everybody_ends_with_the_tokens_asked_for_in_an_order_that_time_allows(
    variant: str, data: st.DataObject
) -> None:
    trace = data.draw(traces())
    bounds = data.draw(limits(**VARIANTS[variant]))
    simulation = Simulation(COST, bounds)
    simulation.feed(trace)
    done = simulation.run().finished
    assert sorted(done.request) == list(range(len(trace)))
    assert np.array_equal(done.output_tokens, np.maximum(trace.output_tokens[done.request], 1))
    assert (done.arrival_s <= done.scheduled_s).all()
    assert (done.scheduled_s < done.first_token_s).all()
    assert (done.first_token_s <= done.last_token_s).all()
    assert ((done.first_token_s == done.last_token_s) == (done.output_tokens == 1)).all()
    assert simulation.in_flight == 0
    assert simulation.gaps.sum() == (done.output_tokens - 1).sum()


@settings(max_examples=50, deadline=None)
@given(traces(), st.integers(16, 256), st.integers(1, 8))
def test_first_come_is_first_scheduled_while_memory_lasts(
    trace: Trace, budget: int, seqs: int
) -> None:
    timings = simulate(trace, COST, Limits(seqs, budget, 4000))
    assert (np.diff(timings.queue_s + trace.arrival_s) >= 0).all()


@settings(max_examples=50, deadline=None)
@given(traces(), st.data())
def test_one_by_one_a_longer_answer_lets_nobody_end_earlier(
    trace: Trace, data: st.DataObject
) -> None:
    alone = Limits(1, 512, 4000, prefix_caching=0)
    which = data.draw(st.integers(0, len(trace) - 1))
    longer = trace.output_tokens.copy()
    longer[which] += 1 + data.draw(st.integers(0, 50))
    later = Trace.of(trace.arrival_s, trace.input_tokens, longer)
    before, after = simulate(trace, COST, alone), simulate(later, COST, alone)
    assert (after.e2e_s >= before.e2e_s - 1e-12).all()


def test_the_lowest_number_is_served_first_and_then_who_came_first() -> None:
    trace = Trace.of([0.0] * 4, [50] * 4, [5] * 4, priority=[2, 0, 1, 0])
    one = Limits(1, 512, 100, priority_scheduling=1)
    assert np.argsort(simulate(trace, COST, one).e2e_s).tolist() == [1, 3, 2, 0]


def test_an_urgent_request_takes_the_memory_of_another() -> None:
    trace = Trace.of([0.0, 0.05], [100, 100], [250, 250], priority=[1, 0])
    tight = {"max_num_seqs": 2, "max_num_batched_tokens": 512, "num_blocks": 24}
    fair = simulate(trace, COST, Limits(**tight))
    ranked = simulate(trace, COST, Limits(**tight, priority_scheduling=1))
    assert fair.preemptions.tolist() == [0, 1]
    assert ranked.preemptions.tolist() == [1, 0]


def test_a_long_prompt_is_cut_only_beside_others() -> None:
    short = PLENTY._replace(long_prefill_token_threshold=100)
    alone = simulate(Trace.of([0.0], [1000], [1]), COST, short)
    beside = simulate(Trace.of([0.0, 0.0], [1000, 10], [1, 30]), COST, short)
    assert alone.steps == 1
    assert beside.ttft_s[1] < beside.ttft_s[0]


def test_async_scheduling_hides_the_overhead_and_computes_one_token_in_vain() -> None:
    plain, hidden = PLENTY, PLENTY._replace(async_scheduling=1)
    one = Trace.of([0.0], [100], [50])
    before, after = simulate(one, COST, plain), simulate(one, COST, hidden)
    assert after.usage.tokens == before.usage.tokens + 1
    assert before.itl_s[0] - after.itl_s[0] == pytest.approx(COST.step_overhead_s, rel=1e-6)
    assert after.ttft_s[0] == pytest.approx(before.ttft_s[0])


def test_a_cost_measured_under_async_scheduling_has_nothing_to_hide() -> None:
    bounds = PLENTY._replace(async_scheduling=1, overlap_ratio=0.0)
    one = Trace.of([0.0], [100], [50])
    assert simulate(one, COST, bounds).itl_s == pytest.approx(simulate(one, COST, PLENTY).itl_s)


def test_pipeline_stages_carry_more_but_nobody_decodes_faster() -> None:
    # two halves of the batch take turns: as long a step, with half the sequences in it
    trace = Trace.of(np.zeros(8), np.full(8, 64), np.full(8, 100))
    single = Limits(4, 256, 4000)
    staged = Limits(8, 256, 4000, pipeline_depth=2)
    assert simulate(trace, COST, staged).end_s < 0.7 * simulate(trace, COST, single).end_s
    one = steady(1)
    assert simulate(one, COST, staged).e2e_s == pytest.approx(simulate(one, COST, single).e2e_s)


def test_sglang_prefills_before_it_decodes() -> None:
    trace = Trace.of([0.0, 0.02, 0.03], [100, 400, 400], [30, 2, 2])
    simulation = Simulation(COST, PLENTY._replace(prefill_first=1), step_interval_s=0)
    simulation.feed(trace)
    steps = simulation.run().steps
    pure = (steps.prefill_tokens == 0) | (steps.prefill_tokens == steps.tokens)
    assert pure.all()
    assert (simulate(trace, COST, PLENTY).max_gap_s < simulate(
        trace, COST, PLENTY._replace(prefill_first=1)).max_gap_s)[0]  # fmt: skip


def test_sglang_keeps_room_for_answers_and_vllm_does_not() -> None:
    trace = steady(12, gap_s=0.001, prompt=100, output=150)
    tight = Limits(12, 512, 60)
    careful = simulate(trace, COST, tight._replace(prefill_first=1))
    bold = simulate(trace, COST, tight._replace(prefill_first=1, schedule_conservativeness=0.05))
    assert careful.preemptions.sum() < simulate(trace, COST, tight).preemptions.sum()
    assert careful.preemptions.sum() < bold.preemptions.sum()
