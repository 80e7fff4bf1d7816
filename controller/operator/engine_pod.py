"""The Pod of one replica: what runs, on which GPUs, how it starts and ends, where it may stand.

A user's `podTemplate` is laid over it last; what the operator finds its Pods by is set after that.
"""

import hashlib
import json
from typing import Any

from controller.api.llmservice import EngineType
from controller.engine_command import SHUTDOWN_TIMEOUT_S, engine_command
from controller.operator import labels
from controller.operator.manifests import (
    ENGINE,
    ENGINE_PORT,
    POD_IP,
    SECURE,
    Images,
    Owner,
    pod_env,
    probe,
    spread,
)
from controller.operator.merge import merged
from controller.service import Service

_GRACE_S = SHUTDOWN_TIMEOUT_S + 15
_PRE_STOP_S = 2
"""The router learns of a label change within a second."""
_START_UP_BUDGET = 4.0
"""A start may take this many times what starts took, or what the profile predicts, before it
counts as failed."""
_LEAST_BUDGET_S = 120
_LOST_NODE_S = 60
"""Standbys serve as soon as Kubernetes says that a node is lost. What was on it is started
elsewhere after so long: a network that was away for a moment restarts no engine."""
_CLAIM = "gpus"
_RUNS = ("image", "command", "env", "resources", "volumeMounts")
_NEEDS = ("volumes", "resourceClaims", "nodeSelector")


def engine_pod(
    service: Service,
    owner: Owner,
    images: Images,
    avoid: tuple[str, ...] = (),
    start_up_s: float | None = None,
) -> dict[str, Any]:
    """Make a Pod of one replica, born a standby.

    `avoid`: nodes to keep away from if it can. `start_up_s`: as measured; None: not yet.
    """
    expected_s = service.profile.start_up_s if start_up_s is None else start_up_s
    made = _template(service, images, max(int(_START_UP_BUDGET * expected_s), _LEAST_BUDGET_S))
    if avoid:
        made = merged(made, {"spec": {"affinity": _away_from(avoid)}})
    fixed = {
        **labels.common(service.name),
        labels.ROLE: labels.ROLE_STANDBY,
        labels.TEMPLATE: template_hash(service, images),
        **ENGINE,
    }
    meta = made.get("metadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{service.name}-",
            "namespace": service.namespace,
            "labels": {**meta.get("labels", {}), **fixed},
            "annotations": meta.get("annotations", {}),
            "ownerReferences": [owner.reference()],
        },
        "spec": {**made["spec"], "restartPolicy": "Never"},  # replaced, never resumed
    }


def template_hash(service: Service, images: Images) -> str:
    """Short hash of what a replica runs, and on what; a change of it is a rollout.

    Where it may stand, how it is probed and how it ends are left out: an upgrade that changes those
    starts no engine anew.
    """
    spec = _spec(service, images, _LEAST_BUDGET_S)
    (container,) = spec["containers"]
    runs = {key: container.get(key) for key in _RUNS}
    needs = {key: spec.get(key) for key in _NEEDS}
    what = json.dumps([runs, needs, json.loads(service.pods.template)], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:10]


def claim_template(service: Service, owner: Owner) -> dict[str, Any]:
    """The GPUs that each of a service's Pods claims (`resource.k8s.io/v1`)."""
    exactly = {
        "deviceClassName": service.pods.device_class,
        "allocationMode": "ExactCount",
        "count": service.configuration.layout.gpus,
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "name": _claim_name(service),
            "namespace": service.namespace,
            "labels": labels.common(service.name),
            "ownerReferences": [owner.reference()],
        },
        "spec": {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}},
    }


def _claim_name(service: Service) -> str:
    """With the count in it, for a claim template cannot be changed."""
    return f"{service.name}-{service.configuration.layout.gpus}-gpus"


def _template(service: Service, images: Images, budget_s: int) -> dict[str, Any]:
    made = {"metadata": {}, "spec": _spec(service, images, budget_s)}
    template: dict[str, Any] = merged(made, json.loads(service.pods.template))
    return template


def _spec(service: Service, images: Images, budget_s: int) -> dict[str, Any]:
    vllm = service.engine is EngineType.VLLM
    program = engine_command(service, POD_IP, ENGINE_PORT, program=("whaleflux", "emulate"))
    container: dict[str, Any] = {
        "name": "engine",
        "image": service.image or (images.vllm if vllm else images.whaleflux),
        "command": list(program),
        "env": [*pod_env(), *_hub_env(service)],
        "ports": [{"name": "http", "containerPort": ENGINE_PORT}],
        "startupProbe": probe("/health", period_s=1, failures=budget_s),
        "readinessProbe": probe("/health", period_s=2, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": _PRE_STOP_S}}},
        "securityContext": {"allowPrivilegeEscalation": False} if vllm else SECURE,
    }
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": _GRACE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "topologySpreadConstraints": [spread(service, ENGINE)],
        "affinity": _zones_apart(service),
        "tolerations": [_leaves_soon(taint) for taint in ("not-ready", "unreachable")],
        "containers": [container],
    }
    if vllm:
        _claim_gpus(service, container, spec)
    cache = service.pods.cache
    if cache is not None:
        claim = {"claimName": cache.claim_name}
        spec["volumes"] = [{"name": "model-cache", "persistentVolumeClaim": claim}]
        container["volumeMounts"] = [{"name": "model-cache", "mountPath": cache.path}]
    return spec


def _claim_gpus(service: Service, container: dict[str, Any], spec: dict[str, Any]) -> None:
    """By a claim of a device class, or by the device plugin's resource and the node's label."""
    if service.pods.device_class:
        claim = {"name": _CLAIM, "resourceClaimTemplateName": _claim_name(service)}
        spec["resourceClaims"] = [claim]
        container["resources"] = {"claims": [{"name": _CLAIM}]}
        return
    gpus = str(service.configuration.layout.gpus)
    container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    spec["nodeSelector"] = {"nvidia.com/gpu.product": service.gpu_product}


def _leaves_soon(taint: str) -> dict[str, Any]:
    """Give a lost node up after a minute, not after Kubernetes' five."""
    return {
        "key": f"node.kubernetes.io/{taint}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": _LOST_NODE_S,
    }


def _hub_env(service: Service) -> list[dict[str, Any]]:
    env: list[dict[str, Any]] = []
    cache, secret = service.pods.cache, service.pods.token_secret
    if cache is not None:
        env.append({"name": "HF_HOME", "value": cache.path})
    if secret is not None:
        reference = {"secretKeyRef": {"name": secret.name, "key": secret.key}}
        env.append({"name": "HF_TOKEN", "valueFrom": reference})
    return env


def _zones_apart(service: Service) -> dict[str, Any]:
    """Zones by affinity: spread constraints ignore nodes that lack one of several keys."""
    same = {"matchLabels": {labels.SERVICE: service.name, **ENGINE}}
    term = {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": same}
    preferred = {"weight": 50, "podAffinityTerm": term}
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}


def _away_from(nodes: tuple[str, ...]) -> dict[str, Any]:
    """Prefer any other node: what made a replica slow there would slow the next one down."""
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    preferred = {"weight": 100, "preference": {"matchFields": others}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}
