"""The harness itself: pods are processes, and the control plane is real."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.harness import build
from e2e.harness.addresses import AddressBlock, NoAddresses
from e2e.harness.cluster import Cluster, CommandFailed
from e2e.harness.manifests import container, deployment, pod, ready
from e2e.harness.wait import eventually

if TYPE_CHECKING:
    from e2e.harness.node import Node

Json = dict[str, Any]

ON_GPU_NODE = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
READS_CONFIGMAPS = """
import os, sys, time
from urllib.error import HTTPError
from urllib.request import Request, urlopen
import ssl, yaml
document = yaml.safe_load(open(os.environ["KUBECONFIG"]))
cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
context = ssl.create_default_context(cafile=cluster["certificate-authority"])
for what in ("configmaps", "secrets"):
    url = cluster["server"] + "/api/v1/namespaces/" + sys.argv[1] + "/" + what
    ask = Request(url, headers={"Authorization": "Bearer " + user["token"]})
    try:
        print(what, urlopen(ask, context=context).status)
    except HTTPError as error:
        print(what, error.code)
"""


def on_gpus(name: str, *containers: Json, **changes: Any) -> Json:
    """A pod for the node with GPUs."""
    return pod(name, *containers, **({"nodeSelector": ON_GPU_NODE} | changes))


def one_pod(cluster: Cluster, namespace: str) -> Json:
    (found,) = cluster.items("pods", namespace)
    return found


def test_a_deployment_serves_on_its_pods_addresses(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    probe = {"httpGet": {"port": "http"}, "periodSeconds": 1}
    serving = container(readinessProbe=probe, ports=[{"name": "http", "containerPort": 8000}])
    cluster.apply(namespace, deployment("web", 2, on_gpus("web", serving)))

    cluster.kubectl("wait", "-n", namespace, "deployment/web", "--for=condition=Available")
    found = eventually(
        lambda: [each for each in cluster.items("pods", namespace) if ready(each)][:2],
        30,
        "two ready",
    )
    addresses = {each["status"]["podIP"] for each in found}
    assert len(addresses) == 2
    for address in addresses:
        with urllib.request.urlopen(f"http://{address}:8000/", timeout=5) as answer:
            assert answer.status == 200


def test_a_killed_process_is_restarted(cluster: Cluster, node: Node, namespace: str) -> None:
    cluster.apply(namespace, on_gpus("web", container()))
    eventually(lambda: ready(one_pod(cluster, namespace)), 30, "web ready")
    (first,) = node.process_groups(namespace)

    node.kill(namespace, "web")

    def restarted() -> Json:
        (status,) = one_pod(cluster, namespace)["status"]["containerStatuses"]
        return status if status["restartCount"] == 1 and status["ready"] else {}

    status = eventually(restarted, 30, "web restarted")
    assert status["lastState"]["terminated"]["exitCode"] == 128 + signal.SIGKILL
    assert node.process_groups(namespace) != [first]


def test_readiness_and_liveness_probes_act(cluster: Cluster, node: Node, namespace: str) -> None:
    looks = {"exec": {"command": ["test", "-e", "/flags/ready"]}, "periodSeconds": 1}
    lives = {"exec": {"command": ["test", "!", "-e", "/flags/dead"]}, "periodSeconds": 1}
    flags = {"name": "flags", "mountPath": "/flags"}
    script = "touch /flags/ready; rm -f /flags/dead; sleep 2; touch /flags/dead; exec sleep 600"
    watched = container(
        command=["sh", "-c", script],
        volumeMounts=[flags],
        readinessProbe=looks,
        livenessProbe=lives | {"failureThreshold": 1},
    )
    volume = {"name": "flags", "emptyDir": {}}
    cluster.apply(namespace, on_gpus("probed", watched, volumes=[volume]))

    eventually(lambda: ready(one_pod(cluster, namespace)), 30, "ready by its probe")
    eventually(
        lambda: one_pod(cluster, namespace)["status"]["containerStatuses"][0]["restartCount"],
        30,
        "restart by the liveness probe",
    )


def test_a_readiness_gate_holds_a_pod_back(cluster: Cluster, node: Node, namespace: str) -> None:
    gate = "example.com/admitted"
    gated = on_gpus("gated", container(), readinessGates=[{"conditionType": gate}])
    cluster.apply(namespace, gated)

    def waits_for_the_gate() -> bool:
        reasons = {
            each["type"]: each.get("reason")
            for each in one_pod(cluster, namespace)["status"]["conditions"]
        }
        return reasons.get("Ready") == "ReadinessGatesNotReady"

    eventually(waits_for_the_gate, 30, "the gate is what is missing")
    opened = json.dumps({"status": {"conditions": [{"type": gate, "status": "True"}]}})
    cluster.kubectl("patch", "-n", namespace, "pod", "gated", "--subresource=status", "-p", opened)
    eventually(lambda: ready(one_pod(cluster, namespace)), 10, "ready once the gate is open")


def test_volumes_and_variables_reach_the_process(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    cluster.apply(
        namespace,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings"},
            "data": {"greeting.txt": "hello", "level": "7"},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "keys"},
            "stringData": {"token": "s3cret"},
        },
    )
    keyed = {"valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}
    level = {"valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}
    named = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}
    told = container(
        command=["sh", "-c"],
        args=["cat /etc/settings/greeting.txt /scratch/made; echo $TOKEN-$LEVEL-$(APP)-$CARDS"],
        env=[
            {"name": "TOKEN", **keyed},
            {"name": "LEVEL", **level},
            {"name": "APP", **named},
            {"name": "CARDS", "value": "$(APP)$$(APP)"},
        ],
        volumeMounts=[
            {"name": "settings", "mountPath": "/etc/settings"},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
        resources={"limits": {"nvidia.com/gpu": 2}},
    )
    makes = {
        "name": "makes",
        "image": "none",
        "command": ["sh", "-c", "echo ' made' > /scratch/made"],
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    volumes = [
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "scratch", "emptyDir": {}},
    ]
    job = on_gpus("told", told, volumes=volumes, initContainers=[makes], restartPolicy="Never")
    cluster.apply(namespace, job)

    eventually(
        lambda: one_pod(cluster, namespace)["status"]["phase"] == "Succeeded", 30, "told is done"
    )
    assert node.logs(namespace, "told", "main") == ("hello made\ns3cret-7-told-told$(APP)\n")


def test_routable_addresses_reach_endpoint_slices(cluster: Cluster, namespace: str) -> None:
    try:
        AddressBlock(routable=True).close()
    except NoAddresses as error:
        pytest.skip(f"routable addresses: {error}")
    cluster.add_node("routed", labels={"role": "routed"}, routable=True)
    ports = [{"port": 80, "targetPort": 8000}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": ports},
    }
    cluster.apply(namespace, service, on_gpus("web", container(), nodeSelector={"role": "routed"}))

    path = "jsonpath={.items[*].endpoints[?(@.conditions.ready)].addresses[0]}"
    address = eventually(
        lambda: cluster.kubectl("get", "endpointslices", "-n", namespace, "-o", path),
        30,
        "endpoint",
    )
    assert address == one_pod(cluster, namespace)["status"]["podIP"]
    cluster.nodes.pop("routed").stop()


def test_a_changed_configmap_reaches_a_running_pod(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}
    mount = {"name": "settings", "mountPath": "/etc/settings"}
    follow = container(command=["tail", "-F", "/etc/settings/level"], volumeMounts=[mount])
    volume = {"name": "settings", "configMap": {"name": "settings"}}
    cluster.apply(namespace, settings | {"data": {"level": "one\n"}})
    cluster.apply(namespace, on_gpus("follow", follow, volumes=[volume]))
    eventually(lambda: "one" in node.logs(namespace, "follow"), 30, "the first value")

    cluster.apply(namespace, settings | {"data": {"level": "two\n"}})

    eventually(lambda: "two" in node.logs(namespace, "follow"), 30, "the second value")


def test_no_command_is_a_clear_waiting_state(cluster: Cluster, node: Node, namespace: str) -> None:
    cluster.apply(namespace, on_gpus("image", container(command=[])))

    def waiting() -> str | None:
        (status,) = one_pod(cluster, namespace)["status"]["containerStatuses"]
        reason: str | None = status["state"].get("waiting", {}).get("reason")
        return reason if reason != "ContainerCreating" else None

    assert eventually(waiting, 30, "a reason") == "ErrImagePull"


def test_deleting_the_namespace_leaves_no_process(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    script = "trap 'echo bye; exit 0' TERM; sleep 600 & while true; do sleep 0.1; done"
    polite = container(command=["sh", "-c", script])
    cluster.apply(namespace, deployment("web", 2, on_gpus("web", polite)))
    eventually(lambda: len(node.process_groups(namespace)) == 2, 30, "two processes")
    eventually(lambda: all(map(ready, cluster.items("pods", namespace))), 30, "both ready")
    groups = node.process_groups(namespace)
    names = [each["metadata"]["name"] for each in cluster.items("pods", namespace)]

    cluster.kubectl("delete", "namespace", namespace, "--timeout=60s")

    assert node.process_groups(namespace) == []
    assert [_members(group) for group in groups] == [[], []]
    assert all(node.logs(namespace, name).endswith("bye\n") for name in names)


def test_a_pod_has_its_service_accounts_rights_and_no_others(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    metadata = {"name": "reader"}
    group = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader"}],
    }
    cluster.apply(
        namespace,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        binding,
    )
    asks = container(command=["python", "-c", READS_CONFIGMAPS, namespace])
    job = on_gpus("asks", asks, serviceAccountName="reader", restartPolicy="Never")
    cluster.apply(namespace, job)

    eventually(
        lambda: one_pod(cluster, namespace)["status"]["phase"] == "Succeeded", 30, "asks is done"
    )
    assert node.logs(namespace, "asks") == "configmaps 200\nsecrets 403\n"
    kubeconfig = f"--kubeconfig={cluster.kubeconfig_for(namespace, 'reader')}"
    assert "kube-root-ca.crt" in cluster.run("kubectl", kubeconfig, "get", "cm", "-n", namespace)
    with pytest.raises(CommandFailed, match="Forbidden"):
        cluster.run("kubectl", kubeconfig, "get", "secrets", "-n", namespace)


def test_a_lost_node_keeps_its_object_and_none_of_its_processes(cluster: Cluster) -> None:
    lost = cluster.add_node("lost", labels={"role": "lost"})
    cluster.apply("default", on_gpus("on-lost", container(), nodeSelector={"role": "lost"}))
    (group,) = eventually(lambda: lost.process_groups("default", "on-lost"), 30, "a process")

    lost.stop(kill=True)

    assert _members(group) == []
    assert "lost" in cluster.kubectl("get", "node", "lost", "-o", "name")
    (found,) = cluster.items("pods", "default")
    assert "deletionTimestamp" not in found["metadata"]
    cluster.kubectl("delete", "node", "lost")
    cluster.kubectl("delete", "pod", "on-lost", "--force", "--grace-period=0")


def test_the_node_outlives_an_api_server_restart(
    cluster: Cluster, node: Node, namespace: str
) -> None:
    cluster.apply(namespace, on_gpus("before", container()))
    eventually(lambda: ready(one_pod(cluster, namespace)), 30, "before is ready")
    groups = node.process_groups(namespace)

    cluster.stop_apiserver()
    cluster.start_apiserver()

    cluster.apply(namespace, on_gpus("after", container()))
    eventually(
        lambda: len(list(filter(ready, cluster.items("pods", namespace)))) == 2, 30, "both ready"
    )
    assert set(groups) < set(node.process_groups(namespace))


def test_fake_nodes_run_fifty_fake_pods(cluster: Cluster, namespace: str) -> None:
    cluster.start_kwok()
    fake = {"key": "fake", "effect": "NoSchedule"}
    cluster.add_fake_node("fake-1", gpus=64, taints=[fake])
    card = container(resources={"limits": {"nvidia.com/gpu": 1}})
    many = pod("many", card, nodeSelector={"type": "kwok"}, tolerations=[fake])
    cluster.apply(namespace, deployment("many", 50, many))

    eventually(
        lambda: sum(map(ready, cluster.items("pods", namespace))) == 50, 60, "fifty fake pods ready"
    )


def test_helm_runs(cluster: Cluster) -> None:
    assert cluster.helm("version", "--short").startswith("v4.3.1")


def test_the_audit_log_names_who_asked(cluster: Cluster, node: Node) -> None:
    users = {event["user"]["username"] for event in cluster.audited()}
    assert {"e2e-admin", "e2e-node", "e2e-scheduler", "e2e-controller-manager"} <= users


def test_processes_die_with_a_killed_python(tmp_path: Path) -> None:
    """A grandchild too: the reaper has the whole process group."""
    script = """
import subprocess, sys, time
from e2e.harness.processes import Reaper, die_with_parent
reaper = Reaper()
child = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True,
                         preexec_fn=die_with_parent())
reaper.add(child.pid)
print(child.pid, flush=True)
time.sleep(600)
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=build.REPOSITORY
    )
    assert holder.stdout is not None
    group = int(holder.stdout.readline())
    holder.kill()
    holder.communicate()

    eventually(lambda: not _members(group), 5, "no process of the group is left")


def _members(group: int) -> list[int]:
    """The living processes of a process group, zombies left out."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, owner = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(owner) == group and state != "Z":
            found.append(int(status.parent.name))
    return found


def test_a_second_build_has_nothing_to_do(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.ensure() == build.BIN
    assert capsys.readouterr().out == ""
