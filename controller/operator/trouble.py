"""What keeps replicas from running, in Kubernetes' own words, made into a reason and a mend."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why replicas do not run."""

    reason: str
    """CamelCase, append-only."""
    message: str
    """What Kubernetes says, and what mends it."""


_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"(?i)persistentvolumeclaim|volume node affinity|FailedMount",
        "VolumeNotBound",
        "spec.model.cache.claimName: make the claim in this namespace, or mend its volume",
    ),
    (
        r"ResourceClaim|resourceclaim|DeviceClass|cannot allocate all claims",
        "DevicesNotAllocated",
        "spec.placement.deviceClass: no node has such devices to spare",
    ),
    (
        r"Unschedulable(?!.*Insufficient).*didn't match Pod's node affinity",
        "NoSuchNode",
        "spec.placement.gpu: no node has this GPU type (label nvidia.com/gpu.product)",
    ),
    (
        r"Unschedulable",
        "NoRoom",
        "add nodes of this GPU type, free GPUs, or offer other types in spec.placement.gpus",
    ),
    (
        r"ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull",
        "ImagePullFailed",
        "spec.engine.image: check its name and the pull secret",
    ),
    (
        r"CreateContainerConfigError",
        "ConfigMissing",
        "spec.model.tokenSecret: make the Secret and its key in this namespace",
    ),
    (
        r"exceeded quota",
        "QuotaExceeded",
        "raise the namespace's ResourceQuota, or lower scaling.max or replicas",
    ),
    (
        r"violates PodSecurity",
        "PodSecurityRefused",
        "set what is missing in spec.engine.podTemplate, or relax the namespace's level",
    ),
    (
        r"OOMKilled|exited with 137",
        "OutOfMemory",
        "raise the memory in spec.engine.podTemplate",
    ),
    (
        r"HTTP 4(00|22).*[Pp]od",
        "InvalidPod",
        "spec.engine.podTemplate: correct what the message names",
    ),
    (r"HTTP 403", "Forbidden", "give the operator's ServiceAccount the right"),
)
"""Pattern, reason, mend; the first that matches."""


def diagnose(said: str) -> Trouble | None:
    """Read a complaint; None without any."""
    if not said:
        return None
    for pattern, reason, mend in _KNOWN:
        if re.search(pattern, said):
            return Trouble(reason, f"{said}: {mend}")
    return Trouble("ReplicasFailing", said)
