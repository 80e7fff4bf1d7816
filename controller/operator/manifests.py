"""What the objects of an LLMService have in common: owner, images, ports, probes, security.

Everything is owned by the LLMService, so that deleting it leaves nothing behind. Processes
listen on the pod's own address: nothing is reachable that the pod network does not carry.
"""

from dataclasses import dataclass
from typing import Any

from controller.api import GROUP, VERSION
from controller.operator import labels
from controller.service import Service

ENGINE_PORT = 8000
POD_IP = "$(POD_IP)"

ENGINE = {"app.kubernetes.io/component": "engine"}
ROUTER = {"app.kubernetes.io/component": "router"}
SECURE = {
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


def meta_of(service: Service, owner: Owner, name: str, component: dict[str, str]) -> dict[str, Any]:
    """Metadata of an object that a service owns."""
    return {
        "name": name,
        "namespace": service.namespace,
        "labels": {**labels.common(service.name), **component},
        "ownerReferences": [owner.reference()],
    }


def spread(service: Service, component: dict[str, str]) -> dict[str, Any]:
    """Pods apart where there is room: one node lost must not be the whole service."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {labels.SERVICE: service.name, **component}},
    }


def pod_env() -> list[dict[str, Any]]:
    """Environment of every Pod."""
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NUMBA_CACHE_DIR", "value": "/tmp/numba"},  # noqa: S108 - the pod's own
    ]


def probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    """Ask a Pod's HTTP port."""
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "failureThreshold": failures,
        "timeoutSeconds": 2,
    }
