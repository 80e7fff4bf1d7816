"""What a node says it has: its Node object, its status, and who holds which GPU.

Called by `node`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .build import KUBERNETES
from .container import now
from .kubelet import PORT

__all__ = ["GpuPool", "Room", "node", "now", "status"]

Json = dict[str, Any]
GPU = "nvidia.com/gpu"
PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(frozen=True, slots=True)
class Room:
    """A node's capacity, labels and taints."""

    cpus: int
    memory: str
    pods: int
    gpus: int
    gpu_product: str | None
    labels: dict[str, str]
    taints: tuple[Json, ...]

    def capacity(self) -> dict[str, str]:
        """Capacity in Kubernetes' quantities."""
        found = {"cpu": str(self.cpus), "memory": self.memory, "pods": str(self.pods)}
        return found | ({GPU: str(self.gpus)} if self.gpus else {})


def node(name: str, room: Room) -> Json:
    """The Node object as a kubelet and the GPU feature discovery would make it."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }
    if room.gpus:
        labels |= {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.count": str(room.gpus)}
    if room.gpu_product:
        labels["nvidia.com/gpu.product"] = room.gpu_product
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels | room.labels},
        "spec": {"taints": list(room.taints)},
    }


def status(name: str, room: Room, address: str, since: str) -> Json:
    """The Node's status: capacity, address, and that it is well at this moment."""
    good = [("Ready", "True", "KubeletReady")]
    good += [(kind, "False", f"KubeletHasNo{kind}") for kind in PRESSURES]
    beat = now()
    return {
        "capacity": room.capacity(),
        "allocatable": room.capacity(),
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
        ],
        "conditions": [
            {
                "type": kind,
                "status": said,
                "reason": reason,
                "message": "",
                "lastHeartbeatTime": beat,
                "lastTransitionTime": since,
            }
            for kind, said, reason in good
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
        "nodeInfo": {"kubeletVersion": KUBERNETES, "osImage": "e2e", "operatingSystem": "linux"},
    }


class GpuPool:
    """Gives each container GPU indices of its own, as a device plugin does."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._held: dict[str, list[int]] = {}

    def take(self, pod: Json) -> dict[str, str]:
        """Indices for each container that asks, `0,1`-style, by container name."""
        held = self._held.setdefault(pod["metadata"]["uid"], [])
        given: dict[str, str] = {}
        for each in pod["spec"]["containers"]:
            wanted = int(each.get("resources", {}).get("limits", {}).get(GPU, 0))
            mine, self._free = self._free[:wanted], self._free[wanted:]
            held += mine
            if mine:
                given[each["name"]] = ",".join(str(index) for index in mine)
        return given

    def give_back(self, uid: str) -> None:
        """Free what a pod held."""
        self._free = sorted([*self._free, *self._held.pop(uid, [])])
