"""How requests find a service's replicas: a router of its own, or a Gateway's InferencePool.

Both select Pods by the label that admission sets. The router is a Deployment with the least rights
that it can do with (it watches Pods), spread over nodes; what is not chosen is deleted.
"""

from typing import Any

from controller.api.llmservice import RouterType
from controller.operator import labels
from controller.operator.manifests import (
    ENGINE_PORT,
    POD_IP,
    ROUTER,
    SECURE,
    Images,
    Owner,
    meta_of,
    pod_env,
    probe,
    spread,
)
from controller.runtimes.router import router_args
from controller.service import Service

ROUTER_PORT = 8000
ROUTER_METRICS_PORT = 29000
_POOL = {"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool"}
_RBAC = "rbac.authorization.k8s.io"


def has_router(service: Service) -> bool:
    """Whether the service has a router of its own."""
    return service.pods.router.type is RouterType.VLLM_ROUTER


def routing_objects(service: Service, owner: Owner, images: Images) -> list[dict[str, Any]]:
    """Make what routes."""
    if not has_router(service):
        return [_inference_pool(service, owner)]
    return router_objects(service, owner, images)


def unwanted_routing(service: Service, owner: Owner) -> list[dict[str, Any]]:
    """Name what routes otherwise, in an order of deletion."""
    if has_router(service):
        meta = meta_of(service, owner, service.name, ROUTER)
        return [{**_POOL, "metadata": meta}]
    return router_objects(service, owner, Images("", ""))[::-1]


def router_objects(service: Service, owner: Owner, images: Images) -> list[dict[str, Any]]:
    """Make the router and what it needs: an account that may watch pods, and a Service."""
    name = router_name(service)
    meta = meta_of(service, owner, name, ROUTER)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": service.namespace}
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    selector = {labels.SERVICE: service.name, labels.ROLE: labels.ROLE_ROUTER}
    port = {"name": "http", "port": 80, "targetPort": "http"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": meta, "rules": [pods]},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
            "subjects": [subject],
        },
        _router_deployment(service, meta, images),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**meta, "name": service.name},
            "spec": {"selector": selector, "ports": [port]},
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": meta,
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
        },
    ]


def router_name(service: Service) -> str:
    """Name of the router's Deployment, account and role."""
    return f"{service.name}-router"


def service_of_router(name: str) -> str:
    """Name of the service that a router's Deployment of this name belongs to."""
    return name.removesuffix("-router")


def endpoint(service: Service) -> str:
    """Address inside the cluster; empty where a Gateway has it."""
    return f"http://{service.name}.{service.namespace}.svc" if has_router(service) else ""


def _inference_pool(service: Service, owner: Owner) -> dict[str, Any]:
    """The replicas that serve, for a Gateway (Gateway API Inference Extension, v1)."""
    picker = service.pods.router.endpoint_picker
    assert picker is not None  # noqa: S101 - the spec's own rule
    serving = {labels.SERVICE: service.name, labels.ROLE: labels.ROLE_SERVING}
    return {
        **_POOL,
        "metadata": meta_of(service, owner, service.name, ROUTER),
        "spec": {
            "selector": {"matchLabels": serving},
            "targetPorts": [{"number": ENGINE_PORT}],
            "endpointPickerRef": {"name": picker.name, "port": {"number": picker.port}},
        },
    }


def _router_command(service: Service) -> list[str]:
    return [
        "python3",
        "-m",
        "vllm_router.launch_router",
        *router_args(POD_IP, ROUTER_PORT, ROUTER_METRICS_PORT, even=not service.fallbacks),
        "--service-discovery",
        "--selector",
        f"{labels.SERVICE}={service.name}",
        f"{labels.ROLE}={labels.ROLE_SERVING}",
        f"--service-discovery-port={ENGINE_PORT}",
        f"--service-discovery-namespace={service.namespace}",
    ]


def _router_deployment(service: Service, meta: dict[str, Any], images: Images) -> dict[str, Any]:
    selector = {labels.SERVICE: service.name, labels.ROLE: labels.ROLE_ROUTER}
    container = {
        "name": "router",
        "image": images.whaleflux,
        "command": _router_command(service),
        "env": pod_env(),
        "ports": [
            {"name": "http", "containerPort": ROUTER_PORT},
            {"name": "metrics", "containerPort": ROUTER_METRICS_PORT},
        ],
        "readinessProbe": probe("/health", period_s=2, failures=3),
        "securityContext": SECURE,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": service.pods.router.replicas,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": {**labels.common(service.name), **selector, **ROUTER}},
                "spec": {
                    "serviceAccountName": router_name(service),
                    "topologySpreadConstraints": [spread(service, ROUTER)],
                    "containers": [container],
                },
            },
        },
    }
