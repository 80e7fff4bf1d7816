"""`kubectl whaleflux explain`: wanted, decided, conditions with mends, replicas, events."""

import json

import pytest

from profiler.errors import Refused
from tests.controller.cli.kubectl.fake_cluster import FakeCluster, a_condition, an_event


def test_the_story_is_told_in_order(cluster: FakeCluster) -> None:
    cluster.add_service()
    cluster.add_pod("chat-1", "serving")
    cluster.add_pod("chat-2", "standby")
    cluster.events = [
        an_event("2026-11-21T00:02:00.000000Z", "Later", "the second"),
        an_event("2026-11-21T00:01:00.000000Z", "Sooner", "the first"),
        an_event("2026-11-21T00:03:00.000000Z", "Other", "a pod's", regarding={"kind": "Pod"}),
    ]
    text = cluster.run("explain", "chat").output
    parts = (
        "team/chat", "1 to 4 serving replicas, 1 standby", "95 % of requests within TTFT 1000 ms",
        "decided: 1 serving + 1 standby", "DemandRising", "\nconditions\n", "✓ Ready",
        "\nconfiguration\n", "\n8.00 req/s a replica", "why: it carries", "\nreplicas\n",
        "chat-1: Serving, node-1", "chat-2: Standby, node-1", "\nevents, ", "Sooner: the first",
        "Later: the second",
    )  # fmt: skip
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "a pod's" not in text


def test_what_is_false_comes_with_its_mend(cluster: FakeCluster) -> None:
    conditions = [
        a_condition("Ready", "False", "NoRoom", "0 of 1 replicas serve"),
        a_condition("Observed", "False", "SignalsMissing", "no fresh signals: scaling holds"),
        a_condition("Predicted", "Unknown", "TooLittleSeen", "no forecast is old enough"),
    ]
    cluster.add_service(status={"conditions": conditions})
    text = cluster.run("explain", "chat").output
    assert "✗ Ready: fewer replicas serve than are needed" in text
    assert "NoRoom: 0 of 1 replicas serve" in text
    assert "mend: let the operator's Pod reach port 8000" in text
    assert "? Predicted: not known whether" in text


def test_a_replica_that_does_not_run_says_why_and_what_mends_it(cluster: FakeCluster) -> None:
    cluster.add_service()
    unscheduled = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes: 3 Insufficient nvidia.com/gpu",
    }  # fmt: skip
    cluster.add_pod("chat-1", "standby", ready=False, conditions=[unscheduled])
    (replica,) = json.loads(cluster.run("explain", "chat", "-o", "json").output)["replicas"]
    assert replica["phase"] == "Starting"
    assert replica["trouble"].startswith("Unschedulable: 0/3 nodes")
    assert "add nodes of this GPU type" in replica["trouble"]


def test_json_has_every_part(cluster: FakeCluster) -> None:
    cluster.add_service()
    found = json.loads(cluster.run("explain", "chat", "-o", "json").output)
    assert list(found) == [
        "namespace", "name", "wanted", "lastDecision", "conditions", "configuration", "endpoint",
        "replicas", "events",
    ]  # fmt: skip
    assert found["conditions"][0]["says"] == "enough replicas serve"
    assert found["configuration"]["maxNumSeqs"] == 16


def test_only_the_newest_events_and_none_when_so_asked(cluster: FakeCluster) -> None:
    cluster.add_service()
    cluster.events = [an_event(f"2026-11-21T00:0{i}:00Z", f"R{i}", "n") for i in range(5)]
    told = json.loads(cluster.run("explain", "chat", "--events", "2", "-o", "json").output)
    assert [event["reason"] for event in told["events"]] == ["R3", "R4"]
    none = json.loads(cluster.run("explain", "chat", "--events", "0", "-o", "json").output)
    assert none["events"] == []


def test_a_service_without_operator_or_objective_says_so(cluster: FakeCluster) -> None:
    cluster.add_service(spec={"slo": {}, "scaling": None, "replicas": 0})
    cluster.services["team", "chat"]["status"] = {}
    text = cluster.run("explain", "chat").output
    assert "0 serving replicas, given by hand" in text
    assert "no objective" in text
    assert "has not read the latest spec" in text
    assert "no operator has seen this service" in text


def test_a_missing_service_is_one_line(cluster: FakeCluster) -> None:
    with pytest.raises(Refused, match="service chat: there is no such LLMService in namespace x"):
        cluster.run("explain", "chat", "-n", "x")
