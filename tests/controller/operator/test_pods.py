"""Where a pod stands in a replica's life, read off its JSON."""

from dataclasses import replace
from typing import Any

import pytest

from controller.api.llmservice import EngineType
from controller.kube.client import KubeClient
from controller.observation import Phase, Replica
from controller.operator import labels
from controller.operator.engine_pod import template_hash
from controller.operator.manifests import Images, Owner
from controller.runtimes.kubernetes import KubernetesRuntime, phase_of
from tests.controller.builders import a_service
from tests.controller.operator.some_pods import a_pod, ready

STANDBY = {"labels": {labels.SERVICE: "chat", labels.ROLE: labels.ROLE_STANDBY}}
UNREADY = {"conditions": [ready("False")]}
KILLED = {
    "phase": "Failed",
    "conditions": [ready("False")],
    "containerStatuses": [
        {"name": "engine", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    ],
}
WAITING = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
         "message": "0/3 nodes are available"},
    ],
    "containerStatuses": [],
}  # fmt: skip
PULLING = {
    "phase": "Pending",
    "conditions": [ready("False")],
    "containerStatuses": [
        {"name": "engine", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such"}}}
    ],
}


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({}, Phase.SERVING),
        ({"metadata": STANDBY}, Phase.STANDBY),
        ({"metadata": {"labels": {labels.SERVICE: "chat"}}}, Phase.STANDBY),
        ({"status": UNREADY}, Phase.STARTING),
        ({"status": {"conditions": []}}, Phase.STARTING),
        ({"status": WAITING, "spec": {"nodeName": ""}}, Phase.PENDING),
        ({"status": PULLING}, Phase.STARTING),
        ({"status": KILLED}, Phase.FAILED),
        ({"status": {"phase": "Failed", "reason": "Evicted"}}, Phase.FAILED),
        ({"status": {"phase": "Succeeded"}}, Phase.FAILED),  # an engine never ends by itself
        ({"status": {"containerStatuses": KILLED["containerStatuses"]}}, Phase.FAILED),
        ({"metadata": {"deletionTimestamp": "2026-11-21T01:00:00Z"}}, Phase.DRAINING),
        (
            {"metadata": {"deletionTimestamp": "2026-11-21T01:00:00Z"}, "status": KILLED},
            Phase.DRAINING,
        ),
    ],
)
def test_the_phase_of_a_pod(changes: dict[str, Any], phase: Phase) -> None:
    assert phase_of(a_pod(**changes)) is phase


IMAGES = Images("whaleflux:1", "vllm:1")
WALL_S = 1_795_219_200.0 + 100.0
"""100 s after the pods were created, 2026-11-21T00:00:00Z."""


def a_runtime() -> KubernetesRuntime:
    """On a controller's clock that reads 1,000; no server is asked."""
    client = KubeClient.__new__(KubeClient)
    runtime = KubernetesRuntime(client, IMAGES, lambda: 1000.0, lambda: WALL_S)
    runtime.serve(a_service(), Owner("chat", "uid"))
    return runtime


def seen(**changes: Any) -> Replica:
    runtime = a_runtime()
    runtime.take(("default", "chat-1"), a_pod(**changes))
    (replica,) = runtime.replicas(a_service().id)
    return replica


def test_moments_are_put_on_the_controllers_clock() -> None:
    replica = seen()
    assert replica.created_s == pytest.approx(900.0)
    assert replica.ready_s == pytest.approx(940.0)
    assert seen(status=UNREADY).ready_s is None


def test_a_server_clock_ahead_of_ours_makes_nothing_younger_than_now() -> None:
    assert seen(metadata={"creationTimestamp": "2030-01-01T00:00:00Z"}).created_s == 1000.0


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, ""),
        (KILLED, "engine exited with 137: OOMKilled"),
        (WAITING, "Unschedulable: 0/3 nodes are available"),
        (PULLING, "ErrImagePull: no such"),
        (
            {"phase": "Failed", "message": "The node was low on memory"},
            "The node was low on memory",
        ),
    ],
)
def test_trouble_is_told_in_the_pods_own_words(status: dict[str, Any], said: str) -> None:
    assert seen(status=status).message == said


def test_a_replica_has_an_address_once_its_pod_has() -> None:
    assert seen().url == "http://10.0.0.1:8000"
    assert seen(status={"podIP": ""}).url is None


def test_a_pod_of_another_template_is_stale() -> None:
    current = template_hash(a_service(), IMAGES)
    common = {labels.SERVICE: "chat", labels.ROLE: labels.ROLE_SERVING}
    assert not seen(metadata={"labels": common | {labels.TEMPLATE: current}}).stale
    assert seen(metadata={"labels": common | {labels.TEMPLATE: "older"}}).stale


def test_a_pod_on_a_fallback_is_current_and_says_what_it_is_on() -> None:
    own = a_service(engine=EngineType.VLLM)
    other = replace(own, gpu="H100-SXM", gpu_product="NVIDIA-H100-80GB-HBM3")
    runtime = a_runtime()
    runtime.serve(replace(own, fallbacks=(other,)), Owner("chat", "uid"))
    for name, kind in (("chat-1", own), ("chat-2", other)):
        common = {labels.SERVICE: "chat", labels.TEMPLATE: template_hash(kind, IMAGES)}
        pod = a_pod(metadata={"name": name, "labels": common}, spec={"nodeName": "n7"})
        runtime.take(("default", name), pod)
    shown = [(r.gpu, r.node, r.stale) for r in runtime.replicas(own.id)]
    assert shown == [("L4", "n7", False), ("H100-SXM", "n7", False)]


async def test_a_change_wakes_its_service_and_a_deletion_forgets_the_pod() -> None:
    runtime, service = a_runtime(), a_service().id
    runtime.take(("default", "chat-1"), a_pod())
    await runtime.changed(service)
    runtime.take(("default", "chat-1"), None)
    await runtime.changed(service)
    assert runtime.replicas(service) == ()


def test_services_do_not_see_each_others_pods() -> None:
    runtime = a_runtime()
    runtime.take(("default", "x-1"), a_pod("x-1", metadata={"labels": {labels.SERVICE: "x"}}))
    assert runtime.replicas(a_service().id) == ()
