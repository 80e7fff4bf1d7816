"""The operator: four watches, and a worker per LLMService.

Nothing is decided before the caches have synced: a pod that is not yet seen would be
started again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec
from pydantic import ValidationError

from controller.api import GROUP, VERSION
from controller.clock import monotonic_s, wall_s
from controller.kube import KubeClient, Reflector
from controller.kube.client import Credentials
from controller.kube.objects import Custom, Pod
from controller.kube.reflector import Key
from controller.metrics import Metrics
from controller.operator import labels
from controller.operator.gpu_health import GpuHealth
from controller.operator.manifests import Images
from controller.operator.service_worker import ServiceWorker, Surroundings
from controller.pools import Pools
from controller.runtimes.kubernetes import KubernetesRuntime
from controller.service import service_id
from controller.view import ServiceView, view_service
from profiler.document import EngineProfileSpec
from profiler.errors import Refused
from profiler.profile import EngineProfile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all services have in common."""

    gpu_metrics: tuple[str, ...] = ()
    """URLs of DCGM exporters."""
    pools: Pools = field(default_factory=Pools)


class Operator:
    """Runs every LLMService of one namespace, or of all."""

    def __init__(
        self,
        client: KubeClient,
        http: aiohttp.ClientSession,
        images: Images,
        namespace: str,
        shared: Shared,
    ) -> None:
        where = f"/namespaces/{namespace}" if namespace else ""
        custom = f"/apis/{GROUP}/{VERSION}{where}"
        self._runtime = KubernetesRuntime(client, images, monotonic_s, wall_s)
        self._services = Reflector(client, f"{custom}/llmservices", Custom, self._take_service)
        self._profiles = Reflector(client, f"{custom}/engineprofiles", Custom, self._take_profile)
        self._pods = Reflector(
            client,
            f"/api/v1{where}/pods",
            Pod,
            self._runtime.take,
            f"{labels.MANAGED_BY}={labels.MANAGER},{labels.TEMPLATE}",
        )
        self._routers = Reflector(
            client,
            f"/api/v1{where}/pods",
            Pod,
            self._runtime.take_router,
            f"{labels.MANAGED_BY}={labels.MANAGER},{labels.ROLE}={labels.ROLE_ROUTER}",
        )
        self._gpus = GpuHealth(http, shared.gpu_metrics)
        self._workers: dict[Key, tuple[ServiceWorker, asyncio.Task[None]]] = {}
        self.metrics = Metrics(self.views)
        self._around = Surroundings(
            client, self._runtime, images, http, self._profiles_in, monotonic_s, wall_s,
            self.metrics, self._gpus, shared.pools,
        )  # fmt: skip
        self._working = False

    async def run(self) -> None:
        """Watch and work until cancelled."""
        async with asyncio.TaskGroup() as group:
            reflectors = (self._pods, self._routers, self._profiles, self._services)
            for reflector in reflectors:
                group.create_task(reflector.run())
            for reflector in reflectors:
                await reflector.synced.wait()
            group.create_task(self._gpus.run())
            log.info("in sync: %d services", len(self._services.items))
            self._working = True
            for key, item in self._services.items.items():
                self._take_service(key, item)

    def ready(self) -> bool:
        """Whether the caches have synced."""
        return self._working

    def views(self) -> tuple[ServiceView, ...]:
        """Every service for people."""
        now_s = monotonic_s()
        loops = [worker.loop for worker, _ in self._workers.values() if worker.loop is not None]
        views = (
            view_service(loop, self._runtime.endpoint(loop.service.id), now_s) for loop in loops
        )
        return tuple(view for view in views if view is not None)

    def _take_service(self, key: Key, item: Custom | None) -> None:
        if not self._working:
            return
        known = self._workers.get(key)
        if item is None or item.metadata.deletion_timestamp is not None:
            if known is not None:
                known[1].cancel()
                del self._workers[key]
                self._runtime.forget(service_id(*key))
                self._around.pools.forget(service_id(*key))
                self.metrics.forget(*key)
        elif known is None:
            worker = ServiceWorker(self._around, item)
            self._workers[key] = (worker, asyncio.create_task(worker.run()))
        else:
            known[0].update(item)

    def _take_profile(self, key: Key, item: Custom | None) -> None:
        """Services read profiles when they are resolved."""

    def _profiles_in(self, namespace: str) -> Mapping[str, EngineProfile]:
        found: dict[str, EngineProfile] = {}
        for (where, name), item in self._profiles.items.items():
            if where != namespace:
                continue
            try:
                spec = EngineProfileSpec.model_validate(msgspec.json.decode(item.spec))
                found[name] = spec.resolve()
            except (ValidationError, Refused) as error:
                log.warning("EngineProfile %s/%s is skipped: %s", where, name, error)
        return found


@asynccontextmanager
async def operator_of(images: Images, namespace: str, shared: Shared) -> AsyncIterator[Operator]:
    """Connect to the cluster; raises `Refused` when there is none to talk to."""
    credentials = await asyncio.to_thread(Credentials)
    api = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=api) as session, aiohttp.ClientSession() as http:
        client = KubeClient(session, credentials)
        yield Operator(client, http, images, namespace, shared)
