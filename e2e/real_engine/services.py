"""The example service on a real vLLM, and what tests ask of the plane that runs it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from controller.api import Manifests, read_manifests
from e2e.real_engine.install import PYTHON, REPOSITORY
from profiler.measure import Target

if TYPE_CHECKING:
    from controller.loop import ServiceLoop
    from controller.observation import Phase, Replica
    from controller.plane import LocalPlane

EXAMPLE = REPOSITORY / "examples" / "vllm-cpu"
MODEL = REPOSITORY / "build" / "models" / "queueing"
_TINY_MODEL = Path(__file__).with_name("tiny_model.py")


def make_model() -> None:
    """Write the example's model where its manifest looks for it, once."""
    if not (MODEL / "config.json").exists():
        command = [str(PYTHON), str(_TINY_MODEL), str(MODEL), "--size=queueing"]
        subprocess.run(command, check=True, capture_output=True)


def example(model: Path | None = None) -> Manifests:
    """The example; with another model if given."""
    manifests = read_manifests([EXAMPLE])
    if model is None:
        return manifests
    (service,) = manifests.services
    served = service.spec.model.model_copy(update={"uri": str(model)})
    spec = service.spec.model_copy(update={"model": served})
    return replace(manifests, services=(service.model_copy(update={"spec": spec}),))


def only_loop(plane: LocalPlane) -> ServiceLoop:
    """The loop of the plane's one service."""
    (loop,) = plane.loops
    return loop


def replicas(plane: LocalPlane, *phases: Phase) -> list[Replica]:
    """Its replicas in any of the phases, oldest first."""
    found = plane.runtime.replicas(only_loop(plane).service.id)
    return sorted((r for r in found if r.phase in phases), key=lambda r: r.created_s)


def target(plane: LocalPlane, seed: int) -> Target:
    """The router, with prompts of this seed that no cache has seen."""
    service = only_loop(plane).service
    url = plane.runtime.endpoint(service.id)
    assert url is not None
    return Target(url, service.served_name, seed=seed)


def running_on(plane: LocalPlane, replica: Replica) -> tuple[float, float]:
    """Requests that a replica ran and queued at the last scrape."""
    (view,) = plane.views()
    (seen,) = [r for r in view.replicas if r.id == replica.id]
    return seen.running or 0.0, seen.waiting or 0.0
