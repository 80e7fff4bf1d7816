"""A replica that does not answer is a reading with its reason, never an exception."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from monitor import scrape, scrape_all
from tests.monitor.pages import vllm


def clock() -> float:
    return 42.0


async def page(_: web.Request) -> web.Response:
    return web.Response(body=vllm().page())


async def other(_: web.Request) -> web.Response:
    return web.Response(text="process_cpu_seconds_total 1\n")


async def broken(_: web.Request) -> web.Response:
    return web.Response(status=503)


async def large(_: web.Request) -> web.Response:
    return web.Response(body=b"x" * 2000)


async def cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"vllm:num_requests_running 1\n")
    assert request.transport is not None
    request.transport.abort()
    return response


async def silent(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    app = web.Application()
    for handler in (page, other, broken, large, cut, silent):
        app.router.add_get(f"/{handler.__name__}", handler)
    running = TestServer(app, shutdown_timeout=0)
    async with running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def test_reads_signals_with_the_moment(
    server: TestServer, session: aiohttp.ClientSession
) -> None:
    reading = await scrape(session, str(server.make_url("/page")), now_s=clock)
    assert reading.signals is not None
    assert (reading.signals.running, reading.at_s, reading.error) == (0, 42.0, None)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/other", "the page has none of"),
        ("/broken", "HTTP 503 Service Unavailable"),
        ("/large", "the page exceeds 1000 bytes"),
        ("/cut", "ClientPayloadError"),
        ("/silent", "no answer within 0.05 s"),
        ("/nowhere", "HTTP 404"),
    ],
)
async def test_the_error_says_which_fault_it_was(
    server: TestServer, session: aiohttp.ClientSession, path: str, says: str
) -> None:
    url = str(server.make_url(path))
    timeout_s = 0.05 if path == "/silent" else 30.0
    reading = await scrape(session, url, now_s=clock, timeout_s=timeout_s, limit_bytes=1000)
    assert reading.signals is None
    assert says in (reading.error or "")
    assert url in (reading.error or "")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/metrics", "not a url", "http://[bad/metrics"])
async def test_an_address_nobody_answers_is_a_reading(
    session: aiohttp.ClientSession, url: str
) -> None:
    reading = await scrape(session, url, now_s=clock, timeout_s=30.0)
    assert reading.signals is None
    assert reading.error


async def test_one_bad_replica_does_not_spoil_the_others(
    server: TestServer, session: aiohttp.ClientSession
) -> None:
    good, bad = (str(server.make_url(path)) for path in ("/page", "/broken"))
    readings = await scrape_all(session, [bad, good, good], now_s=clock, at_once=1)
    assert list(readings) == [bad, good]
    assert readings[good].signals is not None
    assert readings[bad].signals is None
