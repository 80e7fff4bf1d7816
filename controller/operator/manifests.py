"""The objects that the operator makes for an LLMService: engine pods and a router.

Everything is owned by the LLMService, so that deleting it leaves nothing behind. Processes
listen on the pod's own address: nothing is reachable that the pod network does not carry.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from controller.api import GROUP, VERSION
from controller.api.llmservice import EngineType
from controller.engine_command import SHUTDOWN_TIMEOUT_S, engine_command
from controller.operator import labels
from controller.runtimes.router import router_args
from controller.service import Service

ENGINE_PORT = 8000
ROUTER_PORT = 8000
ROUTER_METRICS_PORT = 29000
_POD_IP = "$(POD_IP)"
_GRACE_S = SHUTDOWN_TIMEOUT_S + 15
_PRE_STOP_S = 2
"""The router learns of a label change within a second."""
_START_UP_BUDGET = 4.0
"""A start may take this many times what the profile predicts before it counts as failed."""

_ENGINE = {"app.kubernetes.io/component": "engine"}
_SPREAD_OVER = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
_SECURE = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True, slots=True)
class Images:
    """Container images; each service may override its engine's."""

    whaleflux: str
    """Controller, router and emulated engine."""
    vllm: str


@dataclass(frozen=True, slots=True)
class Owner:
    """The LLMService that owns an object."""

    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """Give the owner reference of a child."""
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "LLMService",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def engine_pod(
    service: Service, owner: Owner, images: Images, avoid: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Make a pod of one replica, born a standby; `avoid`: nodes to keep away from if it can."""
    spec = _engine_pod_spec(service, images)
    if avoid:
        spec["affinity"] = _away_from(avoid)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{service.name}-",
            "namespace": service.namespace,
            "labels": {
                **labels.common(service.name),
                labels.ROLE: labels.ROLE_STANDBY,
                labels.TEMPLATE: template_hash(service, images),
                **_ENGINE,
            },
            "ownerReferences": [owner.reference()],
        },
        "spec": spec,
    }


def template_hash(service: Service, images: Images) -> str:
    """Short hash of what a replica runs; a change of it is a rollout."""
    spec = json.dumps(_engine_pod_spec(service, images), sort_keys=True)
    return hashlib.sha256(spec.encode()).hexdigest()[:10]


def _engine_pod_spec(service: Service, images: Images) -> dict[str, Any]:
    vllm = service.engine is EngineType.VLLM
    image = service.image or (images.vllm if vllm else images.whaleflux)
    program = engine_command(service, _POD_IP, ENGINE_PORT, program=("whaleflux", "emulate"))
    budget_s = max(int(_START_UP_BUDGET * service.profile.start_up_s), 120)
    container: dict[str, Any] = {
        "name": "engine",
        "image": image,
        "command": list(program),
        "env": _pod_env(),
        "ports": [{"name": "http", "containerPort": ENGINE_PORT}],
        "startupProbe": _probe("/health", period_s=1, failures=budget_s),
        "readinessProbe": _probe("/health", period_s=2, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": _PRE_STOP_S}}},
        "securityContext": _SECURE if not vllm else {"allowPrivilegeEscalation": False},
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",  # a replica that died is replaced, never resumed
        "terminationGracePeriodSeconds": _GRACE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "topologySpreadConstraints": [_spread(service, key) for key in _SPREAD_OVER],
        "containers": [container],
    }
    if vllm:
        gpus = str(service.configuration.layout.gpus)
        container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
        spec["nodeSelector"] = {"nvidia.com/gpu.product": service.gpu_product}
    return spec


def _away_from(nodes: tuple[str, ...]) -> dict[str, Any]:
    """Prefer any other node: what made a replica slow there would slow the next one down."""
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    preferred = {"weight": 100, "preference": {"matchFields": others}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}


def _spread(service: Service, topology_key: str) -> dict[str, Any]:
    """Replicas apart where there is room: one node or zone lost must not be the whole service."""
    return {
        "maxSkew": 1,
        "topologyKey": topology_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {labels.SERVICE: service.name, **_ENGINE}},
    }


def _pod_env() -> list[dict[str, Any]]:
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NUMBA_CACHE_DIR", "value": "/tmp/numba"},  # noqa: S108 - the pod's own
    ]


def _probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "failureThreshold": failures,
        "timeoutSeconds": 2,
    }


def router_objects(service: Service, owner: Owner, images: Images) -> list[dict[str, Any]]:
    """Make the router and what it needs: an account that may watch pods, and a Service."""
    name = router_name(service)
    meta = {
        "name": name,
        "namespace": service.namespace,
        "labels": {**labels.common(service.name), "app.kubernetes.io/component": "router"},
        "ownerReferences": [owner.reference()],
    }
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": meta,
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
            ],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": service.namespace}],
        },
        _router_deployment(service, meta, images),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**meta, "name": service.name},
            "spec": {
                "selector": {labels.SERVICE: service.name, labels.ROLE: labels.ROLE_ROUTER},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        },
    ]


def router_name(service: Service) -> str:
    """Name of the router's Deployment, account and role."""
    return f"{service.name}-router"


def endpoint(service: Service) -> str:
    """Address inside the cluster."""
    return f"http://{service.name}.{service.namespace}.svc"


def _router_deployment(service: Service, meta: dict[str, Any], images: Images) -> dict[str, Any]:
    pod_labels = {
        **labels.common(service.name),
        labels.ROLE: labels.ROLE_ROUTER,
        "app.kubernetes.io/component": "router",
    }
    command = [
        "python3",
        "-m",
        "vllm_router.launch_router",
        *router_args(_POD_IP, ROUTER_PORT, ROUTER_METRICS_PORT, even=not service.fallbacks),
        "--service-discovery",
        "--selector",
        f"{labels.SERVICE}={service.name}",
        f"{labels.ROLE}={labels.ROLE_SERVING}",
        f"--service-discovery-port={ENGINE_PORT}",
        f"--service-discovery-namespace={service.namespace}",
    ]
    container = {
        "name": "router",
        "image": images.whaleflux,
        "command": command,
        "env": _pod_env(),
        "ports": [
            {"name": "http", "containerPort": ROUTER_PORT},
            {"name": "metrics", "containerPort": ROUTER_METRICS_PORT},
        ],
        "readinessProbe": _probe("/health", period_s=2, failures=3),
        "securityContext": _SECURE,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": 1,
            "selector": {
                "matchLabels": {labels.SERVICE: service.name, labels.ROLE: labels.ROLE_ROUTER}
            },
            "template": {
                "metadata": {"labels": pod_labels},
                "spec": {"serviceAccountName": router_name(service), "containers": [container]},
            },
        },
    }
