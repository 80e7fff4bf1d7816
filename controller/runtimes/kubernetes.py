"""The Kubernetes runtime: a replica is a Pod owned by its LLMService, its role is a label.

The router selects `role=serving`, so admitting and withdrawing are label changes; requests
that a withdrawn replica holds go on. What is there is read from a watched cache of pods.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from controller.kube import KubeClient, NotFound, newer
from controller.kube.objects import Pod
from controller.kube.reflector import Key
from controller.observation import Phase, Replica, ReplicaId
from controller.operator import labels
from controller.operator.engine_pod import engine_pod, template_hash
from controller.operator.manifests import ENGINE_PORT, Images, Owner
from controller.operator.routing import ROUTER_METRICS_PORT, endpoint
from controller.runtimes.changes import Changes
from controller.service import Service, ServiceId, service_id

_AWAITED_AT_MOST_S = 30.0
"""A pod that no watch has shown by then was deleted before it could."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class KubernetesRuntime:
    """Pods of all services; `take` is the listener of the pods' reflector."""

    def __init__(
        self,
        client: KubeClient,
        images: Images,
        now_s: Callable[[], float],
        wall_s: Callable[[], float],
    ) -> None:
        self._client = client
        self._images = images
        self._now_s = now_s
        self._wall_s = wall_s
        self._pods: dict[ServiceId, dict[str, Pod]] = {}
        self._owners: dict[ServiceId, Owner] = {}
        self._services: dict[ServiceId, Service] = {}
        self._current: dict[ServiceId, Mapping[str, str]] = {}
        """GPU type by the hash of what replicas on it run, as the services are now."""
        self._awaited: dict[ServiceId, dict[str, float]] = {}
        """Pods created whose watch event has not come, and when: counted once, started once."""
        self._shown: dict[ServiceId, tuple[Replica, ...]] = {}
        """What `replicas` said of the pods, until one of them changes."""
        self._ready_at: dict[Key, datetime] = {}
        """When pods were first seen ready: one that failed later did not fail to start."""
        self._routers: dict[Key, tuple[ServiceId, str]] = {}
        """Service and address of each router's pod."""
        self._changes = Changes()

    def serve(self, service: Service, owner: Owner) -> None:
        """Know a service and who owns its pods."""
        self._shown.pop(service.id, None)
        self._services[service.id] = service
        self._current[service.id] = {
            template_hash(kind, self._images): kind.gpu for kind in service.kinds
        }
        self._owners[service.id] = owner

    def forget(self, service: ServiceId) -> None:
        """Know a service no more; its owner's deletion takes the pods along."""
        for known in (self._shown, self._services, self._current, self._owners, self._awaited):
            known.pop(service, None)

    def take(self, key: Key, pod: Pod | None) -> None:
        """Take a change of a pod in."""
        namespace, name = key
        if pod is None:
            self._ready_at.pop(key, None)
            for service, pods in self._pods.items():
                if service.startswith(f"{namespace}/") and pods.pop(name, None) is not None:
                    self._shown.pop(service, None)
                    self._changes.note(service)
            return
        service = service_id(namespace, pod.metadata.labels.get(labels.SERVICE, ""))
        known = self._pods.setdefault(service, {}).get(name)
        if known is not None and known.metadata.uid == pod.metadata.uid and newer(known, pod):
            return  # the answer to a patch came before the event of an earlier change
        self._pods[service][name] = pod
        self._shown.pop(service, None)
        ready = pod.condition("Ready")
        if ready is not None and ready.status == "True" and ready.last_transition_time is not None:
            self._ready_at.setdefault(key, ready.last_transition_time)
        self._awaited.get(service, {}).pop(name, None)
        self._changes.note(service)

    def take_router(self, key: Key, pod: Pod | None) -> None:
        """Take a change of a router's pod in."""
        self._routers.pop(key, None)
        if pod is not None and pod.status.pod_ip:
            service = service_id(key[0], pod.metadata.labels.get(labels.SERVICE, ""))
            self._routers[key] = service, pod.status.pod_ip

    async def start(self, service: Service, count: int, avoid: tuple[str, ...] = ()) -> None:
        """Create pods."""
        owner = self._owners[service.id]
        awaited = self._awaited.setdefault(service.id, {})
        body = engine_pod(service, owner, self._images, avoid, self._start_up_s(service.id))
        for _ in range(count):
            made = _decode_pod(await self._client.create(_pods(service), body))
            if made.metadata.name not in self._pods.get(service.id, {}):
                awaited[made.metadata.name] = self._now_s()

    async def admit(self, service: Service, replica: ReplicaId) -> None:
        """Label the pod for the router."""
        await self._set_role(service, replica, labels.ROLE_SERVING)

    async def withdraw(self, service: Service, replica: ReplicaId) -> None:
        """Label the pod away from the router."""
        await self._set_role(service, replica, labels.ROLE_STANDBY)

    async def drain(self, service: Service, replica: ReplicaId) -> None:
        """Withdraw and delete: preStop, SIGTERM and the grace period do the rest."""
        await self._set_role(service, replica, labels.ROLE_DRAINING)
        await self._delete(service, replica)

    async def remove(self, service: Service, replica: ReplicaId) -> None:
        """Delete at once; what was ready and still runs may hold requests, so it drains."""
        pod = self._pods.get(service.id, {}).get(replica)
        was_ready = (service.namespace, replica) in self._ready_at
        if pod is not None and was_ready and phase_of(pod) is not Phase.FAILED:
            await self.drain(service, replica)
        else:
            await self._delete(service, replica, gracePeriodSeconds=0)

    def replicas(self, service: ServiceId) -> tuple[Replica, ...]:
        """Pods of the service, and those created a moment ago."""
        shown = self._shown.get(service)
        if shown is None:
            shown = self._shown[service] = self._of_pods(service)
        since_s = self._now_s() - _AWAITED_AT_MOST_S
        awaited = self._awaited.get(service, {})
        coming = sorted(name for name, at_s in awaited.items() if at_s > since_s)
        return (
            *shown,
            *(Replica(ReplicaId(name), Phase.PENDING, self._now_s()) for name in coming),
        )

    def _of_pods(self, service: ServiceId) -> tuple[Replica, ...]:
        owner = self._owners.get(service)
        mine = (None, owner.uid) if owner is not None else ()
        pods = [
            pod  # those of a former LLMService of this name are being collected
            for pod in self._pods.get(service, {}).values()
            if not mine or pod.metadata.controller in mine
        ]
        current = self._current.get(service, {})
        return tuple(self._replica(pod, current) for pod in pods)

    @property
    def size(self) -> int:
        """Replicas of all services."""
        return sum(len(pods) for pods in self._pods.values())

    async def changed(self, service: ServiceId) -> None:
        """Wait for a change."""
        await self._changes.wait(service)

    def endpoint(self, service: ServiceId) -> str | None:
        """Address of the router's Service."""
        known = self._services.get(service)
        return None if known is None else endpoint(known)

    def router_metrics(self, service: ServiceId) -> tuple[str, ...]:
        """Metrics of the router's pods."""
        return tuple(
            f"http://{address}:{ROUTER_METRICS_PORT}/metrics"
            for of, address in self._routers.values()
            if of == service
        )

    def _start_up_s(self, service: ServiceId) -> float | None:
        """The longest start among the pods there are; None before one was seen."""
        starts = (
            (ready_at - pod.metadata.creation_timestamp) / timedelta(seconds=1)
            for name, pod in self._pods.get(service, {}).items()
            if pod.metadata.creation_timestamp is not None
            and (ready_at := self._ready_at.get((pod.metadata.namespace, name))) is not None
        )
        return max(starts, default=None)

    async def adopt(self, service: Service) -> int:
        """Own pods that an LLMService of this name left behind (`--cascade=orphan`); how many."""
        orphans = [pod for pod in self._pods.get(service.id, {}).values() if not pod.metadata.owned]
        owner = self._owners[service.id].reference()
        for pod in orphans:
            meta = {"uid": pod.metadata.uid, "ownerReferences": [owner]}
            path = f"{_pods(service)}/{pod.metadata.name}"
            made = await self._client.patch(path, {"metadata": meta})
            self.take((service.namespace, pod.metadata.name), _decode_pod(made))
        return len(orphans)

    async def _set_role(self, service: Service, replica: ReplicaId, role: str) -> None:
        body = {"metadata": {"labels": {labels.ROLE: role}}}
        try:
            self.take(
                (service.namespace, replica),
                _decode_pod(await self._client.patch(f"{_pods(service)}/{replica}", body)),
            )
        except NotFound:
            self.take((service.namespace, replica), None)

    async def _delete(self, service: Service, replica: ReplicaId, **options: int) -> None:
        try:
            await self._client.delete(f"{_pods(service)}/{replica}", **options)
        except NotFound:
            self.take((service.namespace, replica), None)

    def _replica(self, pod: Pod, current: Mapping[str, str]) -> Replica:
        """Show a pod; `current`: GPU type by the hash of what replicas on it run now."""
        template = pod.metadata.labels.get(labels.TEMPLATE, "")
        ready_at = self._ready_at.get((pod.metadata.namespace, pod.metadata.name))
        address = pod.status.pod_ip
        return Replica(
            id=ReplicaId(pod.metadata.name),
            phase=phase_of(pod),
            created_s=self._moment_s(pod.metadata.creation_timestamp),
            ready_s=None if ready_at is None else self._moment_s(ready_at),
            url=f"http://{address}:{ENGINE_PORT}" if address else None,
            message=_trouble(pod),
            stale=bool(current and template) and template not in current,
            gpu=current.get(template, ""),
            node=pod.spec.node_name,
        )

    def _moment_s(self, at: datetime | None) -> float:
        """Put the server's wall time on the controller's clock."""
        if at is None:
            return self._now_s()
        age_s = self._wall_s() - (at - _EPOCH) / timedelta(seconds=1)
        return self._now_s() - max(age_s, 0.0)


def phase_of(pod: Pod) -> Phase:
    """Where a pod stands in a replica's life."""
    if pod.metadata.deletion_timestamp is not None:
        return Phase.DRAINING
    ended = any(c.state.terminated is not None for c in pod.status.container_statuses)
    if ended or pod.status.phase in ("Failed", "Succeeded"):
        return Phase.FAILED
    ready = pod.condition("Ready")
    if ready is not None and ready.status == "True":
        serving = pod.metadata.labels.get(labels.ROLE) == labels.ROLE_SERVING
        return Phase.SERVING if serving else Phase.STANDBY
    return Phase.STARTING if pod.spec.node_name else Phase.PENDING


def _trouble(pod: Pod) -> str:
    """What keeps a pod from being ready, in its own words."""
    for container in pod.status.container_statuses:
        state = container.state
        if state.terminated is not None:
            detail = state.terminated.message or state.terminated.reason
            return f"engine exited with {state.terminated.exit_code}: {detail}".rstrip(": ")
        if state.waiting is not None and state.waiting.reason not in ("", "ContainerCreating"):
            return f"{state.waiting.reason}: {state.waiting.message}".rstrip(": ")
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        return f"{scheduled.reason}: {scheduled.message}"
    return pod.status.message


def _pods(service: Service) -> str:
    return f"/api/v1/namespaces/{service.namespace}/pods"


def _decode_pod(content: bytes) -> Pod:
    return msgspec.json.decode(content, type=Pod)
