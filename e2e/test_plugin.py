"""The kubectl plugin through kubectl itself, on a cluster with the operator at work."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from e2e.harness import build
from e2e.harness.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.harness.cluster import Cluster
    from e2e.harness.node import Node

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy/helm/whaleflux"
EXAMPLE = ROOT / "examples/kubernetes/llmservice.yaml"
RELEASE, HOME = "plugin", "plugin-system"
PLUGIN = f"""#!{sys.executable}
from controller.cli.kubectl import main
main()
"""
Run = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def operator(cluster: Cluster, node: Node) -> Iterator[str]:
    """The chart, installed under a name of this file's own."""
    cluster.helm(
        "install", RELEASE, str(CHART), "-n", HOME, "--create-namespace", "--wait=legacy",
        "--timeout=120s",
    )  # fmt: skip
    yield HOME
    cluster.helm("uninstall", RELEASE, "-n", HOME, "--wait")


@pytest.fixture
def whaleflux(cluster: Cluster, tmp_path: Path) -> Callable[..., Run]:
    """`kubectl whaleflux …`, with a fresh PATH that the plugin is on."""
    plugin = tmp_path / "kubectl-whaleflux"
    plugin.write_text(PLUGIN)
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    surroundings = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "KUBECONFIG": str(cluster.kubeconfig),
    }

    def run(*arguments: str) -> Run:
        command = [str(build.BIN / "kubectl"), "whaleflux", *arguments]
        return subprocess.run(
            command, env=surroundings, capture_output=True, text=True, check=False, timeout=120
        )

    return run


def read(done: Run) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_service_is_shown_explained_drilled_and_planned(
    cluster: Cluster, operator: str, namespace: str, whaleflux: Callable[..., Run]
) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    cluster.kubectl("wait", "-n", namespace, "llms/chat", "--for=condition=Ready", "--timeout=90s")

    def row() -> Any:
        (found,) = read(whaleflux("top", "-n", namespace, "-o", "json"))["items"]
        return found if (found["serving"], found["standby"]) == (1, 1) else None

    shown = eventually(row, 60, "one serves and one stands by", every_s=1)
    assert (shown["ready"], shown["gpu"], shown["objectivePercent"]) == ("True", "L40S", 95)
    assert shown["capacityRequestsPerSecond"] > 0
    table = whaleflux("top", "-A").stdout
    assert namespace in table

    story = read(whaleflux("explain", "chat", "-n", namespace, "-o", "json"))
    assert {replica["phase"] for replica in story["replicas"]} == {"Serving", "Standby"}
    assert {replica["node"] for replica in story["replicas"]} == {"gpu-1"}
    assert story["events"]
    assert story["events"] == sorted(story["events"], key=lambda event: str(event["at"]))
    told = whaleflux("explain", "chat", "-n", namespace).stdout
    assert "✓ Ready: enough replicas serve" in told

    refused = whaleflux("drill", "chat", "-n", namespace)
    assert refused.returncode == 2
    assert "nothing was deleted" in refused.stderr
    drilled = read(whaleflux("drill", "chat", "-n", namespace, "--yes", "-o", "json"))
    (standby,) = [r["name"] for r in story["replicas"] if r["phase"] == "Standby"]
    assert drilled["tookOver"] == [standby]
    assert drilled["backAfterSeconds"] < 5
    assert drilled["servingLeast"] == 0

    plan = read(whaleflux("plan", "chat", "-n", namespace, "-o", "json"))
    assert plan["best"]["gpu"] == "L40S"
    assert plan["comparison"]["running"]["maxNumSeqs"] == 16


def test_mistakes_are_one_line_and_exit_code_2(
    cluster: Cluster, operator: str, namespace: str, whaleflux: Callable[..., Run]
) -> None:
    cluster.kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    nobody = str(cluster.kubeconfig_for(namespace, "nobody"))
    for arguments, told in (
        (("explain", "absent", "-n", namespace), "there is no such LLMService in namespace"),
        (("drill", "absent", "-n", namespace, "--yes"), "there is no such LLMService"),
        (("top", "--kubeconfig", "/nowhere"), "no cluster to talk to"),
        (("top", "--kubeconfig", nobody), "HTTP 403"),
    ):
        done = whaleflux(*arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.startswith("error: "), done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert told in done.stderr
