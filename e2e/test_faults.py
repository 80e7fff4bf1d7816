"""The operator among faults: nothing lost, no wrong scale-in, no healthy engine started anew.

On a control plane of its own, for it is stopped, slowed and made to forget.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import threading
import time
import urllib.request
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from controller.clock import monotonic_s
from e2e.conftest import control_plane
from e2e.harness.hostile import create_all, hostile_specs
from e2e.harness.operators import OperatorProcess, operators
from e2e.harness.wait import eventually
from e2e.test_loop import EXAMPLE, condition, pods, service
from profiler.measure import Status, Target, open_session, replay
from profiler.trace import Lengths, poisson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.harness.cluster import Cluster
    from e2e.harness.node import Node
    from profiler.measure import Outcome

Json = dict[str, Any]
ROLE = "serving.whaleflux.io/role"
METRICS_GONE_S = 300.0


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """A control plane that notices lost nodes soon."""
    flags = ("--node-monitor-grace-period=10s", "--node-monitor-period=2s")
    with control_plane(controller_flags=flags) as running:
        running.add_node("n1", gpus=8, gpu_product="NVIDIA-L40S", backoff_s=1, heartbeat_s=3)
        yield running


@pytest.fixture(scope="module")
def pair(own: Cluster) -> Iterator[list[OperatorProcess]]:
    """Two operators that share a Lease."""
    with operators(own, "faults", "a", "b") as made:
        yield made


@pytest.fixture
def space(own: Cluster) -> Iterator[str]:
    name = f"faults-{secrets.token_hex(3)}"
    own.kubectl("create", "namespace", name)
    yield name
    own.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


def apply(cluster: Cluster, namespace: str, *, replicas: int | None = 2, **spec: Any) -> None:
    manifest = yaml.safe_load(EXAMPLE.read_text())
    if replicas is not None:
        del manifest["spec"]["scaling"]
        manifest["spec"]["replicas"] = replicas
    manifest["spec"] |= spec
    cluster.apply(namespace, manifest)


def serves(cluster: Cluster, namespace: str, count: int, timeout_s: float = 90) -> None:
    eventually(
        lambda: len(pods(cluster, namespace, "serving")) == count, timeout_s, f"{count} serve"
    )


def settled(cluster: Cluster, namespace: str, serving: int, standby: int) -> bool:
    """Exactly the replicas that are wanted, all ready, none ending."""
    engines = cluster.items("pods", namespace, "app.kubernetes.io/component=engine")
    return (
        len(engines) == serving + standby
        and len(pods(cluster, namespace, "serving")) == serving
        and len(pods(cluster, namespace, "standby")) == standby
    )


def identities(cluster: Cluster, namespace: str) -> dict[str, str]:
    """Name and uid of each engine."""
    engines = cluster.items("pods", namespace, "app.kubernetes.io/component=engine")
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in engines}


def router(cluster: Cluster, namespace: str) -> str:
    eventually(lambda: len(pods(cluster, namespace, "router")) == 2, 60, "two routers")
    found = cluster.items("pods", namespace, f"{ROLE}=router")
    return f"http://{found[0]['status']['podIP']}:8000"


@contextmanager
def traffic(url: str, rate_rps: float) -> Iterator[list[Outcome]]:
    """Requests in the background until the block ends; what became of them is in the list."""
    outcomes: list[Outcome] = []
    stop = threading.Event()

    async def burst(seed: int) -> tuple[Outcome, ...]:
        trace = poisson(rate_rps, 2.0, Lengths.fixed(256, 32), np.random.default_rng(seed))
        async with open_session(None) as session:
            target = Target(url, "llama-3.1-8b", stream=True, timeout_s=60)
            return await replay(session, target, trace, monotonic_s)

    def run() -> None:
        seed = 0
        while not stop.is_set():
            outcomes.extend(asyncio.run(burst(seed)))
            seed += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        thread.join()


def lost(outcomes: list[Outcome]) -> list[Outcome]:
    assert outcomes, "nothing was asked"
    return [outcome for outcome in outcomes if outcome.status is not Status.OK]


def leader(pair: list[OperatorProcess]) -> OperatorProcess:
    return eventually(lambda: [one for one in pair if one.leads], 60, "a leader")[0]


def etcd(cluster: Cluster, path: str, body: Json) -> Json:
    """Ask etcd itself, through its JSON gateway."""
    url = f"{cluster.etcd_url}/v3/kv/{path}"
    asked = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(asked, timeout=10) as answer:
        found: Json = json.loads(answer.read())
        return found


def test_a_minute_without_an_api_server_costs_no_request_and_no_engine(
    own: Cluster, pair: list[OperatorProcess], space: str
) -> None:
    apply(own, space)
    eventually(lambda: settled(own, space, 2, 1), 90, "two serve, one stands by")
    before, url = identities(own, space), router(own, space)
    with traffic(url, 4.0) as outcomes:
        own.stop_apiserver(kill=True)
        time.sleep(60)
        own.start_apiserver()
        eventually(lambda: any(one.leads for one in pair), 60, "an operator leads again")
        own.kubectl("scale", "-n", space, "llms/chat", "--replicas=3")
        eventually(lambda: settled(own, space, 3, 1), 90, "a change is acted on")
    assert not lost(outcomes)
    assert before.items() <= identities(own, space).items()
    for one in pair:  # who lost the lease meanwhile ended, as a Pod would: start it anew
        if not one.alive:
            one.start()


def test_a_history_that_etcd_forgot_is_listed_anew(
    own: Cluster, pair: list[OperatorProcess], space: str
) -> None:
    apply(own, space, replicas=1)
    eventually(lambda: settled(own, space, 1, 1), 90, "one serves, one stands by")
    before, first = identities(own, space), leader(pair)
    restarts = first.metric("whaleflux_watch_restarts_total")
    own.stop_apiserver(kill=True)
    first.freeze()  # it must not see what comes, and wakes up with an old version
    try:
        own.start_apiserver()
        for i in range(20):
            own.kubectl("label", "-n", space, "pods", "--all", f"round={i}", "--overwrite")
        revision = etcd(own, "range", {"key": "AA=="})["header"]["revision"]
        etcd(own, "compaction", {"revision": revision, "physical": True})
        own.stop_apiserver(kill=True)
        own.start_apiserver()
    finally:
        first.thaw()
    own.kubectl("scale", "-n", space, "llms/chat", "--replicas=2")
    eventually(lambda: settled(own, space, 2, 1), 120, "a change is acted on")
    assert before.items() <= identities(own, space).items()
    if first.alive:
        assert first.metric("whaleflux_watch_restarts_total") > restarts
    else:  # it had lost the lease, and another took over
        first.start()


def test_a_frozen_leader_writes_nothing_once_another_leads(
    own: Cluster, pair: list[OperatorProcess], space: str
) -> None:
    """From the audit log: no write of the first after the first write of the second."""
    apply(own, space, replicas=1)
    eventually(lambda: settled(own, space, 1, 1), 90, "one serves, one stands by")
    eventually(lambda: all(one.alive for one in pair), 10, "both run")
    first = leader(pair)
    (second,) = [one for one in pair if one is not first]
    own.kubectl("scale", "-n", space, "llms/chat", "--replicas=2")
    first.freeze()
    eventually(lambda: second.leads, 60, "the other one leads")
    eventually(lambda: settled(own, space, 2, 1), 90, "and finishes what was begun")
    first.thaw()
    eventually(lambda: not first.alive, 30, "the first one ends")
    writes = sorted(_writes(own, space))
    agents = list(dict.fromkeys(agent for _, agent in writes))
    turns = [agent for i, (_, agent) in enumerate(writes) if i == 0 or writes[i - 1][1] != agent]
    assert turns == agents, "they took turns: two writers at once"
    first.start()


def _writes(cluster: Cluster, namespace: str) -> Iterator[tuple[str, str]]:
    """When, and by which operator, something of a namespace was written."""
    for event in cluster.audited():
        told = event.get("objectRef", {})
        if (
            event.get("userAgent", "").startswith("whaleflux/")
            and event["verb"] in ("create", "patch", "update", "delete")
            and told.get("namespace") == namespace
            and event.get("responseStatus", {}).get("code", 500) < 300
        ):
            yield event["requestReceivedTimestamp"], event["userAgent"]


def test_killed_in_the_middle_of_any_action_it_goes_on_where_it_was(
    own: Cluster, pair: list[OperatorProcess], space: str
) -> None:
    apply(own, space, replicas=1)
    eventually(lambda: settled(own, space, 1, 1), 90, "one serves, one stands by")
    rng = random.Random(5)
    steps = (
        ("scale", 3), ("scale", 1), ("roll", 28), ("scale", 2), ("roll", 20), ("scale", 1),
    )  # fmt: skip
    wanted = 1
    with traffic(router(own, space), 2.0) as outcomes:
        for kind, value in steps:
            before = identities(own, space)
            stays = identities(own, space) if kind == "scale" and value > wanted else {}
            if kind == "scale":
                wanted = value
                own.kubectl("scale", "-n", space, "llms/chat", f"--replicas={value}")
            else:
                patch = json.dumps({"spec": {"engine": {"maxNumSeqs": value}}})
                own.kubectl("patch", "-n", space, "llms/chat", "--type=merge", "-p", patch)
            time.sleep(rng.uniform(0.0, 1.5))  # somewhere in the middle
            for one in pair:
                one.kill()
            for one in pair:
                one.start()
            gone = set(before.values()) if kind == "roll" else set()
            eventually(partial(_renewed, own, space, wanted, gone), 150, f"{kind} {value} done")
            assert stays.items() <= identities(own, space).items(), "an engine was started anew"
    assert not lost(outcomes)


def _renewed(cluster: Cluster, namespace: str, wanted: int, gone: set[str]) -> bool:
    """As many as are wanted, and none of those that are to be replaced."""
    settled_now = settled(cluster, namespace, wanted, 1)
    return settled_now and not gone & set(identities(cluster, namespace).values())


def test_a_user_who_edits_what_is_ours_is_put_right(
    own: Cluster, pair: list[OperatorProcess], space: str
) -> None:
    apply(own, space, replicas=2)
    eventually(lambda: settled(own, space, 2, 1), 90, "two serve, one stands by")
    before, name = identities(own, space), pods(own, space, "serving")[0]
    own.kubectl("label", "-n", space, "pod", name, f"{ROLE}=standby", "--overwrite")
    eventually(lambda: settled(own, space, 2, 1), 30, "two serve again")
    own.kubectl("delete", "-n", space, "deployment/chat-router", "--wait=false")
    own.kubectl("delete", "-n", space, "service/chat")
    for kind in ("deployment/chat-router", "service/chat"):
        eventually(partial(own.kubectl, "get", "-n", space, kind), 30, f"{kind} is back")
    own.kubectl("scale", "-n", space, "deployment/chat-router", "--replicas=0")
    eventually(lambda: len(pods(own, space, "router")) == 2, 60, "two routers again")
    assert identities(own, space) == before


def test_a_slow_api_server_is_waited_for(
    own: Cluster, pair: list[OperatorProcess], space: str
) -> None:
    apply(own, space, replicas=1)
    eventually(lambda: settled(own, space, 1, 1), 90, "one serves, one stands by")
    before = identities(own, space)
    with own.slow_apiserver(stopped_s=0.8, runs_s=0.2):
        own.kubectl("scale", "-n", space, "llms/chat", "--replicas=3")
        time.sleep(20)
    eventually(lambda: settled(own, space, 3, 1), 120, "three serve, and no more were started")
    assert before.items() <= identities(own, space).items()


def test_signals_that_are_gone_for_five_minutes_at_the_peak_give_nothing_up(
    own: Cluster, pair: list[OperatorProcess], space: str
) -> None:
    engine = yaml.safe_load(EXAMPLE.read_text())["spec"]["engine"]
    args = [*engine["args"], "--enable-faults"]
    apply(
        own, space, replicas=None, engine=engine | {"args": args},
        scaling={"min": 1, "max": 3}, resilience={"standbys": 0},
    )  # fmt: skip
    serves(own, space, 1)
    with traffic(router(own, space), 14.0):
        eventually(lambda: len(pods(own, space, "serving")) >= 2, 120, "scale-out")
    before = pods(own, space, "serving")
    _inject(own, space, "metrics_gone")
    until_s = time.monotonic() + METRICS_GONE_S
    while time.monotonic() < until_s:
        assert set(before) <= set(pods(own, space, "serving")), "scale-in without signals"
        time.sleep(5)
    blind = condition(service(own, space), "Observed")
    assert (blind["status"], blind["reason"]) == ("False", "SignalsMissing")
    _inject(own, space, "clear")
    serves(own, space, 1, 180)


def _inject(cluster: Cluster, namespace: str, kind: str) -> None:
    for pod in cluster.items("pods", namespace, f"{ROLE}=serving"):
        url = f"http://{pod['status']['podIP']}:8000/faults"
        body, head = json.dumps({"kind": kind}).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, head), timeout=5):
            pass


def test_a_lost_node_costs_the_time_of_a_label_and_is_refilled_elsewhere(
    own: Cluster, pair: list[OperatorProcess], space: str
) -> None:
    second: Node = own.add_node("n2", gpus=8, gpu_product="NVIDIA-L40S", backoff_s=1, heartbeat_s=3)
    apply(own, space, replicas=2)
    eventually(lambda: settled(own, space, 2, 1), 90, "two serve, one stands by")
    on = {
        pod["metadata"]["name"]: pod["spec"]["nodeName"]
        for pod in own.items("pods", space, "app.kubernetes.io/component=engine")
    }
    assert set(on.values()) == {"n1", "n2"}, "replicas are spread"
    gone = {name for name, where in on.items() if where == "n2"}
    second.stop(kill=True)
    eventually(
        lambda: len(set(pods(own, space, "serving")) - gone) == 2, 120, "two serve elsewhere"
    )
    own.kubectl("delete", "node", "n2")
    eventually(lambda: settled(own, space, 2, 1), 120, "and one stands by")
    assert not gone & set(identities(own, space))


def test_ten_thousand_hostile_objects_harm_nobody_else(
    own: Cluster, pair: list[OperatorProcess], space: str
) -> None:
    apply(own, space, replicas=1)
    eventually(lambda: settled(own, space, 1, 1), 90, "one serves, one stands by")
    before = identities(own, space)
    folder = f"{space}-hostile"
    own.kubectl("create", "namespace", folder)
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }  # fmt: skip
    own.apply(folder, quota)
    try:
        accepted = create_all(own, folder, hostile_specs(10_000, seed=3))
        assert 0 < accepted < 2_000, "the schema stops most of them, and some get through"
        eventually(
            lambda: all(_answered(each) for each in own.items("llms", folder)), 400,
            "each one that got through has a condition", 2.0,
        )  # fmt: skip
        own.kubectl("scale", "-n", space, "llms/chat", "--replicas=2")
        eventually(lambda: settled(own, space, 2, 1), 60, "the healthy one is looked after")
        assert before.items() <= identities(own, space).items()
        assert any(one.leads for one in pair)
        for one in pair:
            assert "its loop failed" not in one.log_file.read_text(), "what is not understood"
    finally:
        own.kubectl("delete", "namespace", folder, "--wait=false")


def _answered(item: Json) -> bool:
    kinds = {c["type"] for c in item.get("status", {}).get("conditions", [])}
    return "Accepted" in kinds
