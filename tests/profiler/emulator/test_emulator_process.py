"""The process: start-up, signals, draining, and what the command line refuses."""

import asyncio
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientResponse, ClientSession

from controller.cli.emulate import emulate
from profiler.document import to_document
from profiler.emulator import ENGINE, ManualClock, RealTimeEngine, Serving, build_app
from profiler.emulator.faults import OUT_OF_MEMORY
from profiler.emulator.process import StartUpError, serve, take_port
from profiler.errors import Refused
from profiler.layout import Layout
from profiler.profile import resolve_profile

from .emulated import STEP_S, a_cost, some_limits, some_options, until

LONG = {"prompt": "a b c", "max_tokens": 50, "ignore_eos": True, "stream": True}
MODEL = ("--model", "Qwen/Qwen3-0.6B")


def free_port() -> int:
    with take_port("127.0.0.1", 0) as taken:
        return int(taken.getsockname()[1])


class Process:
    """`serve` within the test: signals come by `os.kill`, time by the clock."""

    def __init__(self, **serving: float) -> None:
        self.clock = ManualClock()
        self.port = free_port()
        app = build_app(a_cost(), some_limits(), some_options(), clock=self.clock)
        self.engine: RealTimeEngine = app[ENGINE]
        settings = Serving(port=self.port, **serving)  # type: ignore[arg-type]
        self.task = asyncio.create_task(serve(app, settings, self.clock, 0.0))

    async def started(self) -> None:
        async with asyncio.timeout(30):
            while not await self.listens():
                await self.clock.advance(0.1)

    async def listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[tuple[ClientSession, ClientResponse]]:
        """A client that has read the head of a long answer."""
        async with ClientSession(f"http://127.0.0.1:{self.port}") as session:
            sent = asyncio.create_task(session.post("/v1/completions", json=LONG))
            await until(lambda: self.engine.in_flight > 0)
            await self.clock.advance(2.5 * STEP_S)
            yield session, await sent


async def test_it_listens_only_after_the_start_up() -> None:
    process = Process(start_up_s=60.0)
    await until(lambda: process.clock.sleepers > 0)
    await process.clock.advance(59.9)
    assert not await process.listens()
    await process.started()
    os.kill(os.getpid(), signal.SIGTERM)
    await process.task


async def test_told_to_stop_while_it_starts_it_stops() -> None:
    process = Process(start_up_s=60.0)
    await until(lambda: process.clock.sleepers > 0)
    os.kill(os.getpid(), signal.SIGTERM)
    await process.task


async def test_with_a_timeout_requests_in_flight_finish() -> None:
    process = Process(shutdown_timeout_s=30.0)
    await process.started()
    async with process.streaming() as (session, answer):
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: process.engine.draining)
        async with session.get("/health") as health:
            assert health.status == 200
        async with session.post("/v1/completions", json=LONG) as refused:
            assert refused.status == 500
        await process.clock.advance(10)
        text = await answer.text()
    await process.task
    assert text.count('"text"') == 50
    assert '"finish_reason":"length"' in text


@pytest.mark.parametrize("timeout_s", [0.0, 0.02])
async def test_without_one_or_at_its_end_they_are_aborted(timeout_s: float) -> None:
    process = Process(shutdown_timeout_s=timeout_s)
    await process.started()
    async with process.streaming() as (_, answer):
        os.kill(os.getpid(), signal.SIGTERM)
        text = await answer.text()
    await process.task
    assert '"finish_reason":"abort"' in text


async def test_a_second_signal_aborts_at_once() -> None:
    process = Process(shutdown_timeout_s=3600.0)
    await process.started()
    async with process.streaming() as (_, answer):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: process.engine.draining)
        assert '"finish_reason":"abort"' in await answer.text()
    await process.task
    with pytest.raises(ClientConnectionError):
        async with ClientSession() as session:
            await session.get(f"http://127.0.0.1:{process.port}/health")


async def test_out_of_memory_ends_the_start_up_part_of_the_way() -> None:
    process = Process(start_up_s=10.0, out_of_memory=True)
    await until(lambda: process.clock.sleepers > 0)
    await process.clock.advance(5.9)
    assert not process.task.done()
    await process.clock.advance(0.2)
    with pytest.raises(StartUpError):
        await process.task


async def test_a_port_already_taken_is_refused() -> None:
    with take_port("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"--port: cannot listen on 127.0.0.1:{port}"):
            take_port("127.0.0.1", port)


def command(*flags: str) -> list[str]:
    return [sys.executable, "-c", "from controller.cli import main; main()", "emulate", *flags]


def refused(*flags: str) -> str:
    """Run the command; what it says on stderr when it exits with 2."""
    done = subprocess.run(command(*flags), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ((*MODEL, "--max-num-seq", "4"), "--max-num-seq: .* did you mean --max-num-seqs"),
        ((*MODEL, "spare"), "spare: an argument where a flag was expected"),
        (("--model", "no/such"), "model: 'no/such'"),
        ((*MODEL, "--gpu", "Voodoo2"), "Voodoo2"),
        ((*MODEL, "--tensor-parallel-size=5"), "tensor_parallel_size: 5"),
        ((*MODEL, "--gpu-memory-utilization", "0.01"), "does not fit"),
        ((*MODEL, "--num-gpu-blocks-override", "10"), "--max-model-len .* KV cache of 160"),
        ((*MODEL, "--profile", "/no/file"), "profile: cannot read"),
    ],
)
def test_a_user_s_mistake_is_one_line(flags: tuple[str, ...], line: str) -> None:
    said = refused(*flags)
    assert re.fullmatch(f"error: .*{line}.*\n", said), said


@contextmanager
def running(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, once it says where it listens."""
    arguments = command(*MODEL, "--port", "0", "--start-up-s", "0", *flags)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"Application startup complete. .* (http://\S+)", line):
                yield process, found[1]
                break
        else:
            pytest.fail("".join(lines))
        process.kill()


def posted(url: str, **body: object) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def test_the_command_serves_and_exits_with_zero() -> None:
    flags = ("--served-model-name", "small", "--dtype", "auto", "--enforce-eager", "-tp", "2")
    with running(*flags, "--speed", "100") as (process, url):
        body = json.loads(posted(f"{url}/v1/completions", model="small", prompt="a", max_tokens=2))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert body["usage"]["total_tokens"] == 3


def test_a_crash_is_sigkill() -> None:
    with running("--enable-faults") as (process, url):
        with pytest.raises((OSError, urllib.error.URLError)):
            posted(f"{url}/faults", kind="crash")
        assert process.wait(timeout=30) == -signal.SIGKILL


def test_a_start_out_of_memory_exits_with_one() -> None:
    flags = (*MODEL, "--port", "0", "--start-up-s", "0", "--fault-at-start", "out-of-memory")
    done = subprocess.run(command(*flags), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert OUT_OF_MEMORY in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_s_defaults_are_vllm_s_and_ours() -> None:
    told = {name: p.default for name, p in inspect.signature(emulate).parameters.items()}
    promised = {
        "host": "127.0.0.1", "port": 8000, "tensor_parallel_size": 1, "max_num_seqs": 256,
        "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.9, "max_model_len": None,
        "block_size": 16, "shutdown_timeout": 0.0, "enable_prefix_caching": True,
        "enable_chunked_prefill": True, "enable_sleep_mode": False, "enable_faults": False,
        "gpu": "H100-SXM", "speed": 1.0, "start_up_s": None, "fault_at_start": None,
    }  # fmt: skip
    assert told | promised == told


def test_a_profile_s_own_parallelism_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "profile.yaml"
    profile = resolve_profile("Qwen/Qwen3-0.6B", "H100-SXM", Layout(2))
    file.write_text(json.dumps(to_document(profile, "p")))
    assert "set it to 2" in refused(*MODEL, "--profile", str(file))
