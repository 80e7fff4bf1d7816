"""The local control plane: services on this machine, a loop each, one console.

What `whaleflux up` runs; also embedded by the tour, the benchmarks and the tests.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from controller.api import Manifests
from controller.clock import monotonic_s
from controller.loop import ServiceLoop
from controller.metrics import Metrics
from controller.pools import Pools
from controller.runtimes.host_gpus import HostGpus
from controller.runtimes.local import HOST, LocalRuntime
from controller.runtimes.processes import Processes, require_free
from controller.service import resolve_service
from controller.view import ServiceView, view_service

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LocalPlane:
    """Loops on the local runtime."""

    runtime: LocalRuntime
    http: aiohttp.ClientSession
    gpus: HostGpus = field(default_factory=HostGpus)
    loops: list[ServiceLoop] = field(default_factory=list)
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        """Count what the loops do."""
        self.metrics = Metrics(self.views)

    def views(self) -> tuple[ServiceView, ...]:
        """Every service for people, in the order of the manifests."""
        now_s = monotonic_s()
        views = (
            view_service(loop, self.runtime.endpoint(loop.service.id), now_s) for loop in self.loops
        )
        return tuple(view for view in views if view is not None)

    async def run(self) -> None:
        """Run every loop until cancelled; one that fails does not stop the others."""
        services = (
            _kept_up(f"service {loop.service.id}: its loop", loop.run) for loop in self.loops
        )
        await asyncio.gather(_kept_up("reading the GPUs' health", self.gpus.run), *services)


async def _kept_up(what: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run to the end; begin again where a bug broke it off."""
    while True:
        try:
            return await run()
        except Exception:
            log.exception("%s failed; starting it again", what)
            await asyncio.sleep(1.0)


@asynccontextmanager
async def local_plane(
    manifests: Manifests,
    router_port: int,
    log_dir: Path,
    gpus: HostGpus | None = None,
    pools: Pools | None = None,
) -> AsyncIterator[LocalPlane]:
    """Resolve the services and start their routers; ends every process on the way out.

    The first service's router listens on `router_port`, the others on the ports after it. Engines
    that need GPUs share `gpus`; without, they find their own. They are also the pools, where none
    are given.
    Raises `Refused` for what cannot be served and for a port that is taken.
    """
    for offset, manifest in enumerate(manifests.services):
        require_free(HOST, router_port + offset, f"router of {manifest.metadata.name}")
    services = [
        await asyncio.to_thread(resolve_service, manifest, manifests.profiles)
        for manifest in manifests.services
    ]
    gpus = gpus or HostGpus()
    counts = {service.id: gpus.counts(service) for service in services}
    host = Pools({gpu: count for found in counts.values() for gpu, count in found.items()})
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        processes = await stack.enter_async_context(Processes(log_dir))
        runtime = await stack.enter_async_context(LocalRuntime(processes, http, monotonic_s, gpus))
        plane = LocalPlane(runtime, http, gpus)
        for offset, service in enumerate(services):
            await runtime.open_router(service, router_port + offset)
            publish = plane.metrics.watching(service, monotonic_s)
            loop = ServiceLoop(service, runtime, http, monotonic_s, publish)
            loop.gpus = gpus.of
            if pools is not None or counts[service.id]:
                loop.pools = pools or host
            plane.loops.append(loop)
        yield plane


@asynccontextmanager
async def running(plane: LocalPlane) -> AsyncIterator[None]:
    """Run the plane's loops in the background of a block."""
    task = asyncio.create_task(plane.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
