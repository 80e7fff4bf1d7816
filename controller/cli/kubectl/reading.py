"""What the cluster tells of services, their replicas and their events, reduced to frozen values.

`top` and `explain` print these, `drill` and `plan` act on them. What is not known is None.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from pydantic import ValidationError

from controller.api import GROUP, VERSION
from controller.api.status import LLMServiceStatus
from controller.clock import monotonic_s, wall_s
from controller.kube import KubeClient, NotFound
from controller.kube.objects import Custom, Pod
from controller.observation import Replica
from controller.operator import labels
from controller.operator.manifests import Images
from controller.runtimes.kubernetes import KubernetesRuntime
from controller.service import service_id
from profiler.errors import Refused

_FORECAST = re.compile(r"([0-9.]+) req/s forecast")
_PERCENTILE = 95
"""Of an objective that names none; the API server fills it in."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An LLMService: its manifest as it stands, and its status."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: dict[str, Any]
    status: LLMServiceStatus

    @property
    def manifest(self) -> dict[str, Any]:
        """As the API takes it."""
        meta = {"name": self.name, "namespace": self.namespace, "generation": self.generation}
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "LLMService",
            "metadata": meta,
            "spec": self.spec,
        }

    @property
    def gpu(self) -> str:
        """GPU type in force, or else the first that is asked for."""
        if self.status.configuration is not None and self.status.configuration.gpu:
            return self.status.configuration.gpu
        placement = self.spec.get("placement") or {}
        offers = placement.get("gpus") or [{}]
        return str(placement.get("gpu") or offers[0].get("gpu") or "")

    @property
    def objective_percent(self) -> int | None:
        """Share of requests that shall be within the bounds; None without any bound."""
        slo = self.spec.get("slo") or {}
        bounded = any(slo.get(bound) is not None for bound in ("ttftMs", "itlMs", "e2eMs"))
        return int(slo.get("percentile") or _PERCENTILE) if bounded else None

    @property
    def forecast_rps(self) -> float | None:
        """Load that the last decision was made for."""
        decision = self.status.last_decision
        told = _FORECAST.search(decision.message) if decision is not None else None
        return float(told[1]) if told is not None else None

    @property
    def capacity_rps(self) -> float | None:
        """What the serving replicas carry within the objective."""
        if self.status.configuration is None:
            return None
        one = number(self.status.configuration.requests_per_second_per_replica)
        return None if one is None else one * self.status.replicas

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason; `Unknown` where the operator has not told."""
        found = next((c for c in self.status.conditions if c.type == kind), None)
        return ("Unknown", "") if found is None else (found.status, found.reason)


class _Regarding(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""
    uid: str = ""


class _Event(msgspec.Struct, rename="camel", frozen=True):
    type: str = ""
    reason: str = ""
    note: str = ""
    event_time: str | None = None
    regarding: _Regarding = _Regarding()


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a service."""

    at: str
    kind: str
    """Normal or Warning."""
    reason: str
    note: str


class _List(msgspec.Struct):
    items: list[msgspec.Raw] = []


async def read_services(client: KubeClient, namespace: str | None) -> list[Seen]:
    """Read all of a namespace, or of all of them (None)."""
    try:
        content = await client.get(_path(namespace))
    except NotFound as error:
        raise Refused(
            "kubernetes: this cluster knows no LLMService: install the chart, or give --context"
        ) from error
    listed = msgspec.json.decode(content, type=_List)
    return [_seen(msgspec.json.decode(raw, type=Custom)) for raw in listed.items]


async def read_service(client: KubeClient, namespace: str, name: str) -> Seen:
    """Read one; `Refused` where there is none."""
    try:
        content = await client.get(f"{_path(namespace)}/{name}")
    except NotFound as error:
        raise Refused(
            f"service {name}: there is no such LLMService in namespace {namespace}: give -n, or "
            "see `kubectl whaleflux top -A`"
        ) from error
    return _seen(msgspec.json.decode(content, type=Custom))


def pods_path(namespace: str) -> str:
    """Where a namespace's Pods are."""
    return f"/api/v1/namespaces/{namespace}/pods"


def pods_selector(service: str) -> str:
    """Engine Pods of a service; not its routers."""
    return f"{labels.SERVICE}={service},{labels.TEMPLATE}"


async def read_replicas(client: KubeClient, seen: Seen) -> tuple[Replica, ...]:
    """Read a service's replicas, oldest first."""
    content = await client.get(pods_path(seen.namespace), labelSelector=pods_selector(seen.name))
    raws = msgspec.json.decode(content, type=_List).items
    return replicas_of(client, seen, [msgspec.json.decode(raw, type=Pod) for raw in raws])


def replicas_of(client: KubeClient, seen: Seen, pods: Sequence[Pod]) -> tuple[Replica, ...]:
    """Show Pods as the operator sees them, oldest first."""
    runtime = KubernetesRuntime(client, Images("", ""), monotonic_s, wall_s)
    for pod in sorted(pods, key=_by_age):
        runtime.take((pod.metadata.namespace, pod.metadata.name), pod)
    return runtime.replicas(service_id(seen.namespace, seen.name))


def _by_age(pod: Pod) -> tuple[float, str]:
    created = pod.metadata.creation_timestamp
    return (created.timestamp() if created is not None else 0.0, pod.metadata.name)


async def read_events(client: KubeClient, seen: Seen, most: int) -> list[Told]:
    """Read the newest events of a service, oldest first."""
    path = f"/apis/events.k8s.io/v1/namespaces/{seen.namespace}/events"
    content = await client.get(path, fieldSelector=f"regarding.name={seen.name}")
    events = [
        msgspec.json.decode(raw, type=_Event)
        for raw in msgspec.json.decode(content, type=_List).items
    ]
    mine = [
        Told(event.event_time or "", event.type, event.reason, event.note)
        for event in events
        if event.regarding.kind == "LLMService" and event.regarding.uid in ("", seen.uid)
    ]
    return sorted(mine, key=lambda told: told.at)[-most:]


def number(text: str) -> float | None:
    """Read a decimal of the status; empty: not known."""
    return float(text) if text else None


def age_s(moment: str) -> float | None:
    """Seconds since a moment of the API, by this machine's clock; None for what is no moment."""
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(wall_s() - at.timestamp(), 0.0)


def as_age(seconds: float | None) -> str:
    """Say an age as kubectl does: the two largest units at most."""
    if seconds is None:
        return "–"
    whole = int(seconds)
    if whole < 120:
        return f"{whole}s"
    if whole < 2 * 3600:
        return f"{whole // 60}m{whole % 60}s" if whole < 600 else f"{whole // 60}m"
    return f"{whole // 3600}h" if whole < 48 * 3600 else f"{whole // 86400}d"


def _path(namespace: str | None) -> str:
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{where}/llmservices"


def _seen(item: Custom) -> Seen:
    meta = item.metadata
    try:
        status = LLMServiceStatus.model_validate_json(bytes(item.status))
    except ValidationError:
        status = LLMServiceStatus()  # none yet, or of a version that says less
    spec = msgspec.json.decode(item.spec)
    return Seen(meta.namespace, meta.name, meta.uid, meta.generation, spec, status)
