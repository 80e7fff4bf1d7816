"""The whole loop in three minutes: serve, burst, scale, lose a replica, recover.

`make run` starts it. A local control plane serves the quick start's LLMService, a bursty
trace is played against its router, and half-way through the burst one serving replica is
killed. Afterwards it prints what happened and, on a terminal, goes on serving.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from controller.api import read_manifests
from controller.clock import monotonic_s
from controller.console import serve_console
from controller.logs import set_up_logs
from controller.loop import ServiceLoop
from controller.observation import Phase
from controller.plane import LocalPlane, local_plane, running
from controller.service import Service
from profiler.errors import WhaleFluxError
from profiler.measure import Outcome, Report, Target, open_session, replay, summarise
from profiler.trace import Lengths, Trace, gamma_renewal
from profiler.twin import simulate

HERE = Path(__file__).parent
MANIFESTS = {
    "emulated": [HERE / "llmservice.yaml"],
    "vllm": [HERE.parent / "vllm-cpu"],
}
PLAN = ((40.0, 0.4), (20.0, 1.0), (50.0, 2.2), (70.0, 0.3))
"""(seconds, load in multiples of one replica's capacity): calm, rising, burst, calm."""
BURSTINESS = 1.5
KILL_AT_S = 95.0
DRAIN_S = 60.0
SEED = 7


@dataclass
class Story:
    """What happened so far, sampled every second."""

    gpu_seconds: float = 0.0
    most_serving: int = 0
    killed: str | None = None
    told: int = 0
    lines: list[str] = field(default_factory=list)


def bursty_trace(service: Service) -> Trace:
    """Arrivals in three phases around one replica's capacity; the service's own lengths."""
    rng = np.random.default_rng(SEED)
    lengths = Lengths(service.workload.input_tokens, service.workload.output_tokens)
    parts, begin_s = [], 0.0
    for duration_s, load in PLAN:
        rate = load * service.capacity.rate_rps
        part = gamma_renewal(rate, duration_s, lengths, rng, cv=BURSTINESS)
        parts.append((part.arrival_s + begin_s, part.input_tokens, part.output_tokens))
        begin_s += duration_s
    return Trace.of(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def static_fleet(service: Service, trace: Trace) -> int:
    """Fewest replicas that would attain the SLO over the whole trace, requests in turn."""
    limits = service.profile.limits(service.configuration)
    for count in range(1, service.bounds.high + 1):
        attained = []
        for turn in range(count):
            rows = slice(turn, None, count)
            part = Trace.of(
                trace.arrival_s[rows], trace.input_tokens[rows], trace.output_tokens[rows]
            )
            attained.append(simulate(part, service.profile.cost, limits).attained(service.slo))
        if np.concatenate(attained).mean() >= service.slo.percentile:
            return count
    return service.bounds.high


async def watch(plane: LocalPlane, loop: ServiceLoop, story: Story, out: Console) -> None:
    """Count GPU-seconds and tell decisions as they are made."""
    gpus = loop.service.configuration.tensor_parallel_size
    while True:
        replicas = plane.runtime.replicas(loop.service.id)
        story.gpu_seconds += gpus * sum(r.phase is not Phase.FAILED for r in replicas)
        serving = sum(r.phase is Phase.SERVING for r in replicas)
        story.most_serving = max(story.most_serving, serving)
        for logged in list(loop.decisions)[story.told :]:
            out.print(f"  {logged.decision.message}", style="dim", highlight=False)
            story.told += 1
        await asyncio.sleep(1.0)


async def kill_one(plane: LocalPlane, service: Service, story: Story, out: Console) -> None:
    """SIGKILL the oldest serving replica, as a crash would."""
    await asyncio.sleep(KILL_AT_S)
    serving = [r for r in plane.runtime.replicas(service.id) if r.phase is Phase.SERVING]
    if serving:
        story.killed = serving[0].id
        out.print(f"  killing {story.killed} (SIGKILL)", style="bold red")
        plane.runtime.kill(service.id, serving[0].id)


async def first_serving(plane: LocalPlane, service: Service) -> None:
    """Return when a replica serves; an engine that keeps failing ends the tour."""
    while True:
        replicas = plane.runtime.replicas(service.id)
        if any(replica.phase is Phase.SERVING for replica in replicas):
            return
        failed = next((r for r in replicas if r.phase is Phase.FAILED), None)
        if failed is not None:
            raise WhaleFluxError(f"{failed.id}: {failed.message}")
        await asyncio.sleep(0.2)


@contextlib.contextmanager
def progress_bar(out: Console, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """Requests answered; plain silence where no terminal shows it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        yield progress, progress.add_task("requests", total=total)


async def play(
    plane: LocalPlane, service: Service, trace: Trace, out: Console
) -> tuple[Outcome, ...]:
    """Replay the trace against the router."""
    url = plane.runtime.endpoint(service.id)
    assert url is not None, "its router was started"  # noqa: S101
    with progress_bar(out, len(trace)) as (progress, task):

        def tick(*_: object) -> None:
            progress.advance(task)

        async with open_session(None) as session:
            target = Target(url, service.served_name, seed=SEED)
            return await replay(session, target, trace, monotonic_s, on_progress=tick)


def summary(report: Report, story: Story, service: Service, static: int, elapsed_s: float) -> Table:
    """What happened, for people."""
    gpus = service.configuration.tensor_parallel_size
    static_gpu_s = (static + service.standbys) * gpus * elapsed_s
    table = Table(title="What happened", show_header=False, title_justify="left")
    attained = report.attained_ratio
    shown = "–" if attained is None else f"{attained:.1%}"
    table.add_row("requests", f"{report.sent}, {report.ok} answered")
    table.add_row("within SLO", f"{shown} (objective {service.slo.percentile:.0%})")
    table.add_row("lost", f"{report.lost + report.timed_out}")
    table.add_row("cut", f"{report.cut} answers under way on the killed replica ({story.killed})")
    table.add_row("replicas", f"1 to {story.most_serving} serving, {service.standbys} standby")
    table.add_row(
        "GPU-seconds",
        f"{story.gpu_seconds:.0f}, {story.gpu_seconds / static_gpu_s:.0%} of the "
        f"{static_gpu_s:.0f} of a static fleet ({static} serving + {service.standbys} standby)",
    )
    return table


async def tour(engine: str, ports: tuple[int, int], stay: bool) -> int:
    """Run the story; the exit code: 1 when a request was lost."""
    out = Console()
    log_dir = Path(tempfile.mkdtemp(prefix="whaleflux-"))
    manifests = read_manifests(MANIFESTS[engine])
    out.print("choosing a configuration with the twin …")
    async with (
        local_plane(manifests, ports[0], log_dir) as plane,
        serve_console(plane.views, ports[1], metrics=plane.metrics) as console_url,
        running(plane),
    ):
        loop = plane.loops[0]
        service = loop.service
        out.print(
            f"console  [bold]{console_url}[/]   service {plane.runtime.endpoint(service.id)}/v1"
        )
        out.print(f"one replica carries {service.capacity.rate_rps:.1f} req/s; logs in {log_dir}")
        await first_serving(plane, service)
        trace, story = bursty_trace(service), Story()
        static = static_fleet(service, trace)
        out.print(f"playing {len(trace)} requests over {trace.duration_s:.0f} s")
        begin_s = monotonic_s()
        async with asyncio.TaskGroup() as group:
            aside = [
                group.create_task(watch(plane, loop, story, out)),
                group.create_task(kill_one(plane, service, story, out)),
            ]
            outcomes = await play(plane, service, trace, out)
            await asyncio.sleep(max(sum(s for s, _ in PLAN) - (monotonic_s() - begin_s), 0.0))
            for task in aside:
                task.cancel()
        report = summarise(outcomes, service.slo)
        out.print(summary(report, story, service, static, monotonic_s() - begin_s))
        if stay:
            out.print("serving until Ctrl-C")
            await _until_interrupted()
        return int(report.lost + report.timed_out > 0)


async def _until_interrupted() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=sorted(MANIFESTS), default="emulated")
    parser.add_argument("--router-port", type=int, default=8000)
    parser.add_argument("--console-port", type=int, default=8080)
    asked = parser.parse_args()
    set_up_logs("error")
    try:
        ports = (asked.router_port, asked.console_port)
        code = asyncio.run(tour(asked.engine, ports, stay=sys.stdout.isatty()))
    except WhaleFluxError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
