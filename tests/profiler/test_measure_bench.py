"""`whaleflux bench`: one clear line for a mistake, and an exit code that tells."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner, Result

from controller.cli import build_app
from profiler.errors import Refused
from tests.profiler.measure_server import FakeEngine, answering, as_asked

DRAWN = ("--rate", "50", "--input-tokens", "5", "--output-tokens", "2", "--duration", "0.2")


@pytest.fixture
def engine() -> Iterator[tuple[FakeEngine, str]]:
    """A server on a loop of its own, since the command runs one itself."""
    fake = FakeEngine(as_asked())
    loop = asyncio.new_event_loop()
    server = TestServer(fake.app())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start_server(), loop).result(30)
    yield fake, str(server.make_url("")).rstrip("/")
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


def bench(*arguments: str) -> Result:
    result = CliRunner().invoke(build_app("bench"), ["bench", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_reports_as_json(engine: tuple[FakeEngine, str]) -> None:
    result = bench(engine[1], *DRAWN, "--slo-ttft-ms", "60000", "-o", "json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["ok"] == report["sent"] > 0
    assert (report["slo"]["ttft_s"], report["slo_met"]) == (60, True)
    assert {body["model"] for body in engine[0].bodies} == {"tiny"}


def test_replays_a_trace_cut_and_compressed(engine: tuple[FakeEngine, str], tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n0,3,1\n1,4,2\n2,5,1\n")
    given = ("--until", "2", "--compress", "100", "--model", "mine", "--no-stream")
    result = bench(engine[1] + "/v1/", "--trace", str(path), *given)
    assert result.exit_code == 0
    assert "whaleflux bench" in result.stdout
    assert [len(body["prompt"]) for body in engine[0].bodies] == [3, 4]
    assert {(body["model"], body["stream"]) for body in engine[0].bodies} == {("mine", False)}


def test_failed_requests_set_the_exit_code(engine: tuple[FakeEngine, str]) -> None:
    engine[0].answer = answering(500, text="boom")
    result = bench(engine[1], *DRAWN, "--cv", "2")
    assert result.exit_code == 1
    assert "HTTP 500: boom" in result.stderr
    assert bench(engine[1], *DRAWN, "--allow-errors").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing to send"),
        (("--rate", "5"), "--rate needs --input-tokens"),
        (("--rate", "5", "--input-tokens", "5"), "together"),
        (("--rate", "5", "--input-tokens", "0", "--output-tokens", "1"), "at least 1"),
        (("--rate", "-5", "--input-tokens", "1", "--output-tokens", "1"), "must be a positive"),
        ((*DRAWN, "--until", "0"), "no request falls"),
        ((*DRAWN, "--compress", "0"), "positive factor"),
        ((*DRAWN, "--timeout", "0"), "--timeout must be positive"),
        ((*DRAWN, "--slo-ttft-ms", "0"), "ttft_s must be positive"),
        ((*DRAWN, "--slo-ttft-ms", "5", "--slo-percentile", "100"), "percentile must lie"),
        (("--trace", "nowhere.csv"), "nowhere.csv: cannot be read"),
        (DRAWN, "127.0.0.1:1/v1/models cannot be reached"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(Refused, match=says) as fault:
        bench("http://127.0.0.1:1", *arguments)
    assert "\n" not in str(fault.value)


def test_a_server_without_models_needs_one_named(engine: tuple[FakeEngine, str]) -> None:
    engine[0].models = {"data": []}
    with pytest.raises(Refused, match="lists no model"):
        bench(engine[1], *DRAWN)
    assert bench(engine[1], *DRAWN, "--model", "tiny").exit_code == 0


def test_a_traces_lengths_can_be_drawn_at_a_rate(
    engine: tuple[FakeEngine, str], tmp_path: Path
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n0,3,1\n")
    result = bench(engine[1], "--trace", str(path), "--rate", "50", "--duration", "0.2")
    assert result.exit_code == 0
    assert {len(body["prompt"]) for body in engine[0].bodies} == {3}
