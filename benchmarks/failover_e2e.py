"""The failover benchmark on a real Kubernetes API; see `benchmarks.failover`."""

import asyncio
import json
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

from benchmarks.failover import LOAD_S, POLL_S, RATE_RPS, generation_tokens
from controller.clock import monotonic_s
from e2e.harness.cluster import Cluster
from e2e.harness.node import Node
from e2e.harness.wait import eventually
from profiler.measure import Outcome, Status, Target, open_session, replay
from profiler.trace import Lengths, poisson

CHART = "deploy/helm/whaleflux"
EXAMPLE = Path("examples/kubernetes/llmservice.yaml")
ROLE = "serving.whaleflux.io/role"
NAMESPACE = "default"


def fail_over_in_cluster(runs: int) -> tuple[list[float], int]:
    """Times from kill to serving, and requests lost."""
    with Cluster() as cluster:
        node = cluster.add_node("gpu-1", gpus=8)
        cluster.helm("install", "wf", CHART, "-n", "whaleflux-system", "--create-namespace",
                     "--wait=legacy", "--timeout=120s")  # fmt: skip
        cluster.kubectl("apply", "-f", str(EXAMPLE))
        times_s, lost = [], 0
        for _ in range(runs):
            eventually(lambda: _ready(cluster, "serving"), 90, "a serving replica")
            eventually(lambda: _ready(cluster, "standby"), 90, "a standby")
            (router,) = cluster.items("pods", NAMESPACE, f"{ROLE}=router")
            load = _Load(f"http://{router['status']['podIP']}:8000")
            load.start()
            time.sleep(LOAD_S / 3)
            times_s.append(_kill_and_wait(cluster, node))
            load.join()
            lost += sum(o.status in (Status.ERROR, Status.TIMEOUT) for o in load.outcomes)
        return times_s, lost


class _Load(threading.Thread):
    """Poisson traffic in a thread of its own."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.outcomes: tuple[Outcome, ...] = ()
        self._url = url

    def run(self) -> None:
        """Send."""
        self.outcomes = asyncio.run(self._send())

    async def _send(self) -> tuple[Outcome, ...]:
        trace = poisson(RATE_RPS, LOAD_S, Lengths.fixed(256, 64), np.random.default_rng(3))
        async with open_session(None) as session:
            return await replay(session, Target(self._url, "llama-3.1-8b"), trace, monotonic_s)


def _ready(cluster: Cluster, role: str) -> dict[str, str]:
    """Names and addresses of ready pods in a role."""
    listed = cluster.kubectl("get", "pods", "-n", NAMESPACE, "-l", f"{ROLE}={role}", "-o", "json")
    found = {}
    for pod in json.loads(listed)["items"]:
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
        if conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
            found[pod["metadata"]["name"]] = pod["status"]["podIP"]
    return found


def _kill_and_wait(cluster: Cluster, node: Node) -> float:
    standbys = _ready(cluster, "standby")
    victim = next(iter(_ready(cluster, "serving")))
    before = _generated(standbys)
    killed_s = monotonic_s()
    node.kill(NAMESPACE, victim)
    eventually(lambda: _generated(standbys) > before, 60, "the standby serving", every_s=POLL_S)
    return monotonic_s() - killed_s


def _generated(pods: dict[str, str]) -> float:
    total = 0.0
    for address in pods.values():
        with urllib.request.urlopen(f"http://{address}:8000/metrics", timeout=5) as answer:
            total += generation_tokens(answer.read())
    return total
