"""What reading one engine's `/metrics` costs: CPU of this process a page, through `scrape_all`.

The pages are an emulated engine's after some traffic, answered by a process of its own on one
loopback address each.
"""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.synchronize import Event

import aiohttp
from aiohttp import web

from benchmarks.engine_process import emulated_engine
from controller.clock import monotonic_s
from controller.runtimes.processes import free_port
from monitor.sources.scrape import scrape_all

_MODEL = "Llama-3.2-1B-Instruct"
_ROUNDS = 5
_AT_ONCE = 64


def scrape_ms(pages: int) -> dict[str, float]:
    """CPU and wall milliseconds a page, with 64 under way at once."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    page = asyncio.run(_recorded())
    port = free_port()
    server = context.Process(target=_serve, args=(page, pages, port, ready, stop), daemon=True)
    server.start()
    try:
        if not ready.wait(60):
            raise TimeoutError("the pages are not served")
        urls = [f"http://{_address(i)}:{port}/metrics" for i in range(pages)]
        return asyncio.run(_measure(urls, len(page)))
    finally:
        stop.set()
        server.join(10)


async def _measure(urls: list[str], size_bytes: int) -> dict[str, float]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await scrape_all(session, urls, now_s=monotonic_s)  # connections are kept from here on
        used_s, began_s = time.process_time(), time.monotonic()
        for _ in range(_ROUNDS):
            readings = await scrape_all(session, urls, now_s=monotonic_s, at_once=_AT_ONCE)
            blind = [reading for reading in readings.values() if reading.signals is None]
            if blind:
                raise RuntimeError(f"{len(blind)} pages could not be read: {blind[0]}")
        count = _ROUNDS * len(urls)
        return {
            f"CPU a page of {size_bytes} bytes": 1e3 * (time.process_time() - used_s) / count,
            f"wall a page of {size_bytes} bytes": 1e3 * (time.monotonic() - began_s) / count,
        }


def _address(i: int) -> str:
    return f"127.65.{i // 250}.{1 + i % 250}"


async def _recorded() -> bytes:
    """Read the page of an emulated engine that has answered some requests."""
    flags = (f"--model={_MODEL}", "--gpu=L4", "--start-up-s=0", "--speed=10")
    async with emulated_engine(flags) as url, aiohttp.ClientSession() as session:
        for length in range(1, 33):
            ask = {"model": _MODEL, "prompt": "a " * 8 * length, "max_tokens": length}
            async with session.post(f"{url}/v1/completions", json=ask) as answer:
                if answer.status != 200:
                    raise RuntimeError(await answer.text())
                await answer.read()
        async with session.get(f"{url}/metrics") as answer:
            return await answer.read()


def _serve(page: bytes, pages: int, port: int, ready: Event, stop: Event) -> None:
    asyncio.run(_serve_until(page, pages, port, ready, stop))


async def _serve_until(page: bytes, pages: int, port: int, ready: Event, stop: Event) -> None:
    async with _site(page, pages, port):
        ready.set()
        await asyncio.to_thread(stop.wait)


@asynccontextmanager
async def _site(page: bytes, pages: int, port: int) -> AsyncIterator[None]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for i in range(pages):
        await web.TCPSite(runner, _address(i), port).start()
    try:
        yield
    finally:
        await runner.cleanup()
