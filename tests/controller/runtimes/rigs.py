"""A runtime under test with what stands in for machines: told for the fake, real for local."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from controller.api import parse_service
from controller.clock import monotonic_s
from controller.observation import Phase, Replica, ReplicaId
from controller.runtimes import Runtime
from controller.runtimes.fake import FakeRuntime
from controller.runtimes.local import LocalRuntime
from controller.runtimes.processes import Process, Processes, free_port
from controller.service import Service, resolve_service
from tests.controller.builders import a_manifest

DEADLINE_S = 30.0
"""For what takes a second or two on an idle machine."""


@cache
def small_service(*args: str) -> Service:
    """An emulated engine that is up at once."""
    engine = {
        "type": "emulated", "maxNumSeqs": 16, "maxModelLen": 4096,
        "args": ["--start-up-s=0.2", *args],
    }  # fmt: skip
    return resolve_service(parse_service(a_manifest(engine=engine), "test"), {})


class Rig(Protocol):
    """What the contract needs beside the protocol itself."""

    service: Service

    @property
    def runtime(self) -> Runtime:
        """What is under test."""

    async def get_ready(self) -> None:
        """Let what starts become a standby."""

    async def routed(self) -> int | None:
        """Replicas that the router sends traffic to; None where there is no router."""

    async def finish(self) -> None:
        """Let what drains be gone."""

    def crash(self, replica: ReplicaId) -> None:
        """End a replica as a crash would."""


def phases(rig: Rig) -> list[Phase]:
    return [replica.phase for replica in rig.runtime.replicas(rig.service.id)]


def the_one(rig: Rig) -> Replica:
    (replica,) = rig.runtime.replicas(rig.service.id)
    return replica


async def until(rig: Rig, holds: Callable[[list[Phase]], bool]) -> None:
    """Wait for changes until the phases are as they should be."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds(phases(rig)):
            await rig.runtime.changed(rig.service.id)


class FakeRig:
    def __init__(self) -> None:
        self.runtime = FakeRuntime()
        self.service = small_service()

    async def get_ready(self) -> None:
        self.runtime.make_ready(self.service.id)

    async def routed(self) -> int | None:
        return None

    async def finish(self) -> None:
        self.runtime.finish(self.service.id)

    def crash(self, replica: ReplicaId) -> None:
        self.runtime.fail(self.service.id, replica, "engine killed by SIGKILL")


class LocalRig:
    def __init__(
        self, runtime: LocalRuntime, http: aiohttp.ClientSession, service: Service, port: int
    ) -> None:
        self.runtime = runtime
        self.http = http
        self.service = service
        self.url = f"http://127.0.0.1:{port}"

    async def get_ready(self) -> None:
        await until(self, lambda now: Phase.STARTING not in now)

    async def routed(self) -> int | None:
        async with self.http.get(f"{self.url}/list_workers") as answer:
            return len((await answer.json())["urls"])

    async def finish(self) -> None:
        await until(self, lambda now: Phase.DRAINING not in now)

    def crash(self, replica: ReplicaId) -> None:
        self.runtime.kill(self.service.id, replica)

    async def ask(self, tokens: int = 4) -> dict[str, Any]:
        """A completion through the router."""
        body = {"model": "small", "prompt": "hello", "max_tokens": tokens, "ignore_eos": True}
        async with self.http.post(f"{self.url}/v1/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found


class KnownProcesses(Processes):
    """Remembers what it spawned, so that a test can see the end of each."""

    def __init__(self, log_dir: Path) -> None:
        super().__init__(log_dir)
        self.spawned: list[Process] = []

    async def spawn(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Process:
        process = await super().spawn(name, command, env)
        self.spawned.append(process)
        return process


@asynccontextmanager
async def a_fake_rig() -> AsyncIterator[FakeRig]:
    yield FakeRig()


@asynccontextmanager
async def a_local_rig(folder: Path, *args: str, routed: bool = True) -> AsyncIterator[LocalRig]:
    service, port = small_service(*args), free_port()
    processes = KnownProcesses(folder)
    async with aiohttp.ClientSession() as http, processes:
        async with LocalRuntime(processes, http, monotonic_s) as runtime:
            if routed:
                await runtime.open_router(service, port)
            yield LocalRig(runtime, http, service, port)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(process.exited() for process in processes.spawned))
