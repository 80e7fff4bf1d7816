"""The HTTP API of vLLM 0.32 over an emulated engine, as an aiohttp application.

`build_app(cost, limits, options)` is all a test or the process needs; the engine steps
while the application runs. Nothing here knows what a step costs.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from profiler.emulator import admin
from profiler.emulator.clock import Clock, RealClock, wall_s
from profiler.emulator.engine import EngineDeadError, EngineDrainingError, RealTimeEngine
from profiler.emulator.faults import DEAD, Faults
from profiler.emulator.http_metrics import UNCOUNTED, HttpCollector
from profiler.emulator.jobs import WHOLE, Finish, Generation, Job
from profiler.emulator.metrics import Page
from profiler.emulator.options import Options
from profiler.emulator.protocol import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    Resolver,
    Sampling,
    parse,
)
from profiler.emulator.replies import (
    DONE,
    ChatStyle,
    CompletionStyle,
    Head,
    Style,
    error_body,
    json_bytes,
)
from profiler.scheduler import Limits
from profiler.step_cost import StepCost

MAX_BODY_BYTES = 64 << 20
"""A prompt of millions of token ids still fits."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)

ENGINE = web.AppKey("engine", RealTimeEngine)
FAULTS = web.AppKey("faults", Faults)

_INTERNAL = "Internal server error"
_SSE = {"Content-Type": "text/event-stream; charset=utf-8"}


class Api:
    """Handlers of the OpenAI endpoints."""

    def __init__(self, engine: RealTimeEngine, clock: Clock, wall: Callable[[], float]) -> None:
        options = engine.options
        self._engine, self._clock, self._wall = engine, clock, wall
        self._created = int(wall())
        self.resolver = Resolver(options.names, engine.max_model_len, options.seed)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        arrival_s = self._clock.now_s()
        asked = parse(await request.read(), CompletionRequest)
        job = self._submit(self.resolver.completion(asked), arrival_s)
        style = CompletionStyle(self._head(request, "cmpl", asked.model))
        return await self._answer(request, job, style, asked)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        arrival_s = self._clock.now_s()
        asked = parse(await request.read(), ChatRequest)
        job = self._submit(self.resolver.chat(asked), arrival_s)
        style = ChatStyle(self._head(request, "chatcmpl", asked.model))
        return await self._answer(request, job, style, asked)

    async def models(self, _: web.Request) -> web.Response:
        """`GET /v1/models`."""
        options = self._engine.options
        cards: list[dict[str, object]] = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "vllm",
                "root": options.model,
                "parent": None,
                "max_model_len": self._engine.max_model_len,
                "permission": [],
            }
            for name in options.names
        ]
        return json_response({"object": "list", "data": cards})

    def _submit(self, generation: Generation, arrival_s: float) -> Job:
        try:
            return self._engine.submit(generation, arrival_s)
        except EngineDeadError as error:
            raise ApiError(500, str(error)) from error
        except EngineDrainingError as error:
            raise ApiError(500, _INTERNAL) from error

    def _head(self, request: web.Request, kind: str, model: str | None) -> Head:
        asked = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        name = model or self._engine.options.names[0]
        return Head(f"{kind}-{asked}", int(self._wall()), name)

    async def _answer(
        self, request: web.Request, job: Job, style: Style, asked: Sampling
    ) -> web.StreamResponse:
        try:
            if asked.stream:
                return await self._stream(request, job, style, asked.wants_usage)
            await job.beyond(WHOLE)
            self._check(job)
            return web.Response(body=style.whole(job), content_type="application/json")
        finally:  # a client that hangs up cancels this handler: its KV is free at once
            self._engine.abort(job)

    async def _stream(
        self, request: web.Request, job: Job, style: Style, counted: bool
    ) -> web.StreamResponse:
        # vLLM sends the headers of a stream at once. Here they go with the first token, so
        # that a router may retry a request whose replica died before it began to answer.
        await job.beyond(0)
        self._check(job)
        response = web.StreamResponse(headers=_SSE)
        await response.prepare(request)
        pending, sent = style.opening(), 0
        while True:
            pending += _chunks(job, style, sent)
            sent = job.generated
            if job.finish is not None:
                break
            await response.write(pending)
            pending = b""
            await job.beyond(sent)
        if job.finish is Finish.ERROR:
            pending += b"data: " + json_bytes(_failure(self._engine.dead)) + b"\n\n"
        elif counted:
            pending += style.usage(job)
        await response.write(pending + DONE)
        await response.write_eof()
        return response

    def _check(self, job: Job) -> None:
        """Answer 500 for a request that ended before its first byte was sent."""
        if job.finish is Finish.ERROR or (job.finish is Finish.ABORT and not job.generated):
            raise ApiError(500, DEAD if self._engine.dead else _INTERNAL)


def _failure(dead: bool) -> object:
    return error_body(500, DEAD if dead else _INTERNAL, "InternalServerError", None)


def _chunks(job: Job, style: Style, sent: int) -> bytes:
    """Write the tokens that came since `sent`, the last with the reason for its being so."""
    answer, finish = job.generation.answer, job.finish
    ended = finish in {Finish.STOP, Finish.LENGTH}
    plain = job.generated - ended
    parts = [style.chunk(answer.word(place)) for place in range(sent, plain)]
    if ended and finish is not None:
        parts.append(style.last(answer.word(plain), finish))
    elif finish is Finish.ABORT:
        parts.append(style.last("", finish))
    return b"".join(parts)


def json_response(body: object, status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.Response(body=json_bytes(body), status=status, content_type="application/json")


def _counting(http: HttpCollector, clock: Clock) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        if path in UNCOUNTED:
            return await _translated(request, handler)
        begun_s = clock.now_s()
        response = await _translated(request, handler)
        known = path if request.match_info.http_exception is None else "none"
        http.count(known, request.method, response.status, clock.now_s() - begun_s)
        http.measure(known, request.content_length or 0, response.content_length or 0)
        return response

    return count


async def _translated(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run a handler; its errors become vLLM's bodies."""
    try:
        return await handler(request)
    except ApiError as error:
        return json_response(error.body, error.status)
    except web.HTTPException as error:
        body = error_body(error.status, error.reason, error.reason, None)
        return json_response(body, error.status)


def _authorised(api_key: str) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        guarded = request.path.startswith("/v1")
        if guarded and request.headers.get("Authorization") != f"Bearer {api_key}":
            return json_response({"error": "Unauthorized"}, HTTPStatus.UNAUTHORIZED)
        return await handler(request)

    return check


def build_app(
    cost: StepCost,
    limits: Limits,
    options: Options,
    *,
    clock: Clock | None = None,
    wall: Callable[[], float] = wall_s,
) -> web.Application:
    """Make the application; raises `Refused` when the options and limits do not fit."""
    clock = clock or RealClock()
    engine = RealTimeEngine(cost, limits, options, clock)
    http = HttpCollector(wall())
    page = Page(engine, http, wall())
    faults = Faults(engine, page.engine)
    middlewares = [_counting(http, clock)]
    if options.api_key is not None:
        middlewares.append(_authorised(options.api_key))
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY_BYTES)
    app[ENGINE], app[FAULTS] = engine, faults
    api = Api(engine, clock, wall)
    app.router.add_post("/v1/completions", api.completions)
    app.router.add_post("/v1/chat/completions", api.chat)
    app.router.add_get("/v1/models", api.models)
    admin.Admin(engine, faults, page, api.resolver).add_routes(app)
    app.cleanup_ctx.append(_stepping)
    return app


async def _stepping(app: web.Application) -> AsyncIterator[None]:
    """Step the engine while the application runs."""
    engine = app[ENGINE]
    task = asyncio.create_task(_guarded(engine), name="engine")
    yield
    engine.abort_all()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _guarded(engine: RealTimeEngine) -> None:
    """Run the engine; a bug in it ends every request instead of leaving them waiting."""
    try:
        await engine.run()
    except Exception:
        log.exception("the engine's loop failed")
        engine.die(DEAD)
        raise
