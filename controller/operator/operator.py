"""The operator: its watches, and a worker per LLMService while it leads.

Nothing is decided before the caches have synced: a pod that is not yet seen would be
started again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import msgspec
from pydantic import ValidationError

from controller.api import GROUP, VERSION
from controller.clock import monotonic_s, wall_s
from controller.kube import KubeClient, Reflector
from controller.kube.client import FIELD_MANAGER, Credentials
from controller.kube.objects import Bare, Custom, Pod
from controller.kube.reflector import Key
from controller.metrics import Metrics
from controller.operator import labels
from controller.operator.children import Children
from controller.operator.gpu_health import GpuHealth
from controller.operator.instruments import Instruments
from controller.operator.lease import Election, LeaseName
from controller.operator.manifests import Images
from controller.operator.pace import Pace
from controller.operator.resolver import Resolver
from controller.operator.routing import service_of_router
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

    images: Images
    namespaces: tuple[str, ...] = ()
    """Watched; empty: all."""
    home: str = ""
    """Namespace whose EngineProfiles are everybody's; empty: none."""
    lease: LeaseName | None = None
    """By which one of several operators leads; None: there is one only."""
    policies_from: tuple[str, ...] = ()
    """Namespaces that may reach engines and metrics; empty: no network policies are made."""
    gpu_metrics: tuple[str, ...] = ()
    """URLs of DCGM exporters."""
    pools: Pools = field(default_factory=Pools)


class Operator:
    """Runs every LLMService of some namespaces, or of all, while it leads."""

    def __init__(
        self,
        client: KubeClient,
        http: aiohttp.ClientSession,
        shared: Shared,
        election: Election | None = None,
    ) -> None:
        self._client = client
        self._election = election
        self._home = shared.home
        self._runtime = KubernetesRuntime(client, shared.images, monotonic_s, wall_s)
        self._services: list[Reflector[Custom]] = []
        self._profiles: list[Reflector[Custom]] = []
        self._pods: list[Reflector[Pod]] = []
        self._children: list[Reflector[Bare]] = []
        """What a person may delete or edit, and should find mended."""
        self._generations: dict[tuple[Callable[[str], str], Key], int] = {}
        self.metrics = Metrics(self.views)
        self.instruments = Instruments(self.metrics)
        client.tell = self.instruments.asked
        for namespace in shared.namespaces or ("",):
            self._mirror(f"/namespaces/{namespace}" if namespace else "")
        if self._home and shared.namespaces and self._home not in shared.namespaces:
            self._mirror_profiles(f"/namespaces/{self._home}")
        self._gpus = GpuHealth(http, shared.gpu_metrics)
        self._workers: dict[Key, tuple[ServiceWorker, asyncio.Task[None]]] = {}
        pace = Pace(lambda: self._runtime.size, monotonic_s)
        resolver = Resolver(self.instruments, monotonic_s)
        children = Children(client, shared.images, shared.policies_from)
        self._around = Surroundings(
            client, self._runtime, children, http, self._profiles_in, monotonic_s, wall_s,
            self.metrics, self._gpus, shared.pools, resolver, pace, self.instruments,
        )  # fmt: skip
        self._synced = self._leads = False

    def _mirror(self, where: str) -> None:
        """Watch what is read of one namespace, or of all."""
        ours, pods = f"{labels.MANAGED_BY}={labels.MANAGER}", f"/api/v1{where}/pods"
        custom, engines = f"/apis/{GROUP}/{VERSION}{where}", f"{ours},{labels.TEMPLATE}"
        routers = f"{ours},{labels.ROLE}={labels.ROLE_ROUTER}"
        self._pods += [
            Reflector(self._client, pods, Pod, self._runtime.take, engines),
            Reflector(self._client, pods, Pod, self._runtime.take_router, routers),
        ]
        self._services.append(
            Reflector(self._client, f"{custom}/llmservices", Custom, self._take_service)
        )
        for path, name_of in (
            (f"/apis/apps/v1{where}/deployments", service_of_router),
            (f"/api/v1{where}/services", str),
        ):
            listener = partial(self._take_child, name_of)
            self._children.append(Reflector(self._client, path, Bare, listener, ours))
        self._mirror_profiles(where)

    def _mirror_profiles(self, where: str) -> None:
        path = f"/apis/{GROUP}/{VERSION}{where}/engineprofiles"
        self._profiles.append(Reflector(self._client, path, Custom, self._take_profile))

    async def run(self) -> None:
        """Watch until cancelled, and work while leading; `LeaseLost` when another one leads."""
        async with asyncio.TaskGroup() as group:
            reflectors: tuple[Reflector[Any], ...] = (
                *self._pods, *self._children, *self._profiles, *self._services,
            )  # fmt: skip
            for reflector in reflectors:
                restarts = self.instruments.watch_restarts.labels(reflector.resource)
                reflector.restarted = restarts.inc
                group.create_task(reflector.run())
            for reflector in reflectors:
                await reflector.synced.wait()
            self._synced = True
            group.create_task(self._gpus.run())
            if self._election is None:
                await self._work(asyncio.Event().wait())
                return
            async with self._election.lead() as keeping:
                await self._work(keeping)

    async def _work(self, until: Awaitable[object]) -> None:
        """Run a worker for every service; all have ended before this returns."""
        items = [pair for mirror in self._services for pair in mirror.items.items()]
        log.info("in sync: %d services", len(items))
        self._leads = True
        self.instruments.leads.set(1)
        for key, item in items:
            self._take_service(key, item)
        try:
            await until
        finally:
            self._leads = False
            self.instruments.leads.set(0)
            tasks = [task for _, task in self._workers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def ready(self) -> bool:
        """Whether the caches have synced: it leads, or could at once."""
        return self._synced

    def waits(self) -> str:
        """Who works in its place, for people; empty while it works itself."""
        if self._election is None or self._leads:
            return ""
        pod = self._election.holder.rsplit("_", 1)[0]
        if not pod:
            return "this operator waits until one leads: ask again in a few seconds"
        return f"this operator waits while another one leads: port-forward to pod/{pod} instead"

    def views(self) -> tuple[ServiceView, ...]:
        """Every service for people."""
        now_s = monotonic_s()
        loops = [worker.loop for worker, _ in self._workers.values() if worker.loop is not None]
        views = (
            view_service(loop, self._runtime.endpoint(loop.service.id), now_s) for loop in loops
        )
        return tuple(view for view in views if view is not None)

    def _take_service(self, key: Key, item: Custom | None) -> None:
        if not self._leads:
            return
        known = self._workers.get(key)
        if item is None or item.metadata.deletion_timestamp is not None:
            if known is not None:
                known[1].cancel()
                del self._workers[key]
                self._runtime.forget(service_id(*key))
                self._around.pools.forget(service_id(*key))
                self.metrics.forget(*key)
                self.instruments.forget(*key)
        elif known is None:
            worker = ServiceWorker(self._around, item)
            self._workers[key] = (worker, asyncio.create_task(worker.run()))
        else:
            known[0].update(item)

    def _take_child(self, name_of: Callable[[str], str], key: Key, item: Bare | None) -> None:
        """Have a router mended that somebody deleted or changed."""
        which = (name_of, key)
        before, now = self._generations.get(which), item and item.metadata.generation
        if item is None:
            self._generations.pop(which, None)
        else:
            self._generations[which] = item.metadata.generation
        known = self._workers.get((key[0], name_of(key[1])))
        if known is not None and (item is None or (before is not None and now != before)):
            known[0].mend()

    def _take_profile(self, key: Key, item: Custom | None) -> None:
        """Services read profiles when they are resolved."""

    def _profiles_in(self, namespace: str) -> Mapping[str, EngineProfile]:
        """EngineProfiles of a namespace, and of ours where it has none of the name."""
        found: dict[str, EngineProfile] = {}
        for wanted in dict.fromkeys((self._home, namespace)):
            for mirror in self._profiles:
                found |= self._read(mirror, wanted)
        return found

    def _read(self, mirror: Reflector[Custom], namespace: str) -> dict[str, EngineProfile]:
        found: dict[str, EngineProfile] = {}
        for (where, name), item in mirror.items.items():
            if where != namespace:
                continue
            try:
                spec = EngineProfileSpec.model_validate(msgspec.json.decode(item.spec))
                found[name] = spec.resolve()
            except (ValidationError, Refused) as error:
                log.warning("EngineProfile %s/%s is skipped: %s", where, name, error)
        return found


@asynccontextmanager
async def operator_of(shared: Shared) -> AsyncIterator[Operator]:
    """Connect to the cluster; raises `Refused` when there is none to talk to."""
    credentials = await asyncio.to_thread(Credentials)
    api = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=api) as session, aiohttp.ClientSession() as http:
        client, election = KubeClient(session, credentials), None
        if shared.lease is not None:
            unbound = KubeClient(session, credentials)  # the Lease itself is written without it
            election = Election(unbound, shared.lease, monotonic_s, wall_s)
            client.may_write = election.holds
            client.agent = unbound.agent = f"{FIELD_MANAGER}/{shared.lease.identity}"
        yield Operator(client, http, shared, election)
