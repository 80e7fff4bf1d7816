"""The client of Prometheus' API: arrays out of answers, one clear line out of everything else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from monitor.sources import prometheus as module
from monitor.sources.prometheus import Prometheus, duration, selector
from profiler.errors import Refused, RetryLater

Answer = Callable[[dict[str, str]], web.StreamResponse]


@dataclass
class Server:
    """Answers what it is told to, and remembers what it was asked."""

    answer: Answer
    url: str = ""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and form of each request."""
    headers: list[str] = field(default_factory=list)
    """The `Authorization` of each."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        given = await request.post() if request.method == "POST" else request.query
        form = {name: str(value) for name, value in given.items()}
        self.asked.append((request.method, request.path, form))
        self.headers.append(request.headers.get("Authorization", ""))
        return self.answer(form)


Serve = Callable[[Answer], Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    running: list[TestServer] = []

    async def start(answer: Answer) -> Server:
        server = Server(answer)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.handle)
        running.append(TestServer(app))
        await running[-1].start_server()
        server.url = str(running[-1].make_url("")).rstrip("/")
        return server

    yield start
    for each in running:
        await each.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def success(kind: str, result: object, **more: object) -> web.Response:
    body = {"status": "success", "data": {"resultType": kind, "result": result}, **more}
    return web.json_response(body)


def error(status: int, says: str) -> web.Response:
    body = {"status": "error", "errorType": "bad_data", "error": says}
    return web.json_response(body, status=status)


async def test_an_instant_query_gives_a_value_per_series(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    result = [
        {"metric": {"job": "a"}, "value": [7, "1.5"]},
        {"metric": {"job": "b"}, "value": [7, "NaN"]},
        {"metric": {"job": "c"}, "value": [7, "+Inf"]},
        {"metric": {"job": "d"}, "histogram": [7, {"count": "1"}]},
    ]
    server = await serve(lambda _: success("vector", result, warnings=["partial"]))
    found = await Prometheus(http, server.url).instant_query("up", 7.0)
    assert [s.labels["job"] for s in found.samples] == ["a", "b", "c", "d"]
    np.testing.assert_equal([s.value for s in found.samples], [1.5, np.nan, np.inf, np.nan])
    assert found.warnings == ("partial",)
    assert server.asked == [("POST", "/api/v1/query", {"query": "up", "time": "7.000"})]


async def test_nothing_found_is_an_answer(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve(lambda form: success("matrix" if "step" in form else "vector", []))
    client = Prometheus(http, server.url)
    assert (await client.instant_query("up", 7.0)).samples == ()
    grid = await client.range_query("up", 0.0, 10.0, 5.0)
    assert grid.values.shape == (0, 3)


async def test_a_range_query_leaves_nan_where_there_was_no_sample(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    result = [
        {"metric": {"job": "a"}, "values": [[100, "1"], [120, "3"]]},
        {"metric": {"job": "b"}, "values": [[110, "NaN"], [120, "5"]]},
    ]
    server = await serve(lambda _: success("matrix", result))
    grid = await Prometheus(http, server.url).range_query("up", 100.0, 129.0, 10.0)
    np.testing.assert_array_equal(grid.at_s, [100.0, 110.0, 120.0])
    np.testing.assert_array_equal(grid.values, [[1, np.nan, 3], [np.nan, np.nan, 5]])
    assert grid.labels == ({"job": "a"}, {"job": "b"})


def counting(form: dict[str, str]) -> web.Response:
    """Each series' value is its moment; series b ends at 25."""
    start, end, step = (float(form[name]) for name in ("start", "end", "step"))
    moments = [start + i * step for i in range(int((end - start) / step + 1.5))]
    every: list[tuple[float, str]] = [(at, str(at)) for at in moments]
    result: list[object] = [{"metric": {"job": "a"}, "values": every}]
    if start <= 25:
        result.append({"metric": {"job": "b"}, "values": [v for v in every if v[0] <= 25]})
    return success("matrix", result, warnings=["partial"])


async def test_a_long_range_is_asked_for_in_parts_that_join(
    serve: Serve, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POINTS_A_REQUEST", 10)
    server = await serve(counting)
    grid = await Prometheus(http, server.url).range_query("up", 0.0, 34.0, 1.0)
    assert [(f["start"], f["end"]) for _, _, f in server.asked] == [
        ("0.000", "9.000"),
        ("10.000", "19.000"),
        ("20.000", "29.000"),
        ("30.000", "34.000"),
    ]
    np.testing.assert_array_equal(grid.values[0], np.arange(35.0))
    np.testing.assert_array_equal(
        grid.values[1], np.where(np.arange(35) <= 25, np.arange(35), np.nan)
    )
    assert grid.warnings == ("partial",)


async def test_stored_samples_keep_their_own_moments(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    result = [{"metric": {"job": "a"}, "values": [[1.25, "1"], [16.5, "2"]]}]
    server = await serve(lambda _: success("matrix", result))
    (series,) = await Prometheus(http, server.url).stored_samples("up[1m]", 20.0)
    assert (series.at_s.tolist(), series.values.tolist()) == ([1.25, 16.5], [1.0, 2.0])


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (lambda _: error(400, "parse error: unexpected <eof>"), Refused, "HTTP 400: parse error"),
        (
            lambda _: error(422, "query processing would load too many samples into memory"),
            Refused,
            "take a shorter time, a longer step or fewer series",
        ),
        (lambda _: error(503, "query timed out"), RetryLater, "HTTP 503: query timed out: try"),
        (lambda _: web.Response(status=429), RetryLater, "HTTP 429: try again"),
        (lambda _: web.Response(status=401, text="no"), Refused, "a token that may read"),
        (lambda _: web.Response(text="<html>Grafana</html>"), Refused, "in front of /api/v1"),
        (lambda _: web.Response(status=404, text="nope"), Refused, "HTTP 404: is not Prometheus"),
        (lambda _: web.json_response({"status": "success"}), Refused, "HTTP 200"),
        (lambda _: success("vector", [{"metric": 3}]), Refused, "is not Prometheus' API"),
        (lambda _: success("scalar", [7, "1"]), Refused, "a scalar where a vector was asked for"),
        (lambda _: web.Response(body=b"x" * 3000), Refused, "the answer exceeds 2000 bytes"),
        (
            lambda _: success("vector", [{"metric": {}, "value": [7, "1"]}] * 4),
            Refused,
            "4 series, more than 3: match fewer",
        ),
        (
            lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.2/login?t=1"}),
            Refused,
            "redirects elsewhere",
        ),
    ],
)
async def test_a_fault_is_one_line_with_the_address_and_the_mend(
    serve: Serve, http: aiohttp.ClientSession, answer: Answer, kind: type[Exception], says: str
) -> None:
    server = await serve(answer)
    client = Prometheus(http, server.url, limit_bytes=2000, limit_series=3)
    with pytest.raises(kind) as caught:
        await client.instant_query("up", 7.0)
    text = str(caught.value)
    assert says in text
    assert server.url in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://127.0.0.1:1", RetryLater),
        ("127.0.0.1:9090", Refused),
        ("ftp://127.0.0.1", Refused),
        ("not a url", Refused),
        ("", Refused),
    ],
)
async def test_an_address_nobody_answers_is_told(
    http: aiohttp.ClientSession, url: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="address"):
        await Prometheus(http, url).instant_query("up", 7.0)


async def test_silence_ends_after_the_time_given(
    http: aiohttp.ClientSession,
) -> None:
    never = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/api/v1/query", wait)
    async with TestServer(app) as server:
        client = Prometheus(http, str(server.make_url("")), timeout_s=0.05)
        with pytest.raises(RetryLater, match=r"no answer within 0\.05 s"):
            await client.instant_query("up", 7.0)
        never.set()


async def test_where_post_is_forbidden_it_reads_by_get(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(
        lambda _: web.Response(status=405) if len(server.asked) == 1 else success("vector", [])
    )
    await Prometheus(http, server.url).instant_query('up{a="ü&="}', 7.0)
    form = {"query": 'up{a="ü&="}', "time": "7.000"}
    assert server.asked == [("POST", "/api/v1/query", form), ("GET", "/api/v1/query", form)]


async def test_a_path_in_front_of_the_api_is_kept(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve(lambda _: success("vector", []))
    await Prometheus(http, f"{server.url}/select/0/prometheus/").instant_query("up", 7.0)
    assert server.asked[0][1] == "/select/0/prometheus/api/v1/query"


async def test_the_token_is_read_at_every_request(
    serve: Serve, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    server = await serve(lambda _: success("vector", []))
    file = tmp_path / "token"
    client = Prometheus(http, server.url, token_file=file)
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        await client.instant_query("up", 7.0)
    assert server.headers == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("held", ["", "two hidden\nlines", "hidden\x00", "hïdden", None])
async def test_a_bad_token_file_is_named_and_what_it_holds_is_not(
    http: aiohttp.ClientSession, tmp_path: Path, held: str | None
) -> None:
    file = tmp_path / "token"
    if held is not None:
        file.write_text(held, "utf-8")
    with pytest.raises(Refused, match="token file") as caught:
        await Prometheus(http, "http://127.0.0.1:1", token_file=file).instant_query("up", 7.0)
    assert str(file) in str(caught.value)
    assert "dden" not in str(caught.value)


async def test_secrets_appear_in_no_message_and_no_representation(
    serve: Serve, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("hidden-token")
    server = await serve(lambda _: error(400, "bad"))
    with_user = server.url.replace("http://", "http://me:hidden@")
    for client in (Prometheus(http, server.url, file), Prometheus(http, with_user)):
        with pytest.raises(Refused) as caught:
            await client.instant_query("up", 7.0)
        assert "hidden" not in str(caught.value)
        assert "hidden" not in client.shown
        assert "hidden" not in repr(client)


@pytest.mark.parametrize(
    ("start_s", "end_s", "step_s"),
    [(0.0, 1e9, 60.0), (5.0, 1.0, 1.0), (0.0, np.nan, 1.0), (0, 9, 0)],
)
async def test_a_range_nobody_can_answer_is_refused_before_it_is_sent(
    http: aiohttp.ClientSession, start_s: float, end_s: float, step_s: float
) -> None:
    with pytest.raises(Refused, match=r"step of at least|no time to ask for"):
        await Prometheus(http, "http://127.0.0.1:1").range_query("up", start_s, end_s, step_s)


def test_a_selector_escapes_what_people_write() -> None:
    matchers = {"job": 'a"b\\c\nd', "model_name": "Qwen/Qwen3-0.6B"}
    assert selector(["vllm:x_total"], matchers) == (
        r'vllm:x_total{job="a\"b\\c\nd",model_name="Qwen/Qwen3-0.6B"}'
    )
    assert selector(["up"], {}) == "up{}"


def test_a_selector_of_several_metrics_names_them_in_one_matcher() -> None:
    assert selector(["a_total", "b_total"], {"job": "x"}) == (
        '{__name__=~"a_total|b_total",job="x"}'
    )


@pytest.mark.parametrize("label", ["", "a-b", "1a", 'x="1"} or up{y', "ä"])
def test_what_is_no_label_is_refused(label: str) -> None:
    with pytest.raises(Refused, match="no label's name: give LABEL=VALUE"):
        selector(["up"], {label: "x"})


def test_durations_are_whole_milliseconds() -> None:
    assert [duration(s) for s in (0.5, 3600.0, 1e-9)] == ["500ms", "3600000ms", "1ms"]
