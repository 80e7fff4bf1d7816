"""The local runtime with real processes: requests, crashes, and nothing left behind."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from controller.api import Manifests, parse_service
from controller.observation import Phase
from controller.plane import local_plane
from controller.runtimes.processes import Processes
from profiler.errors import Refused
from tests.controller.builders import a_manifest
from tests.controller.runtimes.rigs import DEADLINE_S, LocalRig, a_local_rig, phases, the_one, until

ROOT = Path(__file__).parents[3]


async def test_requests_go_through_the_router_and_outlive_a_withdrawal_and_a_drain(
    tmp_path: Path,
) -> None:
    """kthena 1589: scaling down killed requests in flight."""
    async with a_local_rig(tmp_path) as rig:
        await rig.runtime.start(rig.service, 1)
        early = asyncio.create_task(rig.ask())  # waits for a replica, not refused
        await rig.get_ready()
        await rig.runtime.admit(rig.service, the_one(rig).id)
        assert (await early)["usage"]["completion_tokens"] == 4
        long = asyncio.create_task(rig.ask(tokens=150))
        await in_flight(rig.http, str(the_one(rig).url))
        await rig.runtime.drain(rig.service, the_one(rig).id)
        assert phases(rig) == [Phase.DRAINING]
        assert not long.done()
        assert (await long)["usage"]["completion_tokens"] == 150
        await rig.finish()
        assert rig.runtime.replicas(rig.service.id) == ()


async def in_flight(http: aiohttp.ClientSession, url: str) -> None:
    """Return when the engine holds a request."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with http.get(f"{url}/metrics") as answer:
                page = await answer.text()
            running = [line for line in page.splitlines() if line.startswith("vllm:num_requests_r")]
            if any(not line.endswith(" 0.0") for line in running):
                return


async def test_a_router_that_dies_comes_back_with_its_workers(tmp_path: Path) -> None:
    async with a_local_rig(tmp_path) as rig:
        await rig.runtime.start(rig.service, 1)
        await rig.get_ready()
        await rig.runtime.admit(rig.service, the_one(rig).id)
        former = rig.runtime._routers[rig.service.id]
        former.process.signal(signal.SIGKILL)
        await former.process.exited()
        await routes_again(rig)
        assert (await rig.ask())["usage"]["completion_tokens"] == 4
        assert phases(rig) == [Phase.SERVING]


async def routes_again(rig: LocalRig) -> None:
    """Return when the new router has its worker back."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                if await rig.routed() == 1:
                    return


async def test_an_engine_that_dies_at_its_start_fails_with_its_last_words(tmp_path: Path) -> None:
    async with a_local_rig(tmp_path, "--fault-at-start=out-of-memory", routed=False) as rig:
        await rig.runtime.start(rig.service, 1)
        await until(rig, lambda now: now == [Phase.FAILED])
        dead = the_one(rig)
        assert dead.message.startswith("engine exited with 1: ")
        assert "out of memory" in dead.message
        assert "\n" not in dead.message
        assert dead.ready_s is None  # a start that failed


async def test_a_program_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        with pytest.raises(Refused, match=r"^x: cannot run no-such-program: No such file"):
            await processes.spawn("x", ["no-such-program"])


async def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    manifests = Manifests((parse_service(a_manifest(), "test"),), {})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused) as caught:
            async with local_plane(manifests, port, tmp_path / "logs"):
                pytest.fail("it came up")
    assert str(caught.value) == (
        f"router of chat: cannot listen on 127.0.0.1:{port} (Address already in use): "
        "choose another port"
    )
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_survives_the_controllers_own_sudden_death(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.controller.runtimes.orphan", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "serving\n"
        left = {pid: os.pidfd_open(pid) for pid in running_from(tmp_path)}
        assert len(left) == 2  # the engine and the router
        parent.kill()
    for pid, descriptor in left.items():
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        assert ended.poll(DEADLINE_S * 1e3), f"process {pid} outlived its controller"
        os.close(descriptor)
    assert running_from(tmp_path) == []


def running_from(folder: Path) -> list[int]:
    """Live processes that log into the folder: engines and routers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            logs_to = (process / "fd" / "1").readlink()
        except OSError:  # gone meanwhile, a zombie, or somebody else's
            continue
        if logs_to.parent == folder:
            found.append(int(process.name))
    return found
