"""Where an object lives in the API."""

from collections.abc import Mapping
from typing import Any

_PLURALS = {
    "Deployment": "deployments",
    "Event": "events",
    "InferencePool": "inferencepools",
    "NetworkPolicy": "networkpolicies",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "ResourceClaimTemplate": "resourceclaimtemplates",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}


def path_of(thing: Mapping[str, Any], *, collection: bool = False) -> str:
    """Path of an object, or of the collection it is created in."""
    version, meta = thing["apiVersion"], thing["metadata"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    path = f"{root}/namespaces/{meta['namespace']}/{_PLURALS[thing['kind']]}"
    return path if collection else f"{path}/{meta['name']}"
