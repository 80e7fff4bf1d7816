"""The loop on a real Kubernetes API: applied, ready, loaded, scaled, failed over, deleted.

The operator comes from the Helm chart and acts under the chart's own ServiceAccount.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from controller.clock import monotonic_s
from e2e.harness.cluster import CommandFailed
from e2e.harness.wait import eventually
from profiler.measure import Status, Target, open_session, replay
from profiler.trace import Lengths, poisson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.harness.cluster import Cluster
    from e2e.harness.node import Node
    from profiler.measure import Outcome

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy/helm/whaleflux"
EXAMPLE = ROOT / "examples/kubernetes/llmservice.yaml"
ROLE = "serving.whaleflux.io/role"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def operator(cluster: Cluster, node: Node) -> Iterator[str]:
    """The chart, installed; its namespace."""
    cluster.helm(
        "install", "wf", str(CHART), "-n", "whaleflux-system", "--create-namespace",
        "--wait=legacy", "--timeout=120s",
    )  # fmt: skip
    yield "whaleflux-system"
    cluster.helm("uninstall", "wf", "-n", "whaleflux-system", "--wait")


def service(cluster: Cluster, namespace: str, name: str = "chat") -> Json:
    text = cluster.kubectl("get", "llms", name, "-n", namespace, "-o", "json")
    found: Json = json.loads(text)
    return found


def condition(item: Json, kind: str) -> Json:
    conditions = item.get("status", {}).get("conditions", [])
    found: Json = next((c for c in conditions if c["type"] == kind), {})
    return found


def pods(cluster: Cluster, namespace: str, role: str) -> list[str]:
    """Ready pods of a role that are not being deleted."""
    found = []
    for pod in cluster.items("pods", namespace, f"{ROLE}={role}"):
        ready = any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in pod.get("status", {}).get("conditions", [])
        )
        if ready and "deletionTimestamp" not in pod["metadata"]:
            found.append(pod["metadata"]["name"])
    return found


def router_url(cluster: Cluster, namespace: str) -> str:
    """Of the first of the routers, once all are ready."""
    eventually(lambda: len(pods(cluster, namespace, "router")) == 2, 60, "two routers")
    ready = pods(cluster, namespace, "router")
    pod = json.loads(cluster.kubectl("get", "pod", ready[0], "-n", namespace, "-o", "json"))
    return f"http://{pod['status']['podIP']}:8000"


def send(url: str, rate_rps: float, duration_s: float, stream: bool = False) -> tuple[Outcome, ...]:
    """Open-loop traffic of the example's shape."""

    async def run() -> tuple[Outcome, ...]:
        trace = poisson(rate_rps, duration_s, Lengths.fixed(256, 64), np.random.default_rng(1))
        target = Target(url, "llama-3.1-8b", stream=stream, timeout_s=60)
        async with open_session(None) as session:
            return await replay(session, target, trace, monotonic_s)

    return asyncio.run(run())


def apply_example(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))


def test_a_service_is_served_scaled_protected_and_deleted(
    cluster: Cluster, node: Node, operator: str, namespace: str
) -> None:
    apply_example(cluster, namespace)
    cluster.kubectl("wait", "-n", namespace, "llms/chat", "--for=condition=Ready", "--timeout=90s")
    url = router_url(cluster, namespace)
    eventually(lambda: pods(cluster, namespace, "standby"), 60, "a warm standby")
    first = send(url, rate_rps=2, duration_s=2)
    assert {outcome.status for outcome in first} == {Status.OK}
    item = service(cluster, namespace)
    assert item["status"]["observedGeneration"] == item["metadata"]["generation"]
    assert item["status"]["replicas"] >= 1
    assert item["status"]["selector"] == f"serving.whaleflux.io/service=chat,{ROLE}=serving"

    loop = asyncio.new_event_loop()
    try:
        outcomes = loop.run_until_complete(_load_kill_and_watch(cluster, node, namespace, url))
    finally:
        loop.close()
    bad = [outcome for outcome in outcomes if outcome.status is not Status.OK]
    assert not bad, f"{len(bad)} of {len(outcomes)} requests failed: {bad[:3]}"

    eventually(
        lambda: len(pods(cluster, namespace, "serving")) == 1, 240, "scale-in after the load"
    )
    reasons = {
        event["reason"]
        for event in cluster.items("events.events.k8s.io", namespace)
        if event["regarding"]["kind"] == "LLMService"
    }
    assert reasons & {"DemandRising", "Backlog"}
    assert reasons & {"StandbyAdmitted", "ReplicaFailed"}
    cluster.kubectl("delete", "-n", namespace, "llms/chat", "--timeout=60s")
    for kind in ("pods", "deployments", "services", "roles", "rolebindings"):
        eventually(partial(_none, cluster, kind, namespace), 90, f"no {kind} left behind")
    eventually(lambda: not node.process_groups(namespace), 30, "no process left behind")


def patch(cluster: Cluster, namespace: str, **scaling: Any) -> None:
    spec = json.dumps({"spec": {"scaling": scaling, "resilience": {"standbys": 0}}})
    cluster.kubectl("patch", "llms", "chat", "-n", namespace, "--type=merge", "-p", spec)


def test_an_idle_service_sleeps_and_the_request_that_wakes_it_is_answered(
    cluster: Cluster, node: Node, operator: str, namespace: str
) -> None:
    apply_example(cluster, namespace)
    patch(cluster, namespace, zeroAfterSeconds=60)
    cluster.kubectl("wait", "-n", namespace, "llms/chat", "--for=condition=Ready", "--timeout=90s")
    url = router_url(cluster, namespace)
    assert {o.status for o in send(url, rate_rps=2, duration_s=2)} == {Status.OK}
    eventually(lambda: not pods(cluster, namespace, "serving"), 150, "nobody serves")
    asleep = service(cluster, namespace)["status"]
    assert (asleep["desiredReplicas"], asleep["lastDecision"]["reason"]) == (0, "Idle")
    assert {o.status for o in send(url, rate_rps=4, duration_s=1)} == {Status.OK}
    eventually(lambda: len(pods(cluster, namespace, "serving")) == 1, 30, "somebody serves again")


def test_advice_is_published_and_nothing_is_scaled(
    cluster: Cluster, node: Node, operator: str, namespace: str
) -> None:
    apply_example(cluster, namespace)
    patch(cluster, namespace, mode="Advise", min=1, max=4)
    cluster.kubectl("wait", "-n", namespace, "llms/chat", "--for=condition=Ready", "--timeout=90s")
    url = router_url(cluster, namespace)
    send(url, rate_rps=16, duration_s=12)
    advised = eventually(
        lambda: (
            service(cluster, namespace)["status"].get("advisedReplicas", 0) > 1
            and service(cluster, namespace)["status"]
        ),
        30, "more than one is advised",
    )  # fmt: skip
    assert advised["desiredReplicas"] == 1
    assert len(pods(cluster, namespace, "serving")) == 1


def _none(cluster: Cluster, kind: str, namespace: str) -> bool:
    return not cluster.items(kind, namespace)


async def _load_kill_and_watch(
    cluster: Cluster, node: Node, namespace: str, url: str
) -> list[Outcome]:
    """Raise the load, wait for more replicas, kill one, wait for the standby in its place."""
    stop = asyncio.Event()
    outcomes: list[Outcome] = []

    async def traffic() -> None:
        while not stop.is_set():
            outcomes.extend(await asyncio.to_thread(send, url, 16.0, 4.0))

    async def story() -> None:
        def until(*what: Any) -> Any:
            return asyncio.to_thread(eventually, *what)

        await until(lambda: len(pods(cluster, namespace, "serving")) >= 2, 90, "scale-out")
        await until(lambda: pods(cluster, namespace, "standby"), 60, "a standby again")
        standbys = set(pods(cluster, namespace, "standby"))
        victim = pods(cluster, namespace, "serving")[0]
        node.kill(namespace, victim)
        await until(
            lambda: standbys & set(pods(cluster, namespace, "serving")), 20, "the standby admitted"
        )
        await until(
            lambda: victim not in pods(cluster, namespace, "serving"), 20, "the dead one gone"
        )

    async with asyncio.TaskGroup() as group:
        load = group.create_task(traffic())
        try:
            await story()
        finally:
            stop.set()
        await load
    return outcomes


def fixed() -> Json:
    """The example with one replica, whoever changes that."""
    manifest: Json = yaml.safe_load(EXAMPLE.read_text())
    del manifest["spec"]["scaling"]
    manifest["spec"]["resilience"]["standbys"] = 0
    manifest["spec"]["replicas"] = 1
    return manifest


def test_kubectl_scale_sets_the_replicas_of_a_service_without_scaling(
    cluster: Cluster, operator: str, namespace: str
) -> None:
    cluster.apply(namespace, fixed())
    eventually(lambda: len(pods(cluster, namespace, "serving")) == 1, 60, "one replica")
    cluster.kubectl("scale", "-n", namespace, "llms/chat", "--replicas=2")
    eventually(lambda: len(pods(cluster, namespace, "serving")) == 2, 60, "two replicas")
    eventually(lambda: service(cluster, namespace)["status"]["replicas"] == 2, 20, "status follows")
    cluster.kubectl("scale", "-n", namespace, "llms/chat", "--replicas=0")
    eventually(lambda: not cluster.items("pods", namespace, f"{ROLE}=serving"), 60, "none")


def test_a_horizontal_pod_autoscaler_reads_its_scale_and_sets_it(
    cluster: Cluster, operator: str, namespace: str
) -> None:
    cluster.apply(namespace, fixed())
    eventually(lambda: len(pods(cluster, namespace, "serving")) == 1, 60, "one replica")
    target = {"apiVersion": "serving.whaleflux.io/v1alpha1", "kind": "LLMService", "name": "chat"}
    usage = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "chat"},
        "spec": {
            "scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": usage}],
        },
    }  # fmt: skip
    cluster.apply(namespace, autoscaler)
    eventually(lambda: len(pods(cluster, namespace, "serving")) == 2, 90, "its minimum")
    told = json.loads(cluster.kubectl("get", "hpa", "chat", "-n", namespace, "-o", "json"))
    assert condition(told, "AbleToScale")["status"] == "True"
    path = f"/apis/serving.whaleflux.io/v1alpha1/namespaces/{namespace}/llmservices/chat/scale"
    selector = json.loads(cluster.kubectl("get", "--raw", path))["status"]["selector"]
    found = {pod["metadata"]["name"] for pod in cluster.items("pods", namespace, selector)}
    assert found == set(pods(cluster, namespace, "serving"))
    cluster.kubectl("delete", "hpa", "chat", "-n", namespace)


def test_who_applies_the_manifest_again_finds_nothing_changed(
    cluster: Cluster, operator: str, namespace: str
) -> None:
    manifest = yaml.safe_load(EXAMPLE.read_text())
    ours = ("--server-side", "--field-manager=gitops", "-n", namespace, "-f", "-")
    cluster.kubectl("apply", *ours, input=yaml.safe_dump(manifest))
    eventually(lambda: len(pods(cluster, namespace, "serving")) == 1, 60, "it serves")
    wait = ("wait", "-n", namespace, "llms/chat", "--for=condition=Ready", "--timeout=60s")
    cluster.kubectl(*wait)
    assert not cluster.kubectl("diff", *ours, input=yaml.safe_dump(manifest))
    shown = ("get", "llms", "chat", "-n", namespace, "-o", "json", "--show-managed-fields")
    managers = json.loads(cluster.kubectl(*shown))["metadata"]["managedFields"]
    others = [each for each in managers if each["manager"] != "gitops"]
    assert others
    assert all(set(each["fieldsV1"]) == {"f:status"} for each in others)


def test_an_impossible_spec_becomes_a_condition_and_what_ran_keeps_running(
    cluster: Cluster, operator: str, namespace: str
) -> None:
    apply_example(cluster, namespace)
    eventually(lambda: len(pods(cluster, namespace, "serving")) == 1, 60, "one replica")
    before = pods(cluster, namespace, "serving")
    spec = {"model": {"uri": "meta-llama/Llama-3.3-70B-Instruct"}}
    sizes = {"tensorParallelSize": 1, "pipelineParallelSize": 1}
    patch = {"spec": {**spec, "engine": sizes}}
    cluster.kubectl("patch", "-n", namespace, "llms/chat", "--type=merge", "-p", json.dumps(patch))
    refused = eventually(
        lambda: (
            (c := condition(service(cluster, namespace), "Accepted"))["status"] == "False" and c
        ),
        30,
        "the condition",
    )
    assert refused["reason"] == "DoesNotFit"
    assert "does not fit" in refused["message"]
    assert pods(cluster, namespace, "serving") == before
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    eventually(
        lambda: condition(service(cluster, namespace), "Accepted")["status"] == "True",
        30,
        "recovery without a restart",
    )


def test_a_changed_engine_is_rolled_out_without_an_empty_moment(
    cluster: Cluster, operator: str, namespace: str
) -> None:
    apply_example(cluster, namespace)
    eventually(lambda: len(pods(cluster, namespace, "serving")) == 1, 60, "one replica")
    before = set(pods(cluster, namespace, "serving")) | set(pods(cluster, namespace, "standby"))
    patch = {"spec": {"engine": {"maxNumSeqs": 24}}}
    cluster.kubectl("patch", "-n", namespace, "llms/chat", "--type=merge", "-p", json.dumps(patch))
    seen_empty = []

    def replaced() -> bool:
        serving = pods(cluster, namespace, "serving")
        seen_empty.append(not serving)
        everyone = cluster.items("pods", namespace, "app.kubernetes.io/component=engine")
        return bool(serving) and not before & {pod["metadata"]["name"] for pod in everyone}

    eventually(replaced, 120, "all replicas replaced")
    assert not any(seen_empty), "a replica served at every look"
    chosen = service(cluster, namespace)["status"]["configuration"]
    assert (chosen["maxNumSeqs"], chosen["reason"]) == (24, "Recommended")
    assert " carries " in chosen["message"]
    events = cluster.items("events.events.k8s.io", namespace)
    told = [e["note"] for e in events if e["reason"] == "ConfigurationChanged"]
    assert len(told) == 1
    assert told[0] == f"replicas of another configuration are rolled out: {chosen['message']}"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"replicas": 2}, "give replicas or scaling, not both"),
        ({"scaling": {"min": 3, "max": 2}}, "min exceeds max"),
        ({"slo": None}, "scaling needs an slo"),
        ({"placement": None}, "placement"),
        ({"placement": {}}, "give gpu or gpus, and not both"),
        ({"placement": {"gpu": "L4", "gpus": [{"gpu": "L4"}]}}, "give gpu or gpus, and not both"),
        ({"engine": {"type": "magic"}}, "Unsupported value"),
        ({"slo": {"ttftMs": 0}}, "should be greater than or equal to 1"),
    ],
)
def test_the_api_server_itself_refuses_a_bad_manifest(
    cluster: Cluster, operator: str, namespace: str, change: Json, told: str
) -> None:
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"] |= change
    with pytest.raises(CommandFailed, match=told):
        cluster.apply(namespace, manifest)


def test_both_kinds_are_established_and_the_examples_pass_their_schema(
    cluster: Cluster, operator: str, namespace: str
) -> None:
    for name in ("llmservices", "engineprofiles"):
        cluster.kubectl(
            "wait", "crd", f"{name}.serving.whaleflux.io", "--for=condition=Established",
            "--timeout=30s",
        )  # fmt: skip
    for file in sorted((ROOT / "examples").glob("*/*.yaml")):
        cluster.kubectl("apply", "-n", namespace, "--dry-run=server", "-f", str(file))
