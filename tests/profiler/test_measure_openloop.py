"""The injector sends at the trace's times, whatever becomes of the requests."""

import asyncio
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from profiler.measure import Outcome, Pace, Status, Target, open_session, replay
from profiler.trace import Trace
from tests.profiler.measure_server import FakeEngine, as_asked


def small(n: int = 5) -> Trace:
    return Trace.of(np.arange(n) * 0.01, np.arange(1, n + 1), [2] * (n - 1) + [0])


async def replayed(engine: FakeEngine, trace: Trace, **options: Any) -> tuple[Outcome, ...]:
    now_s = asyncio.get_running_loop().time
    async with TestServer(engine.app()) as server, open_session() as session:
        target = Target(str(server.make_url("")).rstrip("/"), "tiny")
        return await replay(session, target, trace, now_s, **options)


async def test_every_request_is_sent_once_and_none_early() -> None:
    engine = FakeEngine(as_asked())
    outcomes = await replayed(engine, small())
    assert [o.index for o in outcomes] == [0, 1, 2, 3, 4]
    assert [o.scheduled_s for o in outcomes] == small().arrival_s.tolist()
    assert all(o.sent_s >= o.scheduled_s for o in outcomes)
    assert all(o.status is Status.OK for o in outcomes)
    assert sorted(len(body["prompt"]) for body in engine.bodies) == [1, 2, 3, 4, 5]


async def test_an_output_of_no_tokens_is_clamped_to_one() -> None:
    assert (await replayed(FakeEngine(as_asked()), small()))[-1].output_tokens == 1


async def test_a_slow_answer_holds_no_other_request_back() -> None:
    """The first answers wait until the last request has come: a closed loop would hang."""
    all_came = asyncio.Event()
    count = 150  # above the 100 connections that aiohttp allows by default

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if len(engine.bodies) == count:
            all_came.set()
        await all_came.wait()
        return await as_asked()(request, body)

    engine = FakeEngine(answer)
    trace = Trace.of([0.0] * count, [1] * count, [1] * count)
    async with asyncio.timeout(60):
        outcomes = await replayed(engine, trace)
    assert all(o.status is Status.OK for o in outcomes)


async def test_progress_tells_what_was_sent_and_what_ended() -> None:
    seen: list[tuple[int, int]] = []
    await replayed(
        FakeEngine(as_asked()), small(), on_progress=lambda sent, ended: seen.append((sent, ended))
    )
    assert [ended for _, ended in seen] == [1, 2, 3, 4, 5]
    assert seen[-1] == (5, 5)


async def test_warming_up_is_not_reported_and_repeats_no_prompt() -> None:
    engine = FakeEngine(as_asked())
    outcomes = await replayed(engine, small(), warmup=2)
    assert len(outcomes) == 5
    assert len(engine.bodies) == 7
    assert len({tuple(body["prompt"]) for body in engine.bodies}) == 7


def outcome(scheduled_s: float, sent_s: float) -> Outcome:
    none = np.zeros(0, dtype=np.float32)
    return Outcome(0, scheduled_s, sent_s, None, None, none, 1, 0, Status.ERROR)


def test_pace_compares_the_rate_sent_with_the_traces() -> None:
    pace = Pace.of([outcome(0.0, 0.0), outcome(1.0, 1.001), outcome(2.0, 2.0)])
    assert (pace.wanted_rps, pace.achieved_rps) == (1.0, 1.0)
    assert pace.lateness_p99_s == pytest.approx(0.001, rel=0.05)
    assert pace.warning is None


@pytest.mark.parametrize("late", [[0.0, 1.5], [0.1, 1.1]])
def test_a_late_sender_is_warned_about(late: list[float]) -> None:
    pace = Pace.of([outcome(at_s, sent_s) for at_s, sent_s in zip((0.0, 1.0), late, strict=True)])
    assert pace.warning is not None
    assert "the sender was late" in pace.warning


def test_a_timers_coarseness_over_a_short_trace_is_no_lateness() -> None:
    pace = Pace.of([outcome(0.0, 0.0), outcome(0.02, 0.021)])
    assert pace.warning is None


def test_a_single_request_has_no_rate() -> None:
    assert Pace.of([outcome(0.0, 0.0)]) == Pace(None, None, 0.0)
    assert Pace.of([]).warning is None
