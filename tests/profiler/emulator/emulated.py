"""Builders for the emulator's tests: an engine on a clock turned by hand, a server over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse, ClientSession, web
from aiohttp.test_utils import TestServer
from prometheus_client.parser import text_string_to_metric_families

from profiler.emulator import (
    ENGINE,
    FAULTS,
    Answer,
    Clock,
    Finish,
    Generation,
    ManualClock,
    Options,
    RealClock,
    RealTimeEngine,
    build_app,
)
from profiler.emulator.faults import Faults
from profiler.emulator.process import warm_up
from profiler.scheduler import Limits, Shape
from profiler.step_cost import NO_WINDOW, StepCost, roofline_curve, step_s

STEP_S = 0.01
WALL_S = 1_800_000_000.0


def a_cost(**changes: Any) -> StepCost:
    """10 ms a step, whatever is in it."""
    fields: dict[str, Any] = dict.fromkeys(StepCost._fields, 0.0)
    fields |= {
        "step_overhead_s": STEP_S,
        "dense_s": roofline_curve(0.0, 0.0),
        "mixed_kv_ratio": 1.0,
        "window_tokens": NO_WINDOW,
    }
    return StepCost(**{**fields, **changes})


def some_limits(**changes: Any) -> Limits:
    fields = {"max_num_seqs": 8, "max_num_batched_tokens": 256, "num_blocks": 64}
    return Limits(**{**fields, **changes})


def some_options(**changes: Any) -> Options:
    return Options(**{"model": "org/tiny", "wake_up_s": 2.0, **changes})


def a_generation(prompt: int = 4, output: int = 3, *, first: int = 0) -> Generation:
    """`output` tokens for a prompt of `prompt` ids, counted from `first`."""
    ids = list(range(first, first + prompt))
    return Generation(ids, output, output, Answer(first), Finish.LENGTH)


@dataclass(slots=True)
class Emulated:
    """A server under test; time passes by `clock.advance`, or by itself on a real clock."""

    session: ClientSession
    engine: RealTimeEngine
    faults: Faults
    clock: Any
    answers: list[ClientResponse] = field(default_factory=list)
    """Closed with the server, read or not."""

    def post(self, path: str, **body: Any) -> "asyncio.Task[ClientResponse]":
        """Send a request without waiting for its answer."""

        async def send() -> ClientResponse:
            self.answers.append(await self.session.post(path, json=body))
            return self.answers[-1]

        return asyncio.create_task(send())

    async def completion(self, **body: Any) -> dict[str, Any]:
        """Get the whole answer of a completion that runs to its end."""
        asked = {"prompt": "a b c", "max_tokens": 3, "ignore_eos": True, **body}
        sent = self.post("/v1/completions", **asked)
        await until(lambda: self.engine.in_flight > 0)
        await self.clock.advance(1e6)
        answer: dict[str, Any] = await (await sent).json()
        return answer

    async def metrics(self) -> dict[str, float]:
        """Scrape; samples by name, with labels other than the model's and the engine's."""
        async with self.session.get("/metrics") as response:
            assert response.status == 200
            return samples(await response.text())


def samples(page: str) -> dict[str, float]:
    """Values by name and the labels that tell samples of a family apart."""
    held: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in {"engine", "model_name"}}
            told = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
            held[f"{sample.name}{{{told}}}" if told else sample.name] = sample.value
    return held


async def until(true: Callable[[], bool]) -> None:
    """Let the event loop turn until it is true; the test's own timeout is the bound."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what turns true belongs to the engine
            await asyncio.sleep(0)


@asynccontextmanager
async def emulated(
    *,
    cost: StepCost | None = None,
    limits: Limits | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> AsyncIterator[Emulated]:
    """Serve on a free port of 127.0.0.1."""
    clock = clock or ManualClock()
    app: web.Application = build_app(
        cost or a_cost(),
        limits or some_limits(),
        some_options(**options),
        clock=clock,
        wall=lambda: WALL_S,
    )
    if isinstance(clock, RealClock):  # time is being measured: nothing may compile meanwhile
        warm_up(app[ENGINE])
        step_s(app[ENGINE].cost, Shape(1, 1, 0, 0.0, 0.0, 1.0, 0.0))
    server = TestServer(app)
    await server.start_server()  # it cancels handlers of clients that hang up
    async with ClientSession(str(server.make_url("/"))) as session:
        served = Emulated(session, app[ENGINE], app[FAULTS], clock)
        yield served
        for answer in served.answers:
            answer.close()
    await server.close()


@asynccontextmanager
async def stepping(engine: RealTimeEngine) -> AsyncIterator[None]:
    """Step an engine without a server."""
    task = asyncio.create_task(engine.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
