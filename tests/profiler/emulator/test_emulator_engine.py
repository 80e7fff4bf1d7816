"""The engine in real time is the twin, and every request gets exactly its tokens."""

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.emulator import EngineDrainingError, Finish, Job, ManualClock, RealTimeEngine
from profiler.step_cost import roofline_curve
from profiler.trace import Hashes, Trace
from profiler.twin import simulate

from .emulated import STEP_S, a_cost, a_generation, some_limits, some_options, stepping


def an_engine(clock: ManualClock, **limits: object) -> RealTimeEngine:
    cost = a_cost(
        sequence_s=1e-3, dense_s=roofline_curve(1e-4, 0.0), kv_token_s=1e-6, request_s=2e-3
    )
    return RealTimeEngine(cost, some_limits(**limits), some_options(), clock)


REQUESTS = st.lists(
    st.tuples(
        st.floats(0, 0.5), st.integers(1, 90), st.integers(1, 40), st.floats(0, 2) | st.none()
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(requests=REQUESTS, blocks=st.integers(9, 30))
def test_every_request_gets_its_tokens_whoever_else_hangs_up(
    requests: list[tuple[float, int, int, float | None]], blocks: int
) -> None:
    """Random load with KV pressure; some clients abort at a moment of their own."""

    async def play() -> list[Job]:
        clock = ManualClock()
        engine = an_engine(clock, num_blocks=blocks)
        async with stepping(engine):
            jobs = [
                engine.submit(a_generation(prompt, output, first=1000 * i), arrival_s)
                for i, (arrival_s, prompt, output, _) in enumerate(requests)
            ]
            for job, (*_, abort_s) in sorted(
                zip(jobs, requests, strict=True), key=lambda pair: pair[1][3] or 0.0
            ):
                if abort_s is not None:
                    await clock.advance(max(abort_s - clock.now_s(), 0.0))
                    engine.abort(job)
            await clock.advance(1e4)
            assert (engine.in_flight, engine.running, engine.waiting) == (0, 0, 0)
            assert engine.kv_usage_ratio == 0.0
        return jobs

    jobs = asyncio.run(play())
    for job, (_, _, output, abort_s) in zip(jobs, requests, strict=True):
        if job.finish is Finish.LENGTH:
            assert job.generated == output
        else:
            assert job.finish is Finish.ABORT
            assert abort_s is not None
            assert job.generated <= output


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    blocks=st.integers(12, 60),
    rules=st.sampled_from(
        [{}, {"async_scheduling": 1}, {"pipeline_depth": 3}, {"prefill_first": 1}]
    ),
)
def test_on_a_virtual_clock_its_times_are_the_simulation_s(
    seed: int, blocks: int, rules: dict[str, int]
) -> None:
    rng = np.random.default_rng(seed)
    n = 25
    trace = Trace(
        arrival_s=np.sort(rng.uniform(0, 0.6, n)),
        input_tokens=rng.integers(1, 100, n),
        output_tokens=rng.integers(1, 50, n),
        prefix_tokens=np.zeros(n, np.int64),
        hashes=Hashes.of([[]] * n, 16),
    )
    clock = ManualClock()

    async def play() -> RealTimeEngine:
        engine = an_engine(clock, num_blocks=blocks, **rules)
        async with stepping(engine):
            for i in range(n):
                generation = a_generation(
                    int(trace.input_tokens[i]), int(trace.output_tokens[i]), first=1000 * i
                )
                engine.submit(generation, float(trace.arrival_s[i]))
            await clock.advance(1e4)
        return engine

    engine = asyncio.run(play())
    truth = simulate(trace, engine.cost, engine.limits)
    recorder = engine.recorder
    assert sum(recorder.time_to_first_token.counts) == n
    assert math.isclose(recorder.time_to_first_token.total, truth.ttft_s.sum(), rel_tol=1e-12)
    assert math.isclose(recorder.e2e.total, truth.e2e_s.sum(), rel_tol=1e-12)
    assert sum(recorder.inter_token_latency.counts) == truth.gaps.sum()
    assert engine.preemptions == truth.preemptions.sum()
    assert recorder.request_preemptions.total == truth.preemptions.sum()


async def test_requests_are_served_in_the_order_they_became_visible() -> None:
    clock = ManualClock()
    engine = an_engine(clock, max_num_seqs=1)
    async with stepping(engine):
        late, early = (
            engine.submit(a_generation(first=first), arrival_s)
            for first, arrival_s in ((0, 0.2), (100, 0.1))
        )
        await clock.advance(0.13)
        assert (early.generated > 0, late.generated) == (True, 0)
        await clock.advance(1.0)
    assert early.last_token_s < late.last_token_s


async def test_a_late_timer_does_not_add_up() -> None:
    class Sluggish(ManualClock):
        """Wakes every sleeper 40 % of a step late."""

        async def sleep_until(self, at_s: float) -> None:
            await super().sleep_until(at_s + 0.4 * STEP_S)

    clock = Sluggish()
    engine = RealTimeEngine(a_cost(), some_limits(), some_options(), clock)
    async with stepping(engine):
        job = engine.submit(a_generation(output=50), 0.0)
        await clock.advance(100)
    assert job.last_token_s == pytest.approx(50 * STEP_S)


async def test_an_overloaded_host_is_caught_up_with_and_counted() -> None:
    clock = ManualClock()
    engine = RealTimeEngine(a_cost(), some_limits(), some_options(), clock)
    job = engine.submit(a_generation(output=2), 0.0)
    await clock.advance(5.0)  # nothing steps yet
    async with stepping(engine):
        await clock.advance(1.0)
    assert engine.recorder.late == 1
    assert job.last_token_s == pytest.approx(5.0 + 2 * STEP_S)


async def test_an_abort_frees_the_kv_at_once() -> None:
    clock = ManualClock()
    engine = RealTimeEngine(a_cost(), some_limits(), some_options(), clock)
    async with stepping(engine):
        job = engine.submit(a_generation(prompt=64, output=100), 0.0)
        await clock.advance(2.5 * STEP_S)
        assert engine.kv_usage_ratio > 0
        assert engine.abort(job)
        assert engine.kv_usage_ratio == 0.0
        assert not engine.abort(job)
        await clock.advance(1.0)
    assert (job.generated, job.finish) == (2, Finish.ABORT)


async def test_a_prompt_seen_before_is_found_in_the_cache() -> None:
    clock = ManualClock()
    engine = RealTimeEngine(a_cost(), some_limits(), some_options(), clock)
    async with stepping(engine):
        for _ in range(2):
            engine.submit(a_generation(prompt=64, output=2), clock.now_s())
            await clock.advance(1.0)
        assert engine.recorder.cached_tokens == 48  # the last block holds the token computed
        engine.sleep(1)
        await asyncio.gather(engine.wake_up(), clock.advance(10.0))
        engine.submit(a_generation(prompt=64, output=2), clock.now_s())
        await clock.advance(1.0)
    assert engine.recorder.cached_tokens == 48


async def test_draining_takes_nothing_new_and_finishes_the_rest() -> None:
    clock = ManualClock()
    engine = RealTimeEngine(a_cost(), some_limits(), some_options(), clock)
    async with stepping(engine):
        job = engine.submit(a_generation(), 0.0)
        engine.draining = True
        with pytest.raises(EngineDrainingError):
            engine.submit(a_generation(), 0.0)
        await asyncio.gather(engine.until_idle(), clock.advance(1.0))
    assert job.finish is Finish.LENGTH
