"""A pod's phase and conditions, from what its containers say.

Called by `pod` for each status it writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .container import Container, now

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]


def phase(pod: Json, inits: Sequence[Container], mains: Sequence[Container]) -> str:
    """Pending, Running, Succeeded or Failed."""
    if any(each.over and each.exit_code != 0 for each in inits if each.policy != "Always"):
        return "Failed"
    if not mains or not initialized(inits):
        return "Pending"
    if all(each.over for each in mains):
        return "Succeeded" if all(each.exit_code == 0 for each in mains) else "Failed"
    begun = any("waiting" not in each.state or each.last_state for each in mains)
    return "Running" if begun else "Pending"


def initialized(inits: Sequence[Container]) -> bool:
    """Whether all init containers are through, sidecars at least started."""
    return all(
        each.has_started.is_set() if each.policy == "Always" else each.exit_code == 0
        for each in inits
    )


def agree(pod: Json, sent: Json) -> bool:
    """Whether the pod's object says of readiness what was sent last."""
    said = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
    ours = {each["type"]: each["status"] for each in sent.get("conditions", ())}
    return all(said.get(kind) == ours.get(kind) for kind in ("Ready", "ContainersReady"))


class Conditions:
    """Remembers since when each condition has been as it is."""

    def __init__(self) -> None:
        self._last: dict[str, Json] = {}

    def of(self, pod: Json, inits: Sequence[Container], mains: Sequence[Container]) -> list[Json]:
        """All conditions that the node answers for."""
        made = bool(mains)
        ended = phase(pod, inits, mains) in ("Succeeded", "Failed")
        idle = _unready(pod, inits, mains)
        gates = _closed_gates(pod)
        why = {"reason": "PodCompleted"} if ended else idle
        self._put("PodReadyToStartContainers", made and not ended, {})
        self._put(
            "Initialized", made and initialized(inits), {"reason": "ContainersNotInitialized"}
        )
        self._put("ContainersReady", not ended and not idle, why)
        self._put("Ready", not ended and not idle and not gates, why or gates)
        self._put("PodScheduled", True, {})
        return list(self._last.values())

    def _put(self, kind: str, holds: bool, why_not: Json) -> None:
        fresh = {"type": kind, "status": str(holds), "reason": None, "message": None}
        if not holds:
            fresh |= why_not
        old = self._last.get(kind)
        same = old is not None and old["status"] == fresh["status"]
        fresh["lastTransitionTime"] = old["lastTransitionTime"] if old and same else now()
        self._last[kind] = fresh


def _unready(pod: Json, inits: Sequence[Container], mains: Sequence[Container]) -> Json:
    """Why containers are not ready; empty when they are."""
    counted = [*(each for each in inits if each.policy == "Always"), *mains]
    names = [each.name for each in counted if not each.ready]
    if not mains:
        names = [each["name"] for each in pod["spec"]["containers"]]
    if not names:
        return {}
    listed = " ".join(names)
    message = f"containers with unready status: [{listed}]"
    return {"reason": "ContainersNotReady", "message": message}


def _closed_gates(pod: Json) -> Json:
    """Why readiness gates keep the pod from being Ready; empty when they do not."""
    given = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
    asked = [each["conditionType"] for each in pod["spec"].get("readinessGates") or ()]
    closed = [kind for kind in asked if given.get(kind) != "True"]
    if not closed:
        return {}
    message = f"readiness gates that are not true: {' '.join(closed)}"
    return {"reason": "ReadinessGatesNotReady", "message": message}
