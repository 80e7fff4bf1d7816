"""Every panel and every rule has something to show: a real Prometheus over a service under load.

The scrape configuration is the one that `docs/monitor.md` tells; the rules and dashboards are those
that the chart carries. Debian's Prometheus is built without Kubernetes' discovery, so a file tells
it the same labels. There is no GPU, so a small page stands in for DCGM's exporter and names the
engines' Pods.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import aiohttp
import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.clock import wall_s
from e2e.harness.processes import free_port
from e2e.harness.prometheus import needs_prometheus, prometheus
from e2e.harness.wait import NotInTime, eventually
from e2e.test_loop import CHART, EXAMPLE, condition, pods, router_url, send, service
from monitor.sources.prometheus import Prometheus
from profiler.errors import WhaleFluxError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.harness.cluster import Cluster
    from e2e.harness.node import Node

Json = dict[str, Any]

ROOT = Path(__file__).parents[1]
FILES = CHART / "files"
SCRAPE = "2s"
RELEASE, OPERATOR_NAMESPACE, NAMESPACE = "obs", "whaleflux-obs", "observed"
RATE_RPS = 3.0
"""Of 256 + 64 tokens: well within what one replica carries."""
IN_GRAFANA = {
    "$__rate_interval": "1m", '"$namespace"': f'"{NAMESPACE}"', '"$service"': '"chat"',
}  # fmt: skip
"""What Grafana puts in place of its variables."""

pytestmark = needs_prometheus


class Dcgm(Collector):
    """What a DCGM exporter with Kubernetes mapping would publish: a sound GPU per Pod."""

    FIGURES: ClassVar = {
        "DCGM_FI_DEV_GPU_UTIL": 62, "DCGM_FI_DEV_FB_USED": 38_000, "DCGM_FI_DEV_FB_FREE": 7_000,
        "DCGM_FI_DEV_GPU_TEMP": 58, "DCGM_FI_DEV_POWER_USAGE": 210.5, "DCGM_FI_DEV_SM_CLOCK": 2490,
        "DCGM_FI_DEV_XID_ERRORS": 0, "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": 0,
        "DCGM_FI_DEV_ROW_REMAP_FAILURE": 0, "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": 0,
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": 4, "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.21,
        "DCGM_FI_PROF_DRAM_ACTIVE": 0.44,
    }  # fmt: skip

    def __init__(self) -> None:
        self.pods: tuple[str, ...] = ()
        self.address = f"127.0.0.1:{free_port()}"

    def collect(self) -> Iterator[Metric]:
        for name, value in self.FIGURES.items():
            family = GaugeMetricFamily(name, name, labels=["gpu", "UUID", "namespace", "pod"])
            for index, pod in enumerate(self.pods):
                family.add_metric([str(index), f"GPU-{index}", NAMESPACE, pod], value)
            yield family

    @contextmanager
    def served(self) -> Iterator[None]:
        registry = CollectorRegistry()
        registry.register(self)
        host, port = self.address.split(":")
        server, thread = start_http_server(int(port), host, registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@dataclass(frozen=True, slots=True)
class Observed:
    """A loaded service, and the Prometheus that watches it."""

    url: str

    def get(self, path: str) -> Json:
        async def ask() -> Json:
            async with aiohttp.ClientSession() as http, http.get(f"{self.url}{path}") as answer:
                found: Json = await answer.json()
                return found

        return asyncio.run(ask())

    def values(self, expressions: list[str]) -> list[list[float]]:
        """What each gives now; NaN is nothing."""

        async def ask() -> list[list[float]]:
            async with aiohttp.ClientSession() as http:
                source, now_s = Prometheus(http, self.url), wall_s()
                answers = [await source.instant_query(expr, now_s) for expr in expressions]
            return [[s.value for s in a.samples if not math.isnan(s.value)] for a in answers]

        return asyncio.run(ask())

    def empty(self, expressions: dict[str, str]) -> list[str]:
        """Names of those that give nothing."""
        values = self.values(list(expressions.values()))
        return [name for name, found in zip(expressions, values, strict=True) if not found]


class Discovery:
    """What Kubernetes' discovery of the role `pod` tells Prometheus: a target per port."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self.file = folder / "pods.json"
        self.look()

    def look(self) -> None:
        """Tell of the Pods that there are now."""
        targets = [
            target
            for namespace in (OPERATOR_NAMESPACE, NAMESPACE)
            for pod in self._cluster.items("pods", namespace)
            if pod["status"].get("podIP")
            for target in self._targets(pod)
        ]
        written = self.file.with_suffix(".new")
        written.write_text(json.dumps(targets))
        written.rename(self.file)  # Prometheus never reads half of it

    def _targets(self, pod: Json) -> Iterator[Json]:
        meta, prefix = pod["metadata"], "__meta_kubernetes"
        labels = {f"{prefix}_namespace": meta["namespace"], f"{prefix}_pod_name": meta["name"]}
        for key, value in meta.get("labels", {}).items():
            labels[f"{prefix}_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', key)}"] = value
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", ()):
                name = {f"{prefix}_pod_container_port_name": port.get("name", "")}
                address = f"{pod['status']['podIP']}:{port['containerPort']}"
                yield {"targets": [address], "labels": {**labels, **name}}


def scrape_configs(found: Path, dcgm: Dcgm) -> list[Json]:
    """The documented ones, with Pods found in a file, and the stand-in for DCGM's exporter.

    That one is scraped as Prometheus does by default: its own labels are renamed.
    """
    page = (ROOT / "docs" / "monitor.md").read_text(encoding="utf-8")
    jobs: list[Json] = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["scrape_configs"]
    for job in jobs:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job["file_sd_configs"] = [{"files": [str(found)], "refresh_interval": SCRAPE}]
    of_exporter = {"namespace": "gpu-operator", "pod": "dcgm-exporter-1"}
    targets = [{"targets": [dcgm.address], "labels": of_exporter}]
    return [*jobs, {"job_name": "dcgm", "static_configs": targets}]


@contextmanager
def loaded(url: str) -> Iterator[None]:
    """Keep a little load on a router."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            send(url, RATE_RPS, duration_s=5.0, stream=True)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def operator(cluster: Cluster) -> Iterator[None]:
    """The chart, installed under a name of its own; the CRDs are there before."""
    where = ("-n", OPERATOR_NAMESPACE)
    crds = ("--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    cluster.kubectl("apply", *crds)
    cluster.kubectl("wait", "-f", str(ROOT / "crds"), "--for=condition=Established")
    cluster.helm(
        "install", RELEASE, str(CHART), *where, "--create-namespace", "--wait=legacy",
        "--timeout=120s", "--set=crds.enabled=false",
    )  # fmt: skip
    try:
        yield
    finally:
        cluster.helm("uninstall", RELEASE, *where, "--wait")


@contextmanager
def served(cluster: Cluster) -> Iterator[None]:
    """The example service, in a namespace of its own."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        cluster.kubectl("apply", "-n", NAMESPACE, "-f", str(EXAMPLE))
        wait = ("wait", "-n", NAMESPACE, "llms/chat", "--for=condition=Ready", "--timeout=180s")
        cluster.kubectl(*wait)
        yield
        cluster.kubectl("delete", "-n", NAMESPACE, "llms/chat", "--timeout=60s")
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def observed(
    cluster: Cluster, node: Node, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    """Yielded once every panel and recording shows something, or after four minutes."""
    dcgm, folder = Dcgm(), tmp_path_factory.mktemp("dashboards")
    with ExitStack() as stack:
        stack.enter_context(dcgm.served())
        stack.enter_context(operator(cluster))
        found = Discovery(cluster, folder)
        jobs = scrape_configs(found.file, dcgm)
        rules = [FILES / "rules.yaml"]
        seen = Observed(stack.enter_context(prometheus(jobs, folder, SCRAPE, rules)))
        leads = {"leads": "whaleflux_leader == 1"}
        eventually(lambda: not seen.empty(leads), 60, "a scrape of the operator that leads")
        stack.enter_context(served(cluster))
        stack.enter_context(loaded(router_url(cluster, NAMESPACE)))
        dcgm.pods = tuple(eventually(partial(engines, cluster), 60, "a replica and its standby"))

        def shown() -> bool:
            found.look()
            missing = seen.empty({**panels(), **recordings()})
            if missing:
                raise AssertionError(missing)
            return True

        with suppress(NotInTime):  # the tests name what is missing
            eventually(shown, 240, "something in every panel", every_s=4.0)
        yield seen


def engines(cluster: Cluster) -> list[str]:
    serving, standby = (pods(cluster, NAMESPACE, role) for role in ("serving", "standby"))
    return [*serving, *standby] if serving and standby else []


def panels() -> dict[str, str]:
    """Every expression of every panel, as Grafana would ask it."""
    found = {}
    for file in sorted((FILES / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                expr = target["expr"]
                for variable, value in IN_GRAFANA.items():
                    expr = expr.replace(variable, value)
                found[f"{file.stem}: {panel['title']}: {target['refId']}"] = expr
    return found


def rules(kind: str) -> dict[str, str]:
    made = yaml.safe_load((FILES / "rules.yaml").read_text(encoding="utf-8"))
    every = (rule for group in made["groups"] for rule in group["rules"])
    return {rule[kind]: rule["expr"] for rule in every if kind in rule}


def recordings() -> dict[str, str]:
    """What is asked for a recording is what it recorded."""
    return {name: name for name in rules("record")}


def test_every_panel_shows_something(observed: Observed) -> None:
    asked = panels()
    empty = observed.empty(asked)
    print(f"{len(asked)} expressions of panels, {len(empty)} empty")
    assert not empty


def test_every_recording_rule_records_something(observed: Observed) -> None:
    asked = recordings()
    empty = observed.empty(asked)
    print(f"{len(asked)} recordings, {len(empty)} empty")
    assert not empty


def test_every_rule_is_evaluated_without_an_error(observed: Observed) -> None:
    groups = observed.get("/api/v1/rules")["data"]["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert health.keys() == rules("record").keys() | rules("alert").keys()
    assert set(health.values()) == {"ok"}


def test_no_alert_fires_for_a_service_that_is_well(cluster: Cluster, observed: Observed) -> None:
    told = condition(service(cluster, NAMESPACE), "Ready")
    assert told["status"] == "True"
    alerts = observed.get("/api/v1/alerts")["data"]["alerts"]
    firing = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
    assert not firing


def test_an_expression_with_a_mistake_would_be_noticed(observed: Observed) -> None:
    with pytest.raises(WhaleFluxError):
        observed.values(["sum by (namespace (x)"])
    assert observed.empty({"absent": "whaleflux_no_such_series"}) == ["absent"]
