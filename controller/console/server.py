"""The console's HTTP server: the page, its data, `/metrics` and probes; everything read-only.

`whaleflux up` and the operator start it. It shows views and never reaches behind them.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from controller.clock import monotonic_s
from controller.console.feed import Feed, Views
from controller.console.guard import Handler, middlewares_for, secure
from controller.metrics import Metrics
from profiler.errors import Refused

MAX_STREAMS = 64
"""Pages open at once; each costs a socket and at most one event of memory."""
SLOW_AFTER_S = 5.0
"""A client that has not taken an event for so long is dropped; its page reconnects."""
_SHUTDOWN_S = 1.0

_HERE = Path(__file__).parent
_ASSETS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/service.js": ("service.js", "text/javascript"),
    "/chart.js": ("chart.js", "text/javascript"),
    "/dom.js": ("dom.js", "text/javascript"),
    "/format.js": ("format.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

log = logging.getLogger(__name__)


def _always() -> bool:
    """Ready as soon as it listens."""
    return True


def _works() -> str:
    """It never waits for another one."""
    return ""


@asynccontextmanager
async def serve_console(
    views: Views,
    port: int,
    host: str = "127.0.0.1",
    ready: Callable[[], bool] = _always,
    metrics: Metrics | None = None,
    waits: Callable[[], str] = _works,
) -> AsyncIterator[str]:
    """Serve while the block runs; gives the page's URL.

    Port 0 takes a free one. Without `metrics`, `/metrics` tells what views tell and no more.
    While `waits` says something, that is shown in place of the page: another one has the work.
    Raises `Refused` when the port is taken.
    """
    feed = Feed(views, monotonic_s)
    app = build_app(feed, ready, metrics or Metrics(views), host, waits)
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_S
    )
    await runner.setup()
    try:
        await _listen(runner, host, port)
        yield _url(host, runner)
    finally:
        await runner.cleanup()


def build_app(
    feed: Feed,
    ready: Callable[[], bool],
    metrics: Metrics,
    host: str,
    waits: Callable[[], str] = _works,
) -> web.Application:
    """Put the routes over a feed; the feed runs while the application does."""
    app = web.Application(middlewares=(*middlewares_for(host), _unless_it(waits)))
    app.on_response_prepare.append(secure)
    for path, (name, kind) in _ASSETS.items():
        app.router.add_get(path, _asset((_HERE / name).read_bytes(), kind))
    console = _Console(feed, ready, metrics)
    app.router.add_get("/api/services", console.services)
    app.router.add_get("/api/stream", console.stream, allow_head=False)
    app.router.add_get("/metrics", console.metrics)
    app.router.add_get("/healthz", console.healthz)
    app.router.add_get("/readyz", console.readyz)
    app.cleanup_ctx.append(console.feeding)
    app.on_shutdown.append(console.end_streams)
    return app


class _Console:
    """Handlers over one feed."""

    def __init__(self, feed: Feed, ready: Callable[[], bool], metrics: Metrics) -> None:
        self._feed, self._ready, self._metrics = feed, ready, metrics
        self._streams = 0

    async def feeding(self, _: web.Application) -> AsyncIterator[None]:
        self._feed.sample()
        task = asyncio.create_task(self._feed.run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def end_streams(self, _: web.Application) -> None:
        self._feed.close()

    async def services(self, _: web.Request) -> web.Response:
        return web.Response(body=self._feed.whole(), content_type="application/json")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        if self._streams >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_STREAMS} pages are open: close one\n")
        self._streams += 1
        try:
            return await self._send(request)
        finally:
            self._streams -= 1

    async def _send(self, request: web.Request) -> web.StreamResponse:
        """Send an event a second until the client goes or takes none for `SLOW_AFTER_S`."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            async with contextlib.aclosing(self._feed.seconds()) as seconds:
                async for second in seconds:
                    async with asyncio.timeout(SLOW_AFTER_S):
                        await response.write(b"data: " + second + b"\n\n")
        except TimeoutError:
            log.info("console: dropped a page that took no event for %g s", SLOW_AFTER_S)
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            log.debug("console: a page went away")
        return response

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )

    async def healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        if self._ready():
            return web.Response(text="ok\n")
        return web.Response(text="not ready\n", status=503)


def _unless_it(waits: Callable[[], str]) -> Middleware:
    @web.middleware
    async def shown(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tell who works where this one does not; metrics and probes are its own."""
        told = waits() if request.path == "/" or request.path.startswith("/api/") else ""
        if told:
            raise web.HTTPServiceUnavailable(text=f"{told}\n")
        return await handler(request)

    return shown


def _asset(body: bytes, kind: str) -> Handler:
    async def give(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return give


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise Refused(
            f"console: cannot listen on {host}:{port} ({why}): choose another port"
        ) from error


def _url(host: str, runner: web.AppRunner) -> str:
    port = runner.addresses[0][1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
