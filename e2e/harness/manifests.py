"""Short manifests for tests: a container, a pod, a deployment.

A container serves HTTP on its pod's address unless the test says otherwise.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

POD_IP: Json = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
SERVE = ["python", "-m", "http.server", "8000", "--bind", "$(POD_IP)"]


def container(**changes: Any) -> Json:
    """A container named `main`; `changes` replace fields of its spec."""
    plain = {"name": "main", "image": "none", "command": SERVE, "env": [POD_IP]}
    return plain | changes


def shell(script: str, **changes: Any) -> Json:
    """A container that runs a shell script."""
    return container(command=["sh", "-c", script], **changes)


def pod(name: str, *containers: Json, **changes: Any) -> Json:
    """A pod with the label `app: <name>`; `changes` replace fields of its spec."""
    spec: Json = {"containers": list(containers), "terminationGracePeriodSeconds": 5}
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec | changes}


def deployment(name: str, replicas: int, template: Json) -> Json:
    """A deployment of pods with the spec of `template`."""
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": template["spec"]},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def ready(document: Json) -> bool:
    """Whether an object of the API says that it is Ready."""
    conditions = document.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
