"""One LLMService in the cluster: resolve its spec, keep its router, run its loop, say so.

A worker belongs to one object. Whatever is wrong with that object, with its GPU type or
with its quota, ends as a condition here and touches no other service.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import ceil
from typing import Any

import aiohttp
import msgspec
from pydantic import ValidationError

from controller.api import GROUP, VERSION, parse_service
from controller.api.status import LLMServiceStatus
from controller.configure import InForce
from controller.decide import State
from controller.kube import Conflict, KubeClient, KubeError, NotFound
from controller.kube.objects import Custom
from controller.loop import Outcome, Publish, ServiceLoop, publish_to_nobody
from controller.metrics import Metrics
from controller.operator.children import Children
from controller.operator.events import (
    configuration_event,
    decision_event,
    finding_event,
    warning_event,
)
from controller.operator.gpu_health import GpuHealth
from controller.operator.instruments import Instruments
from controller.operator.manifests import Owner
from controller.operator.paths import path_of
from controller.operator.resolver import Resolver
from controller.operator.routing import endpoint
from controller.operator.status import in_force, refused_status, status_of
from controller.pools import Pools
from controller.runtimes.kubernetes import KubernetesRuntime
from controller.service import Service
from profiler.errors import DoesNotFit, MissesObjective, Refused, RetryLater, WhaleFluxError
from profiler.profile import EngineProfile

_RETRY_FIRST_S = 1.0
_RETRY_LONGEST_S = 60.0
_REASONS: dict[type[Refused], str] = {
    DoesNotFit: "DoesNotFit",
    MissesObjective: "ObjectiveUnreachable",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every worker shares."""

    client: KubeClient
    runtime: KubernetesRuntime
    children: Children
    http: aiohttp.ClientSession
    profiles: Callable[[str], Mapping[str, EngineProfile]]
    """EngineProfiles of a namespace."""
    now_s: Callable[[], float]
    wall_s: Callable[[], float]
    metrics: Metrics
    gpus: GpuHealth
    pools: Pools
    resolver: Resolver
    pace: Callable[[], float]
    """How often each service is looked at, s."""
    instruments: Instruments


class ServiceWorker:
    """Runs one LLMService until cancelled; `update` brings a new version of it."""

    def __init__(self, around: Surroundings, item: Custom) -> None:
        self.loop: ServiceLoop | None = None
        self._around = around
        self._item = item
        self._changed = asyncio.Event()
        self._status = _decode_status(item)
        self._written: LLMServiceStatus | None = None
        self._told = 0.0
        """Moment of the last decision that became an event."""
        self._found: frozenset[tuple[str, str, str]] = frozenset()
        """Findings that became events and still hold."""
        self._count: Publish = publish_to_nobody
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue(maxsize=1)
        self._mend = asyncio.Event()
        self._guarded: int | None = None
        """Serving replicas that the disruption budget was made for."""

    def update(self, item: Custom) -> None:
        """Take a change in; only a new generation is resolved again."""
        renewed = item.metadata.generation != self._item.metadata.generation
        self._item = item
        if renewed:
            self._changed.set()

    def mend(self) -> None:
        """Something that belongs to the service was deleted, or changed by others."""
        self._mend.set()

    async def run(self) -> None:
        """Resolve, run, and begin anew at every new generation; retry what may mend."""
        pause_s = _RETRY_FIRST_S
        while True:
            self._changed.clear()
            try:
                service = await self._resolve()
                pause_s = _RETRY_FIRST_S
                await self._run_until_changed(service)
                continue
            except Refused as error:
                await self._refuse(error)
            except KubeError as error:  # a right or a quota that lacks: told, and tried again
                await self._refuse(Refused(str(error)), "ApiRefused")
            except WhaleFluxError as error:
                self._failed("ApiError")
                log.warning("service %s: %s", self._name, error)
            except Exception:
                self._failed("Internal")
                log.exception("service %s: its loop failed; starting it again", self._name)
            await self._keep_running_until_changed(pause_s)
            pause_s = min(2 * pause_s, _RETRY_LONGEST_S)

    @property
    def _name(self) -> str:
        return f"{self._item.metadata.namespace}/{self._item.metadata.name}"

    async def _resolve(self) -> Service:
        meta = self._item.metadata
        document = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "LLMService",
            "metadata": {
                "name": meta.name,
                "namespace": meta.namespace,
                "uid": meta.uid,
                "generation": meta.generation,
            },
            "spec": msgspec.json.decode(self._item.spec),
        }
        manifest = parse_service(document, f"LLMService {self._name}")
        profiles = self._around.profiles(meta.namespace)
        before = in_force(self._status)
        service = await self._around.resolver.resolve(manifest, profiles, before)
        if before is not None and before != InForce(service.gpu, service.configuration):
            await self._tell(configuration_event(meta, service.why, self._now()))
        owner = Owner(meta.name, meta.uid)
        await self._around.children.apply(service, owner)
        self._around.runtime.serve(service, owner)
        adopted = await self._around.runtime.adopt(service)
        if adopted:
            log.info("service %s: adopted %d pods", self._name, adopted)
        self._guarded = None
        return service

    def _failed(self, reason: str) -> None:
        meta = self._item.metadata
        self._around.instruments.failed(meta.namespace, meta.name, reason)

    async def _run_until_changed(self, service: Service) -> None:
        """Run the loop; decision state goes on over a change of the spec."""
        state = self.loop.state if self.loop is not None else self._former(service)
        around = self._around
        self._count = around.metrics.watching(service, around.now_s)
        self.loop = ServiceLoop(
            service, around.runtime, around.http, around.now_s, self._publish, state
        )
        self.loop.gpus = partial(around.gpus.of, service.namespace)
        self.loop.pools = around.pools
        self.loop.pace = around.pace
        beside = (self.loop.run(), self._write_forever(), self._mend_forever(service))
        work = [asyncio.create_task(each) for each in beside]
        waiter = asyncio.create_task(self._changed.wait())
        try:
            done, _ = await asyncio.wait([*work, waiter], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*work, waiter):
                task.cancel()
            await asyncio.gather(*work, waiter, return_exceptions=True)

    def _former(self, service: Service) -> State:
        """What was decided before a restart, from the status; that none should serve, too."""
        elsewhere, bounds = {f.gpu: f.desired for f in self._status.fallbacks}, service.bounds
        wanted = self._status.desired_replicas - sum(elsewhere.values())
        wanted += ceil(
            sum(elsewhere.get(k.gpu, 0) * k.worth_of(service) for k in service.fallbacks)
        )
        if wanted:
            return State(serving=min(max(wanted, bounds.low), bounds.high))
        slept = self._status.observed_generation > 0 and bounds.zero_after_s is not None
        return State(busy_s=float("-inf")) if slept else State()

    async def _keep_running_until_changed(self, pause_s: float) -> None:
        """What ran keeps running while the new spec is refused."""
        loop = self.loop
        running = asyncio.create_task(loop.run()) if loop is not None else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._changed.wait()
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _publish(self, outcome: Outcome) -> None:
        self._count(outcome)
        if self._outcomes.full():
            self._outcomes.get_nowait()
        self._outcomes.put_nowait(outcome)

    async def _write_forever(self) -> None:
        """Write status and events beside the loop, so that neither delays a decision."""
        while True:
            outcome = await self._outcomes.get()
            try:
                await self._write(outcome)
            except NotFound:
                return  # deleted meanwhile
            except (WhaleFluxError, aiohttp.ClientError) as error:
                log.warning("service %s: status: %s", self._name, error)
                await asyncio.sleep(_RETRY_FIRST_S)

    async def _mend_forever(self, service: Service) -> None:
        """Put back what others took away, beside the loop and a while apart."""
        owner = Owner(self._item.metadata.name, self._item.metadata.uid)
        while True:
            await self._mend.wait()
            self._mend.clear()
            try:
                await self._around.children.apply(service, owner)
            except WhaleFluxError as error:
                log.warning("service %s: %s", self._name, error)
                self._mend.set()
            await asyncio.sleep(_RETRY_FIRST_S)

    async def _write(self, outcome: Outcome) -> None:
        assert self.loop is not None  # noqa: S101
        last = self.loop.decisions[-1] if self.loop.decisions else None
        where = endpoint(outcome.seen.service)
        await self._write_status(status_of(outcome, last, self._status, self._now(), where))
        if outcome.decision.serving != self._guarded:
            owner = Owner(self._item.metadata.name, self._item.metadata.uid)
            await self._around.children.guard(outcome.seen.service, owner, outcome.decision.serving)
            self._guarded = outcome.decision.serving
        if last is not None and last.at_s > self._told:
            self._told = last.at_s
            await self._tell(decision_event(self._item.metadata, last, self._now()))
        for finding in outcome.seen.findings:
            if finding.key not in self._found:
                await self._tell(finding_event(self._item.metadata, finding, self._now()))
        self._found = frozenset(finding.key for finding in outcome.seen.findings)

    async def _refuse(self, error: Refused, reason: str = "") -> None:
        reason = reason or _REASONS.get(type(error), "InvalidSpec")
        self._failed(reason)
        log.warning("service %s refused: %s", self._name, error)
        status = refused_status(
            str(error), reason, self._item.metadata.generation, self._status, self._now()
        )
        with contextlib.suppress(RetryLater, KubeError):
            if await self._write_status(status):
                await self._tell(
                    warning_event(self._item.metadata, reason, str(error), self._now())
                )

    async def _tell(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(Conflict):  # told in this very second already
            await self._around.client.create(path_of(event, collection=True), event)

    async def _write_status(self, status: LLMServiceStatus) -> bool:
        """Write when something changed; whether it did."""
        self._status = status
        if status == self._written:
            return False
        meta = self._item.metadata
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{meta.namespace}/llmservices/{meta.name}/status"
        body: dict[str, Any] = {"status": status.model_dump(mode="json", by_alias=True)}
        await self._around.client.patch(path, body)
        self._written = status
        return True

    def _now(self) -> str:
        return datetime.fromtimestamp(self._around.wall_s(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _decode_status(item: Custom) -> LLMServiceStatus:
    """Read the status left by an earlier run; an unreadable one counts as none."""
    try:
        return LLMServiceStatus.model_validate_json(bytes(item.status))
    except ValidationError:
        return LLMServiceStatus()
