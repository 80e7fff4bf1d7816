"""The console over real HTTP: data, stream, probes, headers, and who is turned away."""

import asyncio
import json
import math
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from aiohttp import ClientResponse, ClientSession
from prometheus_client.parser import text_string_to_metric_families

from controller.console import serve_console, server
from controller.console.history import SAMPLES_KEPT, History, key_of
from controller.metrics import Metrics
from profiler.errors import Refused
from tests.controller.console.some_views import Fleet, a_console, a_view, an_unknown_view


async def an_event(stream: ClientResponse) -> dict[str, Any]:
    """Read the next event."""
    async with asyncio.timeout(10):
        line = await stream.content.readuntil(b"\n\n")
    assert line.startswith(b"data: ")
    document: dict[str, Any] = json.loads(line[6:])
    return document


def drain(client: socket.socket) -> int:
    """Take what is left until the other side has closed; bytes."""
    return sum(len(part) for part in iter(lambda: client.recv(1 << 20), b""))


async def test_the_services_are_json_with_their_history() -> None:
    async with a_console(Fleet((a_view(),))) as client, client.get("/api/services") as answer:
        assert answer.content_type == "application/json"
        (service,) = (await answer.json())["services"]
    assert service["name"] == "chat"
    assert service["replicas"][0]["kv_usage_ratio"] == 0.64
    assert service["decisions"][0]["reason"] == "DemandRising"
    assert service["history"]["arrival_rps"] == [7.25]
    assert service["history"]["serving"] == [1]


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
async def test_the_unknown_is_null(unknown: float | None) -> None:
    view = a_view(arrival_rps=unknown, ttft_s=unknown)
    async with a_console(Fleet((view,))) as client, client.get("/api/services") as answer:
        text = await answer.text()
    assert "NaN" not in text
    assert "Infinity" not in text
    (service,) = json.loads(text)["services"]
    assert service["arrival_rps"] is None
    assert service["history"]["ttft_s"] == [None]


async def test_figures_of_numpy_are_numbers() -> None:
    view = a_view(capacity_rps=np.float64(12.5))
    async with a_console(Fleet((view,))) as client, client.get("/api/services") as answer:
        (service,) = (await answer.json())["services"]
    assert service["capacity_rps"] == 12.5
    assert service["history"]["capacity_rps"] == [12.5]


async def test_the_stream_brings_every_second() -> None:
    fleet = Fleet((a_view(),))
    async with a_console(fleet) as client, client.get("/api/stream") as stream:
        assert stream.content_type == "text/event-stream"
        first = await an_event(stream)
        fleet.seen = (a_view(arrival_rps=9.0),)
        second = await an_event(stream)
    assert first["services"][0]["arrival_rps"] == 7.25
    assert second["services"][0]["arrival_rps"] == 9.0
    assert second["services"][0]["history"]["arrival_rps"] == [9.0]
    assert second["at_s"] > first["at_s"]


async def test_clients_share_one_reading_of_the_views() -> None:
    fleet = Fleet((a_view(),))
    async with a_console(fleet) as client:
        streams = [await client.get("/api/stream") for _ in range(5)]
        for stream in streams:
            await an_event(stream)
        before = fleet.asked
        for stream in streams:
            await an_event(stream)
            stream.close()
    assert fleet.asked <= before + 2


async def test_views_that_fail_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet((a_view(),))
    whole = fleet.views
    broken = True

    def views() -> Any:
        if broken:
            raise RuntimeError("no plane")
        return whole()

    async with serve_console(views, 0) as url, ClientSession(url) as client:
        async with client.get("/api/services") as answer:
            assert (await answer.json())["services"] == []
        broken = False
        async with client.get("/api/stream") as stream:
            await an_event(stream)
            assert (await an_event(stream))["services"][0]["name"] == "chat"
    assert "no plane" in caplog.text


async def test_leaving_ends_open_streams_at_once() -> None:
    async with asyncio.timeout(5), ClientSession() as client:
        async with serve_console(Fleet((a_view(),)).views, 0) as url:
            stream = await client.get(f"{url}/api/stream")
            await an_event(stream)
        await stream.read()


async def test_a_page_that_takes_no_event_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "SLOW_AFTER_S", 0.2)
    caplog.set_level("INFO", "controller.console")
    fleet = Fleet((a_view(message="x" * 20_000_000),))  # more than any socket buffer takes
    async with serve_console(fleet.views, 0) as url, asyncio.timeout(20):
        with socket.create_connection(("127.0.0.1", urlsplit(url).port)) as client:
            client.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while "dropped a page" not in caplog.text:  # noqa: ASYNC110 - the log tells
                await asyncio.sleep(0.01)
            taken = await asyncio.to_thread(drain, client)
    assert 0 < taken < 20_000_000


async def test_pages_beyond_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_STREAMS", 1)
    async with a_console(Fleet()) as client, client.get("/api/stream") as stream:
        await an_event(stream)
        async with client.get("/api/stream") as refused:
            assert refused.status == 503


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/api/services", "/metrics", "/healthz", "/nowhere"]
)
async def test_every_answer_carries_the_security_headers(path: str) -> None:
    async with a_console(Fleet()) as client, client.get(path) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("console.localhost", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:8080", 421),
        ("[", 421),
    ],
)
async def test_on_loopback_only_its_own_names_are_answered(host: str, status: int) -> None:
    async with (
        a_console(Fleet()) as client,
        client.get("/api/services", headers={"Host": host}) as answer,
    ):
        assert answer.status == status


async def test_beyond_loopback_any_name_is_fair() -> None:
    async with (
        serve_console(Fleet().views, 0, host="0.0.0.0") as url,
        ClientSession() as client,
        client.get(
            f"http://127.0.0.1:{urlsplit(url).port}/healthz", headers={"Host": "console.example"}
        ) as answer,
    ):
        assert answer.status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_written(method: str) -> None:
    async with a_console(Fleet()) as client:
        for path in ("/", "/api/services", "/api/stream", "/metrics"):
            async with client.request(method, path) as answer:
                assert answer.status == 405


async def test_ready_follows_its_owner_and_healthy_does_not() -> None:
    fleet = Fleet(ready=False)
    async with a_console(fleet) as client:
        async with client.get("/readyz") as answer:
            assert answer.status == 503
        async with client.get("/healthz") as answer:
            assert answer.status == 200
        fleet.ready = True
        async with client.get("/readyz") as answer:
            assert answer.status == 200


async def test_one_that_waits_says_who_works_and_shows_metrics_and_probes_all_the_same() -> None:
    told = ["another one leads: port-forward to pod/b"]
    async with a_console(Fleet((a_view(),)), waits=lambda: told[0]) as client:
        for path in ("/", "/api/services", "/api/stream"):
            async with client.get(path) as answer:
                assert (answer.status, await answer.text()) == (503, f"{told[0]}\n")
        for path in ("/metrics", "/readyz", "/healthz"):
            async with client.get(path) as answer:
                assert answer.status == 200
        told[0] = ""
        async with client.get("/") as answer:
            assert answer.status == 200


async def test_the_metrics_given_are_those_served() -> None:
    fleet = Fleet((a_view(),))
    metrics = Metrics(fleet.views)
    metrics.decisions.count("default", "chat", "Backlog")
    async with a_console(fleet, metrics=metrics) as client, client.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        text = await answer.text()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"whaleflux_service_replicas", "whaleflux_decisions"} <= names
    assert 'reason="Backlog"' in text


async def test_a_taken_port_is_refused_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"127.0.0.1:{port}.*in use.*another port") as refused:
            async with serve_console(Fleet().views, port):
                pass
    assert "\n" not in str(refused.value)


def test_history_is_bounded_and_keeps_the_newest() -> None:
    history, view = History(), a_view()
    for second in range(SAMPLES_KEPT + 50):
        history.record((view,), float(second))
    assert history.columns(key_of(view))["at_s"] == list(range(50, SAMPLES_KEPT + 50))
    assert history.newest(key_of(view))["at_s"] == [SAMPLES_KEPT + 49]


def test_history_forgets_a_service_that_went() -> None:
    history, view, other = History(), a_view(), an_unknown_view(name="other")
    history.record((view, other), 1.0)
    history.record((other,), 2.0)
    assert history.columns(key_of(view))["at_s"] == []
    assert history.columns(key_of(other))["arrival_rps"] == [None, None]


def test_services_of_one_name_in_two_namespaces_have_their_own_past() -> None:
    history = History()
    here, there = a_view(), a_view(namespace="other", arrival_rps=1.0)
    history.record((here, there), 1.0)
    assert history.columns(key_of(here))["arrival_rps"] == [7.25]
    assert history.columns(key_of(there))["arrival_rps"] == [1.0]


def test_every_file_of_the_page_is_served() -> None:
    """A file beside the page that no route names would be missing only in the browser."""
    here = Path(server.__file__).parent
    beside = {path.name for path in here.iterdir() if path.suffix not in {".py", ""}}
    assert beside == {name for name, _ in server._ASSETS.values()}
