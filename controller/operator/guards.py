"""What keeps a service's Pods from harm: disruption budgets, and optional network policies."""

from collections.abc import Iterable
from typing import Any

from controller.operator import labels
from controller.operator.manifests import ENGINE, ENGINE_PORT, ROUTER, Owner, meta_of
from controller.operator.routing import ROUTER_METRICS_PORT, ROUTER_PORT
from controller.service import Service


def disruption_budget(service: Service, owner: Owner, serving: int) -> dict[str, Any]:
    """Let one serving replica be evicted at a time; the last one, too, or nodes never drain.

    By a count, for replicas have no controller that Kubernetes could ask how many there should be.
    """
    role = {labels.SERVICE: service.name, labels.ROLE: labels.ROLE_SERVING}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta_of(service, owner, service.name, ENGINE),
        "spec": {"minAvailable": max(serving - 1, 0), "selector": {"matchLabels": role}},
    }


def network_policies(
    service: Service, owner: Owner, namespaces: Iterable[str]
) -> list[dict[str, Any]]:
    """Let the service's router and some namespaces reach its engines, and anybody its router.

    `namespaces`: the operator's own and the monitoring's, which read metrics.
    """
    of_service = {labels.SERVICE: service.name}
    watchers = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
        for name in namespaces
    ]
    own_router = {"podSelector": {"matchLabels": {**of_service, **ROUTER}}}
    return [
        _policy(
            service, owner, "engines", ENGINE,
            [{"from": [own_router, *watchers], "ports": [{"port": ENGINE_PORT}]}],
        ),
        _policy(
            service, owner, "router", ROUTER,
            [
                {"ports": [{"port": ROUTER_PORT}]},
                {"from": watchers, "ports": [{"port": ROUTER_METRICS_PORT}]},
            ],
        ),
    ]  # fmt: skip


def _policy(
    service: Service,
    owner: Owner,
    name: str,
    component: dict[str, str],
    ingress: list[dict[str, Any]],
) -> dict[str, Any]:
    selected = {labels.SERVICE: service.name, **component}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta_of(service, owner, f"{service.name}-{name}", component),
        "spec": {
            "podSelector": {"matchLabels": selected},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }
