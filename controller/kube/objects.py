"""Reduced objects: structs that declare only the fields somebody reads."""

from datetime import datetime

import msgspec


class OwnerReference(msgspec.Struct, frozen=True, gc=False):
    """Who owns an object."""

    uid: str = ""
    controller: bool = False


class Meta(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """Metadata."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    owner_references: list[OwnerReference] = []

    @property
    def owned(self) -> bool:
        """Whether something controls it."""
        return self.controller is not None

    @property
    def controller(self) -> str | None:
        """Uid of what controls it."""
        return next((owner.uid for owner in self.owner_references if owner.controller), None)


class PodCondition(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """A condition of a pod."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class Terminated(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """How a container ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """Why a container does not run."""

    reason: str = ""
    message: str = ""


class ContainerState(msgspec.Struct, frozen=True, gc=False):
    """What a container does."""

    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, gc=False):
    """A container of a pod."""

    name: str = ""
    state: ContainerState = ContainerState()


class PodSpec(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """Where a pod runs."""

    node_name: str = ""


class PodStatus(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """How a pod is."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: list[PodCondition] = []
    container_statuses: list[ContainerStatus] = []


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A pod as the controller reads it."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def condition(self, kind: str) -> PodCondition | None:
        """Find one condition by type."""
        return next((c for c in self.status.conditions if c.type == kind), None)


class Bare(msgspec.Struct, frozen=True, gc=False):
    """An object of which nobody reads more than that it is there."""

    metadata: Meta


class Custom(msgspec.Struct, frozen=True, gc=False):
    """A custom object: spec and status as they came, validated elsewhere."""

    metadata: Meta
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    status: msgspec.Raw = msgspec.Raw(b"{}")
