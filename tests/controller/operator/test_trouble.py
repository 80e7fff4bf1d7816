"""Kubernetes' complaints, as they really read, made into reasons and mends."""

import pytest

from controller.operator.trouble import diagnose


@pytest.mark.parametrize(
    ("said", "reason", "mend"),
    [
        (
            "Unschedulable: 0/2 nodes are available: 2 node(s) didn't match Pod's node "
            "affinity/selector. preemption: 0/2 nodes are available",
            "NoSuchNode", "spec.placement.gpu",
        ),
        (
            "Unschedulable: 0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) "
            "didn't match Pod's node affinity/selector.",
            "NoRoom", "add nodes",
        ),
        (
            'Unschedulable: 0/1 nodes are available: persistentvolumeclaim "weights" not found.',
            "VolumeNotBound", "spec.model.cache.claimName",
        ),
        (
            "Unschedulable: 0/1 nodes are available: pod has unbound immediate "
            "PersistentVolumeClaims.",
            "VolumeNotBound", "spec.model.cache.claimName",
        ),
        ("ImagePullBackOff: Back-off pulling image", "ImagePullFailed", "spec.engine.image"),
        (
            'CreateContainerConfigError: secret "hub" not found', "ConfigMissing",
            "spec.model.tokenSecret",
        ),
        (
            'kubernetes: POST /api/v1/namespaces/a/pods: HTTP 403: pods "chat-" is forbidden: '
            "exceeded quota: gpus, requested: pods=1, used: pods=2, limited: pods=2",
            "QuotaExceeded", "ResourceQuota",
        ),
        (
            'kubernetes: POST /api/v1/namespaces/a/pods: HTTP 422: Pod "chat-x" is invalid: '
            "spec.containers[0].name: Required value",
            "InvalidPod", "spec.engine.podTemplate",
        ),
        ("engine exited with 137: OOMKilled", "OutOfMemory", "spec.engine.podTemplate"),
        ("engine exited with 1: no CUDA", "ReplicasFailing", "no CUDA"),
    ],
)  # fmt: skip
def test_a_complaint_becomes_a_reason_and_a_mend(said: str, reason: str, mend: str) -> None:
    found = diagnose(said)
    assert found is not None
    assert (found.reason, mend in found.message) == (reason, True)
    assert said in found.message


def test_nothing_said_is_no_trouble() -> None:
    assert diagnose("") is None
