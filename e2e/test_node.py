"""How a pod ends on the harness' node, and what happens when the node itself does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from e2e.harness.cluster import Cluster
from e2e.harness.manifests import container, deployment, pod, ready, shell
from e2e.harness.wait import eventually

if TYPE_CHECKING:
    from e2e.harness.node import Node

Json = dict[str, Any]

STUBBORN = "trap '' TERM; while true; do sleep 0.1; done"


def status_of(cluster: Cluster, namespace: str, name: str) -> Json:
    found = {each["metadata"]["name"]: each for each in cluster.items("pods", namespace)}
    status: Json = found[name]["status"]
    return status


def test_pre_stop_runs_before_the_signal(cluster: Cluster, node: Node, namespace: str) -> None:
    hook = {"preStop": {"exec": {"command": ["touch", "/flags/asked"]}}}
    script = "trap 'ls /flags; exit 0' TERM; while true; do sleep 0.1; done"
    flags = {"volumeMounts": [{"name": "flags", "mountPath": "/flags"}]}
    volume = {"name": "flags", "emptyDir": {}}
    cluster.apply(
        namespace, pod("hooked", shell(script, lifecycle=hook, **flags), volumes=[volume])
    )
    eventually(lambda: ready(cluster.items("pods", namespace)[0]), 30, "hooked ready")

    cluster.kubectl("delete", "-n", namespace, "pod", "hooked", "--timeout=30s")

    assert node.logs(namespace, "hooked").endswith("asked\n")


def test_a_stubborn_process_is_killed_after_its_grace(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    cluster.apply(namespace, pod("slow", shell(STUBBORN), terminationGracePeriodSeconds=2))
    eventually(lambda: ready(cluster.items("pods", namespace)[0]), 30, "slow ready")

    began_s = time.monotonic()
    cluster.kubectl("delete", "-n", namespace, "pod", "slow", "--timeout=30s")

    assert time.monotonic() - began_s >= 2
    assert node.process_groups(namespace) == []


def test_a_forced_deletion_ends_the_process_at_once(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    cluster.apply(namespace, pod("slow", shell(STUBBORN), terminationGracePeriodSeconds=600))
    eventually(lambda: ready(cluster.items("pods", namespace)[0]), 30, "slow ready")

    cluster.kubectl("delete", "-n", namespace, "pod", "slow", "--force", "--grace-period=0")

    eventually(lambda: not node.process_groups(namespace), 10, "no process")


def test_a_pod_in_back_off_says_so_and_can_be_deleted(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    cluster.apply(namespace, pod("fails", shell("exit 3")))

    def backs_off() -> Json:
        (status,) = status_of(cluster, namespace, "fails")["containerStatuses"]
        waiting = status["state"].get("waiting", {})
        return status if waiting.get("reason") == "CrashLoopBackOff" else {}

    assert eventually(backs_off, 30, "back-off")["lastState"]["terminated"]["exitCode"] == 3
    cluster.kubectl("delete", "-n", namespace, "pod", "fails", "--timeout=30s")


def test_a_failed_init_container_fails_the_pod(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    first = shell("exit 1", name="first")
    failing = pod("fails", container(), initContainers=[first], restartPolicy="Never")
    cluster.apply(namespace, failing)

    eventually(
        lambda: status_of(cluster, namespace, "fails")["phase"] == "Failed", 30, "phase Failed"
    )
    assert node.process_groups(namespace) == []


def test_a_sidecar_ends_with_the_job_it_serves(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    sidecar = shell("exec sleep 600", name="beside", restartPolicy="Always")
    spec = pod("work", shell("sleep 0.2"), initContainers=[sidecar], restartPolicy="Never")["spec"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"}}
    cluster.apply(namespace, job | {"spec": {"template": {"spec": spec}}})

    cluster.kubectl("wait", "-n", namespace, "job/work", "--for=condition=Complete")
    assert node.process_groups(namespace) == []


def test_a_missing_secret_is_waited_for(cluster: Cluster, node: Node, namespace: str) -> None:
    key = {"secretKeyRef": {"name": "late", "key": "word"}}
    says = shell("echo $WORD", env=[{"name": "WORD", "valueFrom": key}])
    cluster.apply(namespace, pod("says", says, restartPolicy="Never"))

    def waits() -> bool:
        (status,) = status_of(cluster, namespace, "says")["containerStatuses"]
        return 'secret "late" not found' in status["state"]["waiting"].get("message", "")

    eventually(waits, 30, "the pod names what it misses")
    metadata = {"name": "late"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
    cluster.apply(namespace, secret | {"stringData": {"word": "here"}})
    eventually(
        lambda: status_of(cluster, namespace, "says")["phase"] == "Succeeded", 30, "says is done"
    )
    assert node.logs(namespace, "says") == "here\n"


def test_many_pods_start_and_end_together(cluster: Cluster, node: Node, namespace: str) -> None:
    sleeps = shell("exec sleep 600")
    cluster.apply(namespace, deployment("many", 40, pod("many", sleeps)))
    eventually(
        lambda: sum(map(ready, cluster.items("pods", namespace))) == 40, 60, "forty pods ready"
    )
    addresses = {each["status"]["podIP"] for each in cluster.items("pods", namespace)}
    assert len(addresses) == 40

    cluster.kubectl("scale", "-n", namespace, "deployment/many", "--replicas=0")
    eventually(lambda: not node.process_groups(namespace), 30, "no process")
    eventually(lambda: not cluster.items("pods", namespace), 30, "no pod")


def test_pods_of_a_lost_node_move_to_another() -> None:
    """The control plane notices the silence by itself, here within seconds."""
    impatient = ("--node-monitor-grace-period=4s", "--node-monitor-period=1s")
    with Cluster(controller_flags=impatient) as small:
        first = small.add_node("first", heartbeat_s=1)
        soon = [
            {"key": f"node.kubernetes.io/{taint}", "effect": "NoExecute", "tolerationSeconds": 1}
            for taint in ("not-ready", "unreachable")
        ]
        moving = pod("moves", container(), tolerations=soon)
        small.apply("default", deployment("moves", 1, moving))
        eventually(lambda: ready(small.items("pods", "default")[0]), 30, "moves ready")
        second = small.add_node("second", heartbeat_s=1)

        first.stop(kill=True)

        (group,) = eventually(second.process_groups, 60, "a process on the second node")
        assert group
        lost = small.kubectl("get", "node", "first", "-o", "jsonpath={.spec.taints[*].key}")
        assert "node.kubernetes.io/unreachable" in lost


def test_kubectl_shows_and_follows_logs(cluster: Cluster, node: Node, namespace: str) -> None:
    cluster.apply(namespace, pod("counts", shell("echo 1; sleep 1; echo 2"), restartPolicy="Never"))
    eventually(lambda: "1" in node.logs(namespace, "counts"), 30, "the first line")

    assert cluster.kubectl("logs", "-n", namespace, "counts", "--follow") == "1\n2\n"
    assert cluster.kubectl("logs", "-n", namespace, "counts", "--tail=1") == "2\n"
