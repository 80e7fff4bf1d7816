"""What is served beside the OpenAI API: health, metrics, sleep, tokens, faults."""

from aiohttp import web

from profiler.emulator import tokens
from profiler.emulator.engine import RealTimeEngine
from profiler.emulator.faults import FaultRequest, Faults
from profiler.emulator.metrics import Page
from profiler.emulator.options import VLLM_VERSION
from profiler.emulator.protocol import (
    ApiError,
    Resolver,
    TokenizeRequest,
    message_pieces,
    parse,
    prompt_pieces,
)
from profiler.emulator.replies import json_bytes

METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"


class Admin:
    """Handlers of one engine's side doors."""

    def __init__(
        self, engine: RealTimeEngine, faults: Faults, page: Page, resolver: Resolver
    ) -> None:
        self._engine, self._faults, self._page = engine, faults, page
        self._resolver = resolver

    def add_routes(self, app: web.Application) -> None:
        """Serve them; sleep and faults only where they are enabled."""
        router, options = app.router, self._engine.options
        router.add_get("/health", self.health)
        router.add_route("*", "/ping", self.health)
        router.add_get("/version", self.version)
        router.add_get("/metrics", self.metrics)
        router.add_post("/tokenize", self.tokenize)
        if options.sleep_mode:
            # vLLM asks for VLLM_SERVER_DEV_MODE=1 besides.
            router.add_post("/sleep", self.sleep)
            router.add_post("/wake_up", self.wake_up)
            router.add_get("/is_sleeping", self.is_sleeping)
        if options.faults:
            router.add_post("/faults", self.faults)

    async def health(self, _: web.Request) -> web.Response:
        """Say 200 unless the engine is dead: a hang does not show, nor does draining."""
        return web.Response(status=503 if self._engine.dead else 200)

    async def version(self, _: web.Request) -> web.Response:
        """Name the vLLM release that is emulated."""
        return _json({"version": VLLM_VERSION})

    async def metrics(self, _: web.Request) -> web.Response:
        """Write the Prometheus page."""
        if self._faults.metrics_gone:
            raise ApiError(404, "Not Found")
        return web.Response(body=self._page.render(), headers={"Content-Type": METRICS_TYPE})

    async def tokenize(self, request: web.Request) -> web.Response:
        """Count the tokens of a prompt or a chat."""
        asked = parse(await request.read(), TokenizeRequest)
        self._resolver.check_model(asked.model)
        cut = message_pieces(asked.messages) if asked.messages else prompt_pieces(asked.prompt)
        ids = tokens.token_ids(cut)
        longest = self._resolver.max_model_len
        body = {"count": len(ids), "max_model_len": longest, "tokens": ids, "token_strs": None}
        return _json(body)

    async def sleep(self, request: web.Request) -> web.Response:
        """Sleep at `level` 1 or 2; requests in flight are aborted."""
        level = request.query.get("level", "1")
        if level not in {"1", "2"}:
            raise ApiError(400, f"level must be 1 or 2, got {level}.", "level")
        self._engine.sleep(int(level))
        return web.Response()

    async def wake_up(self, _: web.Request) -> web.Response:
        """Answer when the engine steps again."""
        await self._engine.wake_up()
        return web.Response()

    async def is_sleeping(self, _: web.Request) -> web.Response:
        """Say whether it sleeps."""
        return _json({"is_sleeping": self._engine.sleep_level > 0})

    async def faults(self, request: web.Request) -> web.Response:
        """Inject a fault."""
        fault = parse(await request.read(), FaultRequest)
        self._faults.inject(fault)
        return _json({"kind": fault.kind})


def _json(body: object) -> web.Response:
    return web.Response(body=json_bytes(body), content_type="application/json")
