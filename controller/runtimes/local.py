"""The local runtime: engines as processes, one `vllm-router` per service.

The embedded default; needs no cluster. A replica's end is known the moment its process
exits. The router retries what had not begun to stream, so a killed replica costs none of
those requests.
"""

import asyncio
import logging
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace

import aiohttp

from controller.engine_command import (
    SHUTDOWN_TIMEOUT_S,
    engine_command,
    engine_environment,
    middleware_args,
)
from controller.observation import Phase, Replica, ReplicaId
from controller.runtimes.changes import Changes
from controller.runtimes.host_gpus import HostGpus
from controller.runtimes.processes import Process, Processes, free_port
from controller.runtimes.router import ROUTER_READY_S, LocalRouter, router_command
from controller.service import Service, ServiceId
from profiler.errors import RetryLater, WhaleFluxError

HOST = "127.0.0.1"
_POLL_S = 0.1
_AFTER_WITHDRAW_S = 0.5
"""A request that the router chose the replica for just before is on its way."""
_ROUTER_PAUSE_S = 1.0
_KILL_AFTER_S = SHUTDOWN_TIMEOUT_S + 30.0
"""A real engine takes 10 to 20 s to end after its last request."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    """A replica, its process and the task that follows it."""

    replica: Replica
    process: Process
    task: asyncio.Task[None] | None = None


class LocalRuntime:
    """Replicas as processes; an async context that leaves none behind."""

    def __init__(
        self,
        processes: Processes,
        http: aiohttp.ClientSession,
        now_s: Callable[[], float],
        gpus: HostGpus | None = None,
    ) -> None:
        """`gpus`: given to replicas; without, engines find their own."""
        self._gpus = gpus or HostGpus()
        self._processes = processes
        self._http = http
        self._now_s = now_s
        self._replicas: dict[ServiceId, dict[ReplicaId, _Running]] = {}
        self._routers: dict[ServiceId, LocalRouter] = {}
        self._changes = Changes()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "LocalRuntime":
        """Nothing runs yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every process at once."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        replicas = [r for group in self._replicas.values() for r in group.values()]
        left = [running.process for running in replicas]
        left += [router.process for router in self._routers.values()]
        for process in left:
            self._processes.ended(process)
        await asyncio.gather(*(process.exited() for process in left))

    async def open_router(self, service: Service, port: int) -> None:
        """Start the service's router and keep it running; returns when it answers."""
        await self._start_router(service, port)
        self._spawn(self._keep_router(service, port))

    async def start(self, service: Service, count: int, avoid: tuple[str, ...] = ()) -> None:
        """Start processes; each becomes a standby when its engine answers. There is one machine."""
        for _ in range(count):
            port = free_port(HOST)
            name = ReplicaId(f"{service.name}-{secrets.token_hex(3)}")
            process = await self._launch(service, name, port)
            url = f"http://{HOST}:{port}"
            replica = Replica(name, Phase.STARTING, self._now_s(), url=url, gpu=service.gpu)
            running = _Running(replica, process)
            self._replicas.setdefault(service.id, {})[name] = running
            running.task = self._spawn(self._follow(service.id, running))
            self._changes.note(service.id)

    async def _launch(self, service: Service, name: ReplicaId, port: int) -> Process:
        """Start an engine on GPUs of its own, which it holds until its process is gone."""
        command = (*engine_command(service, HOST, port), *middleware_args(service))
        env = engine_environment(service) | self._gpus.take(service, name)
        try:
            process = await self._processes.spawn(name, command, env)
        except WhaleFluxError:
            self._gpus.free(name)
            raise
        self._spawn(self._free_at_end(name, process))
        return process

    async def _free_at_end(self, name: ReplicaId, process: Process) -> None:
        await process.exited()
        self._gpus.free(name)

    async def admit(self, service: Service, replica: ReplicaId) -> None:
        """Add the replica to the router."""
        running = self._replicas.get(service.id, {}).get(replica)
        if running is not None and running.replica.phase is Phase.STANDBY:
            await self._routers[service.id].add(str(running.replica.url))
            self._set(service.id, running, phase=Phase.SERVING)

    async def withdraw(self, service: Service, replica: ReplicaId) -> None:
        """Take the replica out of the router."""
        running = self._replicas.get(service.id, {}).get(replica)
        if running is not None and running.replica.phase is Phase.SERVING:
            await self._routers[service.id].remove(str(running.replica.url))
            self._set(service.id, running, phase=Phase.STANDBY)

    async def drain(self, service: Service, replica: ReplicaId) -> None:
        """Withdraw, then end the engine when it has finished what it holds."""
        await self.withdraw(service, replica)
        running = self._replicas.get(service.id, {}).get(replica)
        if running is not None and running.replica.phase is Phase.STANDBY:
            self._set(service.id, running, phase=Phase.DRAINING)
            self._spawn(self._finish(running.process))

    async def remove(self, service: Service, replica: ReplicaId) -> None:
        """Kill the process, forget the replica."""
        running = self._replicas.get(service.id, {}).pop(replica, None)
        if running is None:
            return
        if running.task is not None:
            running.task.cancel()
        self._processes.ended(running.process)
        await self._routers[service.id].remove(str(running.replica.url))
        self._changes.note(service.id)

    def replicas(self, service: ServiceId) -> tuple[Replica, ...]:
        """Show what runs."""
        return tuple(r.replica for r in self._replicas.get(service, {}).values())

    async def changed(self, service: ServiceId) -> None:
        """Wait for a change."""
        await self._changes.wait(service)

    def router_metrics(self, service: ServiceId) -> tuple[str, ...]:
        """Metrics of the router's process."""
        router = self._routers.get(service)
        return () if router is None else (router.metrics_url,)

    def endpoint(self, service: ServiceId) -> str | None:
        """Address of the router."""
        router = self._routers.get(service)
        return None if router is None else router.url

    def kill(self, service: ServiceId, replica: ReplicaId) -> None:
        """SIGKILL a replica's engine, as a crash would: for drills."""
        self._replicas[service][replica].process.signal(signal.SIGKILL)

    async def _follow(self, service: ServiceId, running: _Running) -> None:
        """Watch one process: ready, then gone."""
        exited = asyncio.create_task(running.process.exited())
        try:
            while not exited.done():
                if running.replica.phase is Phase.STARTING and await self._healthy(running):
                    self._set(service, running, phase=Phase.STANDBY, ready_s=self._now_s())
                waiting = running.replica.phase is Phase.STARTING
                await asyncio.wait({exited}, timeout=_POLL_S if waiting else None)
            self._on_exit(service, running, exited.result())
        finally:
            exited.cancel()

    def _on_exit(self, service: ServiceId, running: _Running, code: int) -> None:
        self._processes.ended(running.process)
        if running.replica.phase is Phase.DRAINING:
            self._replicas[service].pop(running.replica.id, None)
            self._changes.note(service)
            return
        if code < 0:
            message = f"engine killed by {signal.Signals(-code).name}"
        else:
            message = f"engine exited with {code}: {running.process.last_words()}"
        log.warning("replica %s failed: %s", running.replica.id, message)
        self._set(service, running, phase=Phase.FAILED, message=message)

    async def _healthy(self, running: _Running) -> bool:
        try:
            timeout = aiohttp.ClientTimeout(total=1.0)
            async with self._http.get(f"{running.replica.url}/health", timeout=timeout) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _finish(self, process: Process) -> None:
        """Drain one engine: SIGTERM, then SIGKILL after the grace period."""
        await asyncio.sleep(_AFTER_WITHDRAW_S)
        process.terminate()
        try:
            async with asyncio.timeout(_KILL_AFTER_S):
                await process.exited()
        except TimeoutError:
            process.signal(signal.SIGKILL)

    async def _start_router(self, service: Service, port: int) -> None:
        metrics_port = free_port(HOST)
        even = not service.fallbacks
        command = router_command(sys.executable, HOST, port, metrics_port, even=even)
        process = await self._processes.spawn(f"{service.name}-router", command)
        metrics = f"http://{HOST}:{metrics_port}/metrics"
        router = LocalRouter(self._http, f"http://{HOST}:{port}", metrics, process)
        try:
            await router.ready(ROUTER_READY_S)
        except RetryLater:
            self._processes.ended(process)
            await process.exited()
            raise
        self._routers[service.id] = router

    async def _keep_router(self, service: Service, port: int) -> None:
        """Start a router anew when it died, with the replicas that were serving."""
        while True:
            await self._routers[service.id].process.exited()
            log.warning("router of %s died; starting another", service.id)
            self._processes.ended(self._routers[service.id].process)
            try:
                await self._start_router(service, port)
                for running in tuple(self._replicas.get(service.id, {}).values()):
                    if running.replica.phase is Phase.SERVING:
                        await self._routers[service.id].add(str(running.replica.url))
            except WhaleFluxError as error:
                log.error("%s", error)
                await asyncio.sleep(_ROUTER_PAUSE_S)

    def _set(self, service: ServiceId, running: _Running, **changes: object) -> None:
        running.replica = replace(running.replica, **changes)  # type: ignore[arg-type]
        self._changes.note(service)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
