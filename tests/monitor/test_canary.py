"""A canary asks an engine for a token; an emulated one that hangs is found by it."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from monitor import read_signals
from monitor.detectors.reading import Canary, Expectation, FleetReading, ReplicaReading
from monitor.detectors.watch import Watch
from monitor.findings import Kind
from monitor.sources.canary import probe
from tests.monitor.fleets import an_expectation
from tests.profiler.emulator.emulated import Emulated, a_cost, emulated, some_limits, until

MODEL = "org/tiny"


def clock() -> float:
    return 42.0


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def status(request: web.Request) -> web.Response:
    return web.Response(status=int(request.match_info["status"]), text="{}")


async def silent(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_post("/{status:[0-9]+}/v1/completions", status)
    app.router.add_post("/silent/v1/completions", silent)
    running = TestServer(app, shutdown_timeout=0)
    async with running:
        yield running


@pytest.mark.parametrize(("answer", "answered"), [(200, True), (500, False), (503, False)])
async def test_an_answer_is_a_token(
    server: TestServer, session: aiohttp.ClientSession, answer: int, answered: bool
) -> None:
    url = str(server.make_url(f"/{answer}"))
    assert await probe(session, url, MODEL, now_s=clock) == Canary(42.0, answered, 0.0)


@pytest.mark.parametrize("answer", [401, 404, 429])
async def test_a_refusal_tells_nothing(
    server: TestServer, session: aiohttp.ClientSession, answer: int
) -> None:
    url = str(server.make_url(f"/{answer}"))
    assert await probe(session, url, MODEL, now_s=clock) is None


async def test_no_answer_in_time_and_nobody_there_are_no_token(
    server: TestServer, session: aiohttp.ClientSession
) -> None:
    hung = await probe(session, str(server.make_url("/silent")), MODEL, now_s=clock, timeout_s=0.01)
    gone = await probe(session, f"http://127.0.0.1:{unused_port()}", MODEL, now_s=clock)
    assert (hung, gone) == (Canary(42.0, False, 0.0), Canary(42.0, False, 0.0))


async def look(
    engine: Emulated, watch: Watch, canary: Canary | None, now_s: float, expected: Expectation
) -> tuple[Watch, set[Kind]]:
    """Read the emulator's page as the loop would; the clock is the test's."""
    async with engine.session.get("/metrics") as answer:
        page = read_signals(await answer.read())
    reading = ReplicaReading("r0", True, None, page, now_s, healthy=True, canary=canary)
    watch, findings = watch.seen(FleetReading((reading,)), expected, now_s)
    return watch, {finding.kind for finding in findings}


@pytest.mark.parametrize("hangs", [True, False])
async def test_an_emulated_engine_that_hangs_is_found_within_15_s(hangs: bool) -> None:
    """Its `/health` goes on saying 200. One that only stands still answers the canary."""
    expected = an_expectation(cost=a_cost(), limits=some_limits())
    async with emulated(faults=True) as engine:
        engine.post("/v1/completions", prompt="a b c", max_tokens=500, ignore_eos=True)
        await until(lambda: engine.engine.in_flight > 0)
        await engine.clock.advance(0.1)
        watch, now_s = Watch(), 0.0
        watch, _ = await look(engine, watch, None, now_s, expected)
        if hangs:
            async with engine.session.post("/faults", json={"kind": "hang"}) as injected:
                assert injected.status == 200
        while "r0" not in watch.wants_canary:
            now_s += 1.0
            watch, found = await look(engine, watch, None, now_s, expected)
            assert found == set()
        began_s = now_s
        asked = asyncio.create_task(
            probe(engine.session, "", MODEL, now_s=lambda: began_s, timeout_s=0.2 if hangs else 30)
        )
        if not hangs:
            await until(lambda: engine.engine.in_flight > 1)
            await engine.clock.advance(0.1)
        canary = await asked
        assert canary is not None
        assert canary.answered is not hangs
        async with engine.session.get("/health") as health:
            assert health.status == 200
        _, found = await look(engine, watch, canary, now_s + 5.0, expected)
        assert found == ({Kind.WEDGED_ENGINE} if hangs else set())
        assert now_s + 5.0 <= 15.0
