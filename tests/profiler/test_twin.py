"""The twin against a naive engine, and the rules that a reader would expect to hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.errors import Refused
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.step_cost import NO_WINDOW, StepCost, roofline_curve, step_s
from profiler.trace import Trace
from profiler.twin import Engine, simulate

from .naive import NaiveEngine, Request

COST = StepCost(
    step_overhead_s=1e-3,
    sequence_s=1e-5,
    dense_s=roofline_curve(2e-5, 5e-3),
    token_link_s=0.0,
    prefill_pair_s=1e-9,
    prefill_window_pair_s=0.0,
    kv_token_s=5e-8,
    kv_window_token_s=0.0,
    mixed_kv_ratio=1.5,
    window_tokens=NO_WINDOW,
    request_s=0.0,
)


def naive_run(trace: Trace, cost: StepCost, limits: Limits) -> list[Request]:
    engine, clock, cursor = NaiveEngine(limits), 0.0, 0
    done: list[Request] = []
    while len(done) < len(trace):
        while cursor < len(trace) and trace.arrival_s[cursor] + cost.request_s <= clock:
            engine.waiting.append(
                Request(
                    cursor,
                    float(trace.arrival_s[cursor]),
                    int(trace.input_tokens[cursor]),
                    max(int(trace.output_tokens[cursor]), 1),
                )
            )
            cursor += 1
        if not engine.waiting and not engine.running:
            clock = float(trace.arrival_s[cursor]) + cost.request_s
            continue
        shape, tokens = engine.step()
        assert shape.tokens > 0, "a step must make progress"
        clock += float(step_s(cost, shape))
        done += engine.end(tokens, clock)
        held = sum(request.blocks for request in engine.running)
        assert held + engine.free == limits.num_blocks
    return sorted(done, key=lambda request: request.number)


requests = st.lists(
    st.tuples(st.floats(0, 0.2), st.integers(1, 300), st.integers(0, 40)), min_size=1, max_size=25
)
limits = st.builds(
    Limits,
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.integers(8, 256),
    num_blocks=st.integers(22, 60),
    block_size=st.just(16),
    chunked_prefill=st.just(1),
    prefix_caching=st.integers(0, 1),
)


@settings(max_examples=150, deadline=None)
@given(requests, limits)
def test_times_equal_those_of_the_naive_engine(rows, bounds):
    gaps, prompts, outputs = zip(*rows, strict=True)
    trace = Trace.of(np.cumsum(gaps), np.array(prompts), np.array(outputs))
    timings = simulate(trace, COST, bounds)
    expected = naive_run(trace, COST, bounds)
    first = np.array([request.first_token_s for request in expected])
    last = np.array([request.last_token_s for request in expected])
    np.testing.assert_allclose(timings.ttft_s + trace.arrival_s, first, rtol=1e-12)
    np.testing.assert_allclose(timings.e2e_s + trace.arrival_s, last, rtol=1e-12)
    assert timings.preemptions.tolist() == [request.preemptions for request in expected]


@settings(max_examples=60, deadline=None)
@given(requests, limits, st.data())
def test_an_engine_stepped_from_outside_delivers_every_token_once_whatever_is_aborted(
    rows, bounds, data
):
    engine = Engine(COST, bounds, slots=2)
    wanted = {n: max(output, 1) for n, (_, _, output) in enumerate(rows)}
    for n, (_, prompt, output) in enumerate(rows):
        engine.enqueue(n, 0.0, prompt, output, 0)
    aborted: set[int] = set()
    made, now_s = dict.fromkeys(wanted, 0), 0.0
    while (step := engine.begin(now_s)) is not None:
        if data.draw(st.integers(0, 9)) == 0 and len(aborted) < len(wanted):
            victim = data.draw(st.sampled_from(sorted(wanted)))
            if engine.abort(victim):
                aborted.add(victim)
        now_s += step[1]
        for emission in engine.end(now_s):
            made[emission.request] += 1
            assert emission.generated == made[emission.request]
            assert emission.finished == (emission.generated == wanted[emission.request])
    assert {n: made[n] for n in wanted if n not in aborted} == {
        n: wanted[n] for n in wanted if n not in aborted
    }
    assert engine.running == engine.waiting == 0
    assert engine.kv_usage_ratio == 0.0


def steady(n: int = 50, gap_s: float = 0.05, prompt: int = 200, output: int = 50) -> Trace:
    return Trace.of(np.arange(n) * gap_s, np.full(n, prompt), np.full(n, output))


def test_the_same_seed_gives_the_same_times_and_another_seed_others():
    bounds = Limits(8, 512, 200)
    runs = [simulate(steady(), COST, bounds, noise_ratio=0.1, seed=s).e2e_s for s in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_a_lone_request_takes_one_prefill_and_one_step_per_further_token():
    timings = simulate(Trace.of([0.0], [100], [3]), COST, Limits(8, 512, 200))
    prefill = 1e-3 + 1e-5 + max(100 * 2e-5, 5e-3) + 1e-9 * 100 * 50
    decode = [1e-3 + 1e-5 + 5e-3 + 5e-8 * context for context in (101, 102)]
    assert timings.ttft_s[0] == pytest.approx(prefill)
    assert timings.e2e_s[0] == pytest.approx(prefill + sum(decode))
    assert timings.steps == 3


def test_api_time_delays_the_first_token():
    plain = simulate(Trace.of([0.0], [100], [3]), COST, Limits(8, 512, 200))
    slow = simulate(Trace.of([0.0], [100], [3]), COST._replace(request_s=0.5), Limits(8, 512, 200))
    assert slow.ttft_s[0] == pytest.approx(plain.ttft_s[0] + 0.5)


def test_a_preempted_request_does_not_recompute_what_the_prefix_cache_kept():
    trace = steady(12, gap_s=0.001, prompt=100, output=150)
    cached = simulate(trace, COST, Limits(12, 512, 60))
    uncached = simulate(trace, COST, Limits(12, 512, 60, prefix_caching=0))
    assert cached.preemptions.sum() > 0
    assert cached.e2e_s.mean() < uncached.e2e_s.mean()


def test_a_known_prefix_shortens_the_prefill():
    fresh = simulate(Trace.of([0.0], [1000], [2]), COST, Limits(8, 2048, 200))
    seen = simulate(Trace.of([0.0], [1000], [2], [800]), COST, Limits(8, 2048, 200))
    assert seen.ttft_s[0] < fresh.ttft_s[0]


def test_a_request_that_no_cache_could_hold_is_refused():
    with pytest.raises(Refused, match="exceeds the KV cache of 160 tokens"):
        simulate(Trace.of([0.0], [200], [5]), COST, Limits(8, 512, 10))


def test_without_chunked_prefill_a_prompt_must_fit_a_step():
    bounds = Limits(8, 512, 200, chunked_prefill=0)
    with pytest.raises(Refused, match="exceeds max_num_batched_tokens 512"):
        simulate(Trace.of([0.0], [600], [5]), COST, bounds)
    whole = simulate(Trace.of([0.0, 0.0], [400, 400], [2, 2]), COST, bounds)
    chunked = simulate(Trace.of([0.0, 0.0], [400, 400], [2, 2]), COST, Limits(8, 512, 200))
    assert whole.ttft_s[0] < chunked.ttft_s[0], "the second prompt waits for a step of its own"


def test_more_requests_in_flight_than_slots_are_carried():
    n = 3000
    trace = Trace.of(np.zeros(n), np.full(n, 10), np.full(n, 2))
    timings = simulate(trace, COST, Limits(16, 512, 100))
    assert np.isfinite(timings.e2e_s).all()


def test_attainment_judges_ttft_mean_itl_and_end_to_end():
    timings = simulate(steady(), COST, Limits(64, 512, 2000))
    assert timings.attained(Slo(ttft_s=10, itl_s=10, e2e_s=100)).all()
    assert not timings.attained(Slo(itl_s=1e-4)).any()
    one = simulate(Trace.of([0.0], [10], [1]), COST, Limits(8, 512, 200))
    assert one.attained(Slo(itl_s=1e-9)).all(), "one token has no gap to be late"


def test_gap_quantiles_come_from_all_tokens():
    timings = simulate(steady(1, output=200), COST, Limits(8, 512, 200))
    decode_s = 1e-3 + 1e-5 + 5e-3
    assert timings.gap_quantile_s(0.5) == pytest.approx(decode_s, rel=0.02)
    assert math.isnan(
        simulate(Trace.of([0.0], [9], [1]), COST, Limits(8, 512, 9)).gap_quantile_s(0.5)
    )
