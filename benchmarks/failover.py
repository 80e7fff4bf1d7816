"""From SIGKILL of a serving replica to its standby serving, under load.

    python -m benchmarks.failover            # local processes
    python -m benchmarks.failover --e2e      # Pods on a real Kubernetes API

Serving means: the router has answered a request from the standby. Requests are sent all the
while; one that fails before its answer began counts as lost.
"""

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figure import tell
from controller.api import read_manifests
from controller.clock import monotonic_s
from controller.observation import Phase, ReplicaId
from controller.plane import LocalPlane, local_plane, running
from controller.runtimes.processes import free_port
from controller.service import Service
from monitor import read_signals
from profiler.measure import Outcome, Status, Target, open_session, replay
from profiler.trace import Lengths, poisson

EXAMPLE = Path("examples/quickstart/llmservice.yaml")
GOAL_S = 2.0
RATE_RPS, LOAD_S = 3.0, 12.0
POLL_S = 0.01


def main() -> None:
    """Kill several times; tell the median and the longest, and the requests lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--e2e", action="store_true")
    asked = parser.parse_args()
    if asked.e2e:
        from benchmarks.failover_e2e import fail_over_in_cluster  # noqa: PLC0415 - needs Go

        times_s, lost = fail_over_in_cluster(asked.runs)
    else:
        times_s, lost = asyncio.run(fail_over_locally(asked.runs))
    case = "kubernetes" if asked.e2e else "local"
    tell(case, "failover_median", statistics.median(times_s), "s", GOAL_S, "lower")
    tell(case, "failover_max", max(times_s), "s", GOAL_S, "lower")
    tell(case, "requests_lost", lost, "requests", 0, "lower")


async def fail_over_locally(runs: int) -> tuple[list[float], int]:
    """Times from kill to serving, and requests lost, on the local runtime."""
    manifests = read_manifests([EXAMPLE])
    folder = Path(tempfile.mkdtemp(prefix="whaleflux-"))
    async with local_plane(manifests, free_port(), folder) as plane, running(plane):
        service = plane.loops[0].service
        times_s, lost = [], 0
        for _ in range(runs):
            await _settled(plane, service)
            load = asyncio.create_task(send(str(plane.runtime.endpoint(service.id)), service))
            await asyncio.sleep(LOAD_S / 3)
            times_s.append(await _kill_and_wait(plane, service))
            lost += sum(outcome.status in (Status.ERROR, Status.TIMEOUT) for outcome in await load)
    return times_s, lost


async def send(url: str, service: Service) -> tuple[Outcome, ...]:
    """Poisson traffic within one replica's capacity."""
    trace = poisson(RATE_RPS, LOAD_S, Lengths.fixed(256, 64), np.random.default_rng(3))
    async with open_session(None) as session:
        return await replay(session, Target(url, service.served_name), trace, monotonic_s)


async def _settled(plane: LocalPlane, service: Service) -> None:
    """Wait for a serving replica and a standby."""
    while True:
        phases = [replica.phase for replica in plane.runtime.replicas(service.id)]
        if Phase.SERVING in phases and Phase.STANDBY in phases:
            return
        await asyncio.sleep(POLL_S)


async def _kill_and_wait(plane: LocalPlane, service: Service) -> float:
    """Kill one serving replica; seconds until a former standby generates for the router."""
    replicas = plane.runtime.replicas(service.id)
    victim = next(r for r in replicas if r.phase is Phase.SERVING)
    standbys = {r.id for r in replicas if r.phase is Phase.STANDBY}
    before = await _generated(plane, standbys)
    killed_s = monotonic_s()
    plane.runtime.kill(service.id, victim.id)
    while await _generated(plane, standbys) == before:  # noqa: ASYNC110 - a page has no event
        await asyncio.sleep(POLL_S)
    return monotonic_s() - killed_s


async def _generated(plane: LocalPlane, replicas: set[ReplicaId]) -> float:
    """Tokens that the replicas' engines have made, read from them directly."""
    total = 0.0
    for replica in plane.runtime.replicas(plane.loops[0].service.id):
        if replica.id in replicas and replica.url is not None:
            async with plane.http.get(f"{replica.url}/metrics") as answer:
                total += generation_tokens(await answer.read())
    return total


def generation_tokens(page: bytes) -> float:
    """Read one counter off an engine's page."""
    return read_signals(page).generation_tokens_total or 0.0


if __name__ == "__main__":
    main()
