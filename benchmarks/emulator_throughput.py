"""How many streamed tokens one emulator process carries over HTTP.

`python -m benchmarks.emulator_throughput` starts `whaleflux emulate` with steps that cost
next to nothing, so that HTTP is the bound, and reads its streams with bare sockets from
this process. One JSON line per figure.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from profiler.document import to_document
from profiler.emulator.process import take_port
from profiler.layout import Layout
from profiler.memory import EngineMemory
from profiler.profile import EngineProfile
from profiler.step_cost import NO_WINDOW, StepCost, roofline_curve

GOAL_TOKENS_S = 2000.0
STEP_S = 1e-4
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run took."""

    tokens: int
    wall_s: float
    server_cpu_s: float
    client_cpu_s: float


def fast_profile() -> EngineProfile:
    """Make an engine whose steps take 0.1 ms whatever is in them."""
    cost = StepCost(
        STEP_S, 0, roofline_curve(0, 0), 0, 0, 0, 0, 0,
        mixed_kv_ratio=1, window_tokens=NO_WINDOW, request_s=0,
    )  # fmt: skip
    return EngineProfile(
        model="fast",
        gpu="none",
        layout=Layout(),
        cost=cost,
        memory=EngineMemory(80e9, 1e9, 0.0, 0.0, 1e4),
        max_model_len=131_072,
        start_up_s=0.0,
    )


def free_port() -> int:
    """Find a port nobody listens on."""
    with take_port("127.0.0.1", 0) as taken:
        return int(taken.getsockname()[1])


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the emulator by its own command."""
    file = folder / "profile.json"  # JSON is YAML
    file.write_text(json.dumps(to_document(fast_profile(), "fast")), encoding="utf-8")
    run = "from controller.cli import main; main()"
    flags = ["--model", "fast", "--profile", str(file), "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-c", run, "emulate", *flags], stderr=log)


async def listening(port: int, server: subprocess.Popen[bytes], patience_s: float = 60.0) -> None:
    """Return once it accepts connections."""
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s and server.poll() is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit("the emulator did not start")


async def read_stream(port: int, max_tokens: int) -> int:
    """Stream one completion; the tokens that came, as chunks counted in the bytes."""
    body = json.dumps(
        {"prompt": "a b c", "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    )
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}Connection: close\r\n\r\n{body}".encode())
    count, tail = 0, b""
    while read := await reader.read(READ_BYTES):
        seen = tail + read
        count += seen.count(b'"text"') - tail.count(b'"text"')
        tail = seen[-64:]
    writer.close()
    if b"[DONE]" not in tail:
        raise SystemExit("a stream broke off")
    return count


def cpu_of(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu_s() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(streams: int, max_tokens: int) -> Figures:
    """Run `streams` completions at once."""
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        server = start_server(Path(name), port)
        try:
            await listening(port, server)
            await read_stream(port, 10)
            server_s, client_s, begun_s = cpu_of(server.pid), own_cpu_s(), time.monotonic()
            counts = await asyncio.gather(*(read_stream(port, max_tokens) for _ in range(streams)))
            wall_s = time.monotonic() - begun_s
            return Figures(
                sum(counts), wall_s, cpu_of(server.pid) - server_s, own_cpu_s() - client_s
            )
        finally:
            server.terminate()
            server.wait(timeout=10)


def figure(metric: str, value: float, unit: str, better: str, goal: float | None = None) -> str:
    """Write one figure as a line of JSON."""
    record = {"case": "emulator_throughput", "metric": metric, "value": round(value, 4)}
    return json.dumps(record | {"unit": unit, "goal": goal, "better": better})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=4000)
    asked = parser.parse_args()
    got = asyncio.run(measure(asked.streams, asked.max_tokens))
    if got.tokens != asked.streams * asked.max_tokens:
        raise SystemExit(f"{got.tokens} tokens came, {asked.streams * asked.max_tokens} were due")
    kilo = got.tokens / 1000
    print(figure("streamed_tokens", got.tokens / got.wall_s, "tokens/s", "higher", GOAL_TOKENS_S))
    print(figure("server_cpu_per_1000_tokens", got.server_cpu_s / kilo, "s", "lower"))
    print(figure("client_cpu_per_1000_tokens", got.client_cpu_s / kilo, "s", "lower"))


if __name__ == "__main__":
    main()
