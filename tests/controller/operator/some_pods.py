"""Pods as the API server tells them."""

from typing import Any

import msgspec

from controller.kube.objects import Pod
from controller.operator import labels


def pod_json(name: str = "chat-1", **changes: Any) -> dict[str, Any]:
    """Ready and serving on a node; `changes` are `metadata`, `spec`, `status` fields."""
    metadata = {
        "name": name,
        "namespace": "default",
        "resourceVersion": "1",
        "creationTimestamp": "2026-11-21T00:00:00Z",
        "labels": {labels.SERVICE: "chat", labels.ROLE: labels.ROLE_SERVING},
    }
    status = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [ready("True")],
        "containerStatuses": [{"name": "engine", "state": {"running": {}}}],
    }
    return {
        "metadata": metadata | changes.get("metadata", {}),
        "spec": {"nodeName": "node-1"} | changes.get("spec", {}),
        "status": status | changes.get("status", {}),
    }


def ready(status: str, at: str = "2026-11-21T00:00:40Z") -> dict[str, str]:
    return {"type": "Ready", "status": status, "lastTransitionTime": at}


def a_pod(name: str = "chat-1", **changes: Any) -> Pod:
    return msgspec.convert(pod_json(name, **changes), Pod)
