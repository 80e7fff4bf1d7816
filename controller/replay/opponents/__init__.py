"""Every peer's scaling policy, re-implemented from its own rules, behind one protocol.

The face of the room. Each is pure, bounded by what the service allows, and on equal terms: the
same scrapes, the same cold start, no standby for anybody. `ALL` are factories with the peer's
defaults; `factory.grid()` gives settings to tune over, `factory(settings)` a policy with them.
"""

from typing import Any, Protocol

from controller.replay.opponents.aibrix import AibrixApa, AibrixKpa, AibrixSettings
from controller.replay.opponents.dynamo import DynamoLoad, DynamoSettings, DynamoThroughput
from controller.replay.opponents.enova import Enova, EnovaSettings
from controller.replay.opponents.hpa import Hpa, HpaSettings
from controller.replay.opponents.knative import KnativeKpa, KnativeSettings
from controller.replay.opponents.kubeai import KubeAi, KubeAiSettings
from controller.replay.opponents.ray_serve import (
    RayServe,
    RayServeLlm,
    RayServeLlmSettings,
    RayServeSettings,
)
from controller.replay.opponents.slo_aware import SloAware, SloAwareSettings
from controller.replay.opponents.wva_v1 import WvaV1, WvaV1Settings
from controller.replay.opponents.wva_v2 import WvaV2, WvaV2Settings
from controller.replay.policy import Policy

__all__ = [
    "ALL",
    "AibrixApa",
    "AibrixKpa",
    "AibrixSettings",
    "DynamoLoad",
    "DynamoSettings",
    "DynamoThroughput",
    "Enova",
    "EnovaSettings",
    "Factory",
    "Hpa",
    "HpaSettings",
    "KnativeKpa",
    "KnativeSettings",
    "KubeAi",
    "KubeAiSettings",
    "RayServe",
    "RayServeLlm",
    "RayServeLlmSettings",
    "RayServeSettings",
    "SloAware",
    "SloAwareSettings",
    "WvaV1",
    "WvaV1Settings",
    "WvaV2",
    "WvaV2Settings",
]


class Factory(Protocol):
    """A peer's class: called without settings it has the peer's defaults."""

    def __call__(self, settings: Any = ..., /) -> Policy:
        """Give the policy with these settings."""

    def grid(self) -> tuple[Any, ...]:
        """Settings to tune over, best per trace."""


ALL: tuple[Factory, ...] = (
    Hpa,
    KnativeKpa,
    AibrixKpa,
    AibrixApa,
    WvaV1,
    WvaV2,
    SloAware,
    DynamoThroughput,
    DynamoLoad,
    RayServe,
    RayServeLlm,
    KubeAi,
    Enova,
)
