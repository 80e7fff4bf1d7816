"""The chart on a real API server: restricted, upgraded, uninstalled, and rendered any way."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.harness.cluster import CommandFailed
from e2e.harness.crds import MONITORING
from e2e.harness.wait import eventually
from e2e.test_loop import CHART, EXAMPLE, ROLE, ROOT, pods

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.harness.cluster import Cluster
    from e2e.harness.node import Node

Json = dict[str, Any]
CRD = "llmservices.serving.whaleflux.io"
CRDS = (CRD, "engineprofiles.serving.whaleflux.io")
SPACE = "chart-system"


@pytest.fixture
def space(cluster: Cluster) -> Iterator[str]:
    """A namespace that refuses what is not restricted."""
    cluster.kubectl("create", "namespace", SPACE)
    level = "pod-security.kubernetes.io/enforce=restricted"
    cluster.kubectl("label", "namespace", SPACE, level)
    yield SPACE
    cluster.kubectl("delete", "namespace", SPACE, "--timeout=60s")


def rendered(cluster: Cluster, *values: str) -> list[Json]:
    sets = [f"--set={value}" for value in values]
    text = cluster.helm("template", "wf", str(CHART), "-n", SPACE, *sets)
    return [each for each in yaml.safe_load_all(text) if each]


def former(folder: Path) -> Path:
    """A chart as it was: an older version, whose CRD lacks a field and a column."""
    chart = folder / "former"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "0.0.9"}))
    file = chart / f"files/crds/{CRD}.yaml"
    crd = yaml.safe_load(file.read_text())
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del spec["model"]["properties"]["revision"]
    del version["additionalPrinterColumns"][-2]
    file.write_text(yaml.safe_dump(crd))
    return chart


def revision_is_known(cluster: Cluster) -> bool:
    crd = json.loads(cluster.kubectl("get", "crd", CRD, "-o", "json"))
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return "revision" in spec["model"]["properties"]


def test_it_is_installed_upgraded_and_uninstalled_and_services_run_on(
    cluster: Cluster, node: Node, space: str, namespace: str, tmp_path: Path
) -> None:
    for name in CRDS:
        cluster.kubectl("delete", "crd", name, "--ignore-not-found", "--timeout=60s")
    where = ("-n", space, "--wait=legacy", "--timeout=120s")
    cluster.helm("install", "up", str(former(tmp_path)), *where)
    assert not revision_is_known(cluster)
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    # a watch opened while the CRD was being made may be dead, and is given up after 90 s
    eventually(lambda: len(pods(cluster, namespace, "serving")) == 1, 180, "one serves")
    eventually(lambda: len(pods(cluster, namespace, "standby")) == 1, 60, "one stands by")
    before = {pod["metadata"]["uid"] for pod in engines(cluster, namespace)}

    cluster.helm("upgrade", "up", str(CHART), *where)
    assert revision_is_known(cluster)
    assert {pod["metadata"]["uid"] for pod in engines(cluster, namespace)} == before

    first = leader(cluster, space)
    cluster.kubectl("delete", "pod", "-n", space, first)
    eventually(lambda: leader(cluster, space) not in ("", first), 30, "another one leads")
    cluster.kubectl("patch", "llms", "chat", "-n", namespace, "--type=merge", "-p",
                    json.dumps({"spec": {"resilience": {"standbys": 2}}}))  # fmt: skip
    eventually(lambda: len(pods(cluster, namespace, "standby")) == 2, 180, "and works")

    cluster.helm("uninstall", "up", "-n", space, "--wait")
    assert cluster.kubectl("get", "llms", "chat", "-n", namespace, "-o", "name")
    assert before <= {pod["metadata"]["uid"] for pod in engines(cluster, namespace)}


def engines(cluster: Cluster, namespace: str) -> list[Json]:
    return cluster.items("pods", namespace, "app.kubernetes.io/component=engine")


def leader(cluster: Cluster, space: str) -> str:
    """Name of the operator's Pod that holds the Lease."""
    lease = json.loads(cluster.kubectl("get", "lease", "up-operator", "-n", space, "-o", "json"))
    holder: str = lease["spec"]["holderIdentity"]
    names = [pod["metadata"]["name"] for pod in cluster.items("pods", space)]
    return next((name for name in names if holder.startswith(name)), "")


def test_what_it_renders_passes_the_api_server(cluster: Cluster, space: str) -> None:
    made = rendered(
        cluster, "dashboards.enabled=true", "networkPolicy.enabled=true", "crds.enabled=false",
        "networkPolicy.from={monitoring}", "networkPolicy.egress[0].ports[0].port=6443",
        "serviceNetworkPolicies.enabled=true", "replicas=1", "serviceMonitor.enabled=true",
        "podMonitor.enabled=true", "prometheusRule.enabled=true",
    )  # fmt: skip
    server_side = ("apply", "--server-side", "-f", "-")
    cluster.kubectl(*server_side, input=MONITORING.text())
    cluster.kubectl("wait", "-f", "-", "--for=condition=Established", input=MONITORING.text())
    for each in made:
        dry = (*server_side, "--dry-run=server", "-n", space)
        told = cluster.kubectl(*dry, "--warnings-as-errors", input=json.dumps(each))
        assert "serverside-applied" in told
    cluster.kubectl("delete", "-f", "-", input=MONITORING.text())


def test_every_combination_renders_and_monitors_are_there_when_asked_for(cluster: Cluster) -> None:
    switches = (
        "serviceMonitor.enabled", "podMonitor.enabled", "prometheusRule.enabled",
        "dashboards.enabled", "networkPolicy.enabled", "crds.enabled", "rbac.aggregate",
    )  # fmt: skip
    for on in itertools.chain([()], [(each,) for each in switches], [switches]):
        values = [f"{each}={str(each in on).lower()}" for each in switches]
        kinds = {each["kind"] for each in rendered(cluster, *values, "watchNamespaces={a,b}")}
        for switch, kind in (
            ("serviceMonitor.enabled", "ServiceMonitor"), ("podMonitor.enabled", "PodMonitor"),
            ("prometheusRule.enabled", "PrometheusRule"), ("dashboards.enabled", "ConfigMap"),
            ("networkPolicy.enabled", "NetworkPolicy"),
            ("crds.enabled", "CustomResourceDefinition"), ("rbac.aggregate", "ClusterRole"),
        ):  # fmt: skip
            assert (kind in kinds) == (switch in on), (on, kind)


def test_restricted_to_namespaces_it_has_no_rights_elsewhere(cluster: Cluster) -> None:
    made = rendered(cluster, "watchNamespaces={a,b}", "rbac.aggregate=false")
    assert not [each for each in made if each["kind"].startswith("ClusterRole")]
    roles = {each["metadata"]["namespace"] for each in made if each["kind"] == "Role"}
    assert roles == {"a", "b", SPACE}
    (operator,) = [each for each in made if each["kind"] == "Deployment"]
    args = operator["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--namespace=a", "--namespace=b"} <= set(args)


@pytest.mark.parametrize(
    "value", ["replicas=0", "watchNamespace=a", "image.digest=abc", "gpuPools.L4=many", "port=0"]
)
def test_a_value_that_makes_no_sense_is_refused(cluster: Cluster, value: str) -> None:
    with pytest.raises(
        CommandFailed, match=value.split("=", maxsplit=1)[0].split(".", maxsplit=1)[0]
    ):
        rendered(cluster, value)


def test_admin_edit_and_view_reach_services_and_never_their_status(
    cluster: Cluster, namespace: str
) -> None:
    crds = str(CHART / "files/crds")
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", crds)
    roles = [each for each in rendered(cluster) if each["kind"] == "ClusterRole"]
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(roles))
    for role in ("view", "edit", "admin"):
        cluster.kubectl("create", "rolebinding", f"a-{role}", "-n", namespace,
                        f"--clusterrole={role}", f"--user=a-{role}")  # fmt: skip

    def may(role: str, verb: str, what: str) -> bool:
        kind, _, part = what.partition("/")
        asked = ("auth", "can-i", verb, kind, f"--subresource={part}", "-n", namespace)
        try:
            return cluster.kubectl(*asked, "--as", f"a-{role}").strip() == "yes"
        except CommandFailed:
            return False

    eventually(lambda: may("edit", "create", "llmservices"), 30, "roles are aggregated")
    for role, writes in (("view", False), ("edit", True), ("admin", True)):
        assert may(role, "get", "llmservices")
        assert may(role, "get", "engineprofiles")
        for verb, what in (("create", "llmservices"), ("patch", "llmservices/scale")):
            assert may(role, verb, what) is writes
        assert not may(role, "patch", "llmservices/status")
    cluster.kubectl("delete", "-f", "-", input=yaml.safe_dump_all(roles))


def test_crds_that_nobody_holds_are_left_alone_until_they_are_given_to_the_release(
    cluster: Cluster, space: str, tmp_path: Path
) -> None:
    for name in CRDS:
        cluster.kubectl("delete", "crd", name, "--ignore-not-found", "--timeout=60s")
    cluster.kubectl("create", "-f", str(former(tmp_path) / "files/crds"))
    asked = ("upgrade", "--install", "own", str(CHART), "-n", space, "--set=rbac.aggregate=false")
    told = cluster.helm(*asked)
    assert "left as they are" in told
    assert not revision_is_known(cluster)

    cluster.kubectl("label", "crd", *CRDS, "app.kubernetes.io/managed-by=Helm")
    cluster.kubectl("annotate", "crd", *CRDS, "meta.helm.sh/release-name=own",
                    f"meta.helm.sh/release-namespace={space}")  # fmt: skip
    told = cluster.helm(*asked, "--force-conflicts")
    assert "left as they are" not in told
    assert revision_is_known(cluster)
    cluster.helm("uninstall", "own", "-n", space, "--wait")
    assert revision_is_known(cluster)


def test_every_value_is_explained_and_known_to_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    page = (ROOT / "docs/install.md").read_text()
    explained = [line for line in page.splitlines() if line.startswith("| `")]
    for name, value in values.items():
        assert any(f"`{name}`" in line or f"`{name}." in line for line in explained), name
        known = schema["properties"][name]
        known = schema["definitions"][known["$ref"].split("/")[-1]] if "$ref" in known else known
        if "properties" in known:
            assert set(value) == set(known["properties"]), name
    assert set(values) == set(schema["properties"]) - {"global"}


def test_the_image_is_given_all_that_the_wheel_packs_and_is_not_root() -> None:
    steps = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines() if line]
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {
        each
        for step in steps
        if step[0] == "COPY" and not step[1].startswith("--")
        for each in step[1:-1]
    }
    assert {*packed, "requirements.lock", "pyproject.toml"} <= copied
    assert {f"!{each}" for each in copied} == {line for line in sent if line.startswith("!")}
    (user,) = [step[1] for step in steps if step[0] == "USER"]
    assert all(int(part) > 0 for part in user.split(":"))


def test_the_tests_hook_asks_the_operator_whether_it_is_ready(
    cluster: Cluster, node: Node, space: str
) -> None:
    """Its program is run here, for this node resolves no names of Services."""
    cluster.helm("install", "hook", str(CHART), "-n", space, "--set=replicas=1",
                 "--wait=legacy", "--timeout=120s")  # fmt: skip
    (test,) = [
        each
        for each in rendered(cluster)
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    ]
    cluster.kubectl("apply", "--dry-run=server", "-n", space, "-f", "-", input=json.dumps(test))
    _, _, program, _ = test["spec"]["containers"][0]["command"]
    (pod,) = cluster.items("pods", space, "app.kubernetes.io/component=operator")
    url = f"http://{pod['status']['podIP']}:8080/readyz"
    done = subprocess.run(
        ["python3", "-c", program, url], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.startswith("200")
    cluster.helm("uninstall", "hook", "-n", space, "--wait")
    assert not cluster.items("pods", space, f"{ROLE}=router")
