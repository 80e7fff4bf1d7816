"""The twin: times told by hand, and parts that add up to the whole."""

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.errors import Refused
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.timings import Finished, Metric, Steps
from profiler.trace import Hashes, Trace
from profiler.twin import Progress, Simulation, simulate

from .engines import COST, VARIANTS, limits, steady, traces

variants = st.sampled_from(sorted(VARIANTS)).flatmap(lambda name: limits(**VARIANTS[name]))


def whole(parts: list[Progress]) -> Progress:
    """What several calls told, as if one had."""
    return Progress(
        Finished(
            *(np.concatenate(rows) for rows in zip(*(p.finished for p in parts), strict=True))
        ),
        Steps(*(np.concatenate(rows) for rows in zip(*(p.steps for p in parts), strict=True))),
    )


def same(one: Progress, other: Progress) -> bool:
    """To the last bit."""
    return all(
        np.array_equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def in_one_go(trace: Trace, bounds: Limits, **asked: Any) -> tuple[Simulation, Progress]:
    simulation = Simulation(COST, bounds, **asked)
    simulation.feed(trace)
    return simulation, simulation.run()


@settings(max_examples=80, deadline=None)
@given(traces(), variants, st.data())
def test_a_trace_in_parts_is_the_trace(trace: Trace, bounds: Limits, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(trace)), max_size=4)))
    parts = [trace.rows(slice(a, b)) for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    asked: dict[str, Any] = {"noise_ratio": 0.1, "seed": 3, "step_interval_s": 0.0}
    once, expected = in_one_go(trace, bounds, **asked)
    streamed = Simulation(COST, bounds, **asked)
    assert same(whole(list(streamed.through(parts))), expected)
    assert streamed.usage == once.usage
    assert np.array_equal(streamed.gaps, once.gaps)


@settings(max_examples=80, deadline=None)
@given(traces(), variants, st.lists(st.floats(0, 8), max_size=4), st.data())
def test_stopped_copied_pickled_and_gone_on_with_it_is_the_same_run(
    trace: Trace, bounds: Limits, stops: list[float], data: st.DataObject
) -> None:
    asked: dict[str, Any] = {"noise_ratio": 0.1, "seed": 3, "step_interval_s": 0.0}
    once, expected = in_one_go(trace, bounds, **asked)
    simulation, told = Simulation(COST, bounds, **asked), []
    half = data.draw(st.integers(0, len(trace)))
    simulation.feed(trace.take(half))
    for stop_s in sorted(stops):
        told.append(simulation.run(stop_s, ended=half == len(trace)))
        other = simulation.copy()
        simulation = pickle.loads(pickle.dumps(simulation))
        other.run()  # leaves the one gone on with alone
    simulation.feed(trace.rows(slice(half, None)))
    told.append(simulation.run())
    assert same(whole(told), expected)
    assert simulation.usage == once.usage


def test_a_long_stream_takes_no_more_memory_than_a_short_one() -> None:
    simulation = Simulation(COST, Limits(8, 512, 200))
    hashes = Hashes.of([[n] * 1 for n in range(50)], 256)
    sizes = []
    for n in range(60):
        part = steady(50, gap_s=0.4)
        later = Trace.of(part.arrival_s + 20.0 * n, part.input_tokens, part.output_tokens,
                         hashes=hashes)  # fmt: skip
        simulation.feed(later)
        simulation.run(ended=False)
        sizes.append(len(pickle.dumps(simulation)))
    assert max(sizes[20:]) <= max(sizes[:20])


def test_steps_are_recorded_as_often_as_asked() -> None:
    trace = steady(40)
    _, every = in_one_go(trace, Limits(8, 512, 200), step_interval_s=0)
    simulation, sampled = in_one_go(trace, Limits(8, 512, 200), step_interval_s=0.25)
    none = in_one_go(trace, Limits(8, 512, 200))[1].steps
    assert every.steps.time_s.size == simulation.usage.steps
    assert none.time_s.size == 0
    slots = np.floor(sampled.steps.time_s / 0.25)
    assert (np.diff(slots) > 0).all()
    assert np.isin(sampled.steps.time_s, every.steps.time_s).all()
    assert set(slots) == set(np.floor(every.steps.time_s / 0.25))
    assert every.steps.tokens.sum() == simulation.usage.tokens
    assert every.steps.duration_s.sum() == pytest.approx(simulation.usage.busy_s)


def test_more_steps_than_are_held_at_a_time_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = in_one_go(steady(40), Limits(8, 512, 200), step_interval_s=0)
    monkeypatch.setattr("profiler.twin._STEP_ROWS", 7)
    assert same(in_one_go(steady(40), Limits(8, 512, 200), step_interval_s=0)[1], expected)


def test_usage_adds_up() -> None:
    simulation, _ = in_one_go(Trace.of([0.0], [100], [3]), Limits(8, 512, 200))
    usage = simulation.usage
    assert (usage.tokens, usage.prefill_tokens, usage.steps) == (102, 100, 3)
    assert usage.busy_s == pytest.approx(usage.end_s)
    assert usage.kv_block_s == pytest.approx(7 * usage.end_s)
    assert usage.running_s == pytest.approx(usage.end_s)


def test_parts_out_of_order_are_refused() -> None:
    simulation = Simulation(COST, Limits(8, 512, 200))
    simulation.feed(Trace.of([5.0], [1], [1]))
    with pytest.raises(Refused, match=r"begins at 4\.0 s, before the end"):
        simulation.feed(Trace.of([4.0], [1], [1]))


def test_hashes_in_some_parts_only_are_refused() -> None:
    simulation = Simulation(COST, Limits(8, 512, 200))
    simulation.feed(Trace.of([5.0], [1], [1]))
    with pytest.raises(Refused, match="hash_ids are given in some parts"):
        simulation.feed(Trace.of([6.0], [600], [1], hashes=Hashes.of([[1]])))


def test_the_same_seed_gives_the_same_times_and_another_seed_others():
    bounds = Limits(8, 512, 200)
    runs = [simulate(steady(), COST, bounds, noise_ratio=0.1, seed=s).e2e_s for s in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_a_lone_request_takes_one_prefill_and_one_step_per_further_token():
    timings = simulate(Trace.of([0.0], [100], [3]), COST, Limits(8, 512, 200))
    prefill = 1e-3 + 1e-5 + max(100 * 2e-5, 5e-3) + 1e-9 * 100 * 50 + 2e-8 * 100
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


def test_quantiles_are_over_the_requests_that_have_the_latency() -> None:
    timings = simulate(Trace.of([0.0, 1.0], [100, 100], [1, 11]), COST, Limits(8, 512, 200))
    assert timings.quantile_s(Metric.ITL, 0.5) == timings.itl_s[1]
    assert timings.quantile_s(Metric.TTFT, 0.5) == pytest.approx(np.median(timings.ttft_s))
    one = simulate(Trace.of([0.0], [10], [1]), COST, Limits(8, 512, 200))
    assert math.isnan(one.quantile_s(Metric.ITL, 0.5))


def test_sglang_wants_a_block_to_spare() -> None:
    trace = Trace.of([0.0], [150], [10])
    assert simulate(trace, COST, Limits(8, 512, 10)).steps == 10
    with pytest.raises(Refused, match="leaves no block to spare in the KV cache of 160"):
        simulate(trace, COST, Limits(8, 512, 10, prefill_first=1))
