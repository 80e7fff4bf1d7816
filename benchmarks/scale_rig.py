"""Where `benchmarks.scale` measures: control plane, KWOK's nodes, an operator that is audited."""

import json
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.harness import build
from e2e.harness.cluster import STAGES, Cluster
from e2e.harness.operators import OperatorProcess
from e2e.harness.processes import free_port, start_server, stop_server
from e2e.harness.wait import eventually

HOME, ACCOUNT = "operator-home", "operator"
USER = f"system:serviceaccount:{HOME}:{ACCOUNT}"
_PODS_OF_A_NODE = 500
_QPS = ("--kube-api-qps=1000", "--kube-api-burst=2000")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Rig:
    """What runs, and how much the operator uses of it."""

    cluster: Cluster
    operator: OperatorProcess
    audit: Path
    port: int
    """Of the operator's console."""
    restarts: int = 0
    """Times that the operator ended by itself, as one does that lost its Lease."""

    def tend(self) -> None:
        """Start it again where it ended, as a kubelet would."""
        if not self.operator.alive:
            self.restarts += 1
            self.operator.start()

    def cpu_s(self) -> float:
        """CPU seconds that the operator has used."""
        return self.cpu_by_process_s()["operator"]

    def cpu_by_process_s(self) -> dict[str, float]:
        """CPU seconds so far of every process that this one has started, by name."""
        found: dict[str, float] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                text = (folder / "stat").read_text()
            except OSError:
                continue  # gone meanwhile
            fields = text.rsplit(") ", 1)[1].split()
            if int(fields[1]) == os.getpid():
                name = "operator" if int(folder.name) == self.operator.pid else text.split("(")[1]
                used_s = (int(fields[11]) + int(fields[12])) / _TICK
                found[name.split(")")[0]] = used_s
        return found

    def memory_mib(self) -> float:
        """Resident memory of the operator now."""
        return self._status_mib("VmRSS")

    def peak_mib(self) -> float:
        """The most it has had."""
        return self._status_mib("VmHWM")

    def _status_mib(self, field: str) -> float:
        lines = Path(f"/proc/{self.operator.pid}/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith(field))
        return int(line.split()[1]) / 1024

    def audited(self) -> Counter[str]:
        """Requests of the operator so far: lease, watch (begun or ended), other."""
        found: Counter[str] = Counter()
        if not self.audit.exists():
            return found
        with self.audit.open() as lines:
            for line in lines:
                if line.endswith("\n"):
                    found[_kind(json.loads(line))] += 1
        return found

    def page(self, path: str) -> str:
        """What the operator's console answers; empty where it does not."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return ""

    def until_ready(self, timeout_s: float) -> None:
        """Wait for synced caches."""
        eventually(lambda: self.page("/readyz") != "", timeout_s, "caches in sync", every_s=0.1)

    def until_resolved(self, services: int, timeout_s: float) -> None:
        """Wait until every service has had its first tick."""

        def all_tick() -> bool:
            self.tend()
            page = self.page("/metrics")
            return page.count("\nwhaleflux_service_info{") >= services

        eventually(all_tick, timeout_s, f"{services} services resolved", every_s=2)

    def until_quiet(self, timeout_s: float) -> None:
        """Wait for five seconds without a request but the Lease's; give up silently."""
        deadline_s = time.monotonic() + timeout_s
        before = self.audited()["other"]
        while time.monotonic() < deadline_s:
            time.sleep(5)
            now = self.audited()["other"]
            if now == before:
                return
            before = now


def _kind(entry: dict[str, Any]) -> str:
    if entry.get("objectRef", {}).get("resource") == "leases":
        return "lease"
    return "watch" if entry["verb"] == "watch" else "other"


@contextmanager
def rig(pods: int, *, addresses: bool) -> Iterator[Rig]:
    """Start everything but the operator, with room for so many pods."""
    build.ensure(("kwok",))
    policy = Path("build") / f"scale-audit-{os.getpid()}.yaml"
    policy.write_text(yaml.safe_dump(_policy()))
    audit = policy.with_suffix(".log").resolve()
    flags = (
        f"--audit-policy-file={policy.resolve()}", f"--audit-log-path={audit}",
        "--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000",
    )  # fmt: skip
    try:
        with Cluster(apiserver_flags=flags, scheduler_flags=_QPS, controller_flags=_QPS) as cluster:
            kubeconfig = _prepare(cluster, -(-pods // _PODS_OF_A_NODE))
            kwok = _kwok(cluster, addresses=addresses)
            port = free_port()
            listen = (f"--port={port}",)
            operator = OperatorProcess("scale", kubeconfig, HOME, cluster.folder, listen)
            try:
                yield Rig(cluster, operator, audit, port)
            finally:
                operator.stop()
                kwok_log = cluster.logs / "kwok.log"
                stop_server(kwok, grace_s=0)
                assert kwok_log.exists()
    finally:
        policy.unlink(missing_ok=True)
        audit.unlink(missing_ok=True)


def _policy() -> dict[str, Any]:
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": [USER]}, {"level": "None"}],
    }


def _prepare(cluster: Cluster, nodes: int) -> Path:
    """Kinds, nodes, and an account for the operator that may do everything."""
    cluster.kubectl("apply", "-f", "crds")
    cluster.kubectl("create", "namespace", HOME)
    cluster.kubectl("create", "serviceaccount", ACCOUNT, "-n", HOME)
    cluster.kubectl(
        "create", "clusterrolebinding", "scale", "--clusterrole=cluster-admin",
        f"--serviceaccount={HOME}:{ACCOUNT}",
    )  # fmt: skip
    for i in range(nodes):
        cluster.add_fake_node(f"fake-{i}", pods=2 * _PODS_OF_A_NODE)
    return cluster.kubeconfig_for(HOME, ACCOUNT)


def _kwok(cluster: Cluster, *, addresses: bool) -> Any:
    """KWOK, whose Pods have loopback addresses that refuse, or none."""
    stages = STAGES
    if not addresses:
        text = STAGES.read_text()
        begin = text.index("      {{ with PodIPWith")
        end = text.index("      phase: Running\n      startTime")
        stages = cluster.folder / "stages.yaml"
        stages.write_text(text[:begin] + text[end:])
    command = [
        str(build.BIN / "kwok"), f"--kubeconfig={cluster.kubeconfig}", f"--config={stages}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--node-lease-duration-seconds=40", "--cidr=127.64.0.1/16",
    ]  # fmt: skip
    with (cluster.logs / "kwok.log").open("ab") as log:
        return start_server(command, log)
