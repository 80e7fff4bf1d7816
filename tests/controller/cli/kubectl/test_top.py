"""`kubectl whaleflux top`: every service in a row, the worst first; mistakes in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from controller.api.status import LLMServiceStatus
from controller.cli.kubectl.reading import Seen
from controller.cli.kubectl.top import worst_first
from controller.decide import Numbers, Reason
from controller.decide.types import explain
from profiler.errors import Refused, WhaleFluxError
from tests.controller.cli.kubectl.fake_cluster import FakeCluster, a_condition, a_decided, a_status


def items(cluster: FakeCluster, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cluster.run("top", "-o", "json", *options).output)[
        "items"
    ]
    return found


def test_a_row_holds_what_status_and_spec_say(cluster: FakeCluster) -> None:
    cluster.add_service()
    (row,) = items(cluster)
    age_s = row["lastDecision"].pop("ageSeconds")
    assert age_s > 0
    assert row == {
        "namespace": "team", "name": "chat", "ready": "True", "readyReason": "DemandRising",
        "serving": 1, "servingDesired": 1, "standby": 1, "standbyDesired": 1, "advised": None,
        "forecastRequestsPerSecond": 2.0, "capacityRequestsPerSecond": 8.0,
        "attainmentPercent": 99.0, "objectivePercent": 95, "predictionErrorPercent": 7.0,
        "gpu": "L4",
        "lastDecision": {k: a_status()["lastDecision"][k] for k in ("reason", "message", "time")},
    }  # fmt: skip


def test_the_table_shows_the_same(cluster: FakeCluster) -> None:
    cluster.add_service()
    text = cluster.run("top").output
    row = next(line for line in text.splitlines() if "chat" in line)
    for cell in ("yes", "1/1", "2.00", "8.00", "99 % / 95 %", "7 %", "L4", "DemandRising"):
        assert cell in row


def test_a_service_that_nobody_has_seen_has_no_figures(cluster: FakeCluster) -> None:
    cluster.add_service()
    cluster.services["team", "chat"]["status"] = {}
    (row,) = items(cluster)
    assert (row["ready"], row["serving"], row["lastDecision"]) == ("Unknown", 0, None)
    assert row["forecastRequestsPerSecond"] is row["attainmentPercent"] is None
    assert "–" in cluster.run("top").output


def test_the_worst_comes_first(cluster: FakeCluster) -> None:
    cluster.add_service("a-sound")
    cluster.add_service("b-missed", status={"sloAttainmentPercent": "80"})
    cluster.add_service("c-short", status={"desiredReplicas": 3})
    down = [a_condition("Ready", "False", "NoRoom")]
    cluster.add_service("d-down", status={"conditions": down})
    busy = "(7.90 req/s forecast over 30 s, 8.00 req/s a replica)"
    cluster.add_service("e-busy", status={"lastDecision": a_decided("Steady", busy)})
    names = [row["name"] for row in items(cluster)]
    assert names == ["d-down", "c-short", "b-missed", "e-busy", "a-sound"]


def test_the_contexts_namespace_another_or_all_of_them(cluster: FakeCluster) -> None:
    cluster.add_service("mine")
    cluster.add_service("other", namespace="elsewhere")
    assert [row["name"] for row in items(cluster)] == ["mine"]
    assert [row["name"] for row in items(cluster, "-n", "elsewhere")] == ["other"]
    assert {row["name"] for row in items(cluster, "-A")} == {"mine", "other"}
    assert "elsewhere" in cluster.run("top", "-A").output


def test_the_load_is_read_from_the_sentence_that_decisions_carry() -> None:
    message = explain(1, 0, (Reason.STEADY,), Numbers(2.0, 2.34, 0.0, 4.0, 30.0, 1.0))
    status = LLMServiceStatus.model_validate({"lastDecision": a_decided("Steady", message)})
    assert Seen("team", "chat", "u", 1, {}, status).forecast_rps == 2.34
    assert worst_first([]) == []


def test_no_services_is_said_and_is_no_mistake(cluster: FakeCluster) -> None:
    done = cluster.run("top")
    assert done.exit_code == 0
    assert "no LLMServices found" in done.output


def test_mistakes_are_one_line(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.forbidden = True
    with pytest.raises(WhaleFluxError, match=r"HTTP 403: you may not$"):
        cluster.run("top")
    with pytest.raises(Refused, match="no cluster to talk to"):
        cluster.run("top", "--context", "nowhere")
    cluster.kubeconfig.write_text("{")
    with pytest.raises(Refused, match="no cluster to talk to") as caught:
        cluster.run("top")
    assert "\n" not in str(caught.value)
    cluster.kubeconfig = tmp_path / "absent"
    with pytest.raises(Refused, match="no cluster to talk to"):
        cluster.run("top")


def test_a_cluster_that_does_not_answer_is_one_line(cluster: FakeCluster) -> None:
    text = cluster.kubeconfig.read_text()
    port = text.split("127.0.0.1:")[1].split("\n")[0]
    cluster.kubeconfig.write_text(text.replace(port, "1"))
    with pytest.raises(WhaleFluxError, match=r"kubernetes: GET .*llmservices") as caught:
        cluster.run("top")
    assert "\n" not in str(caught.value)


def test_a_cluster_without_the_crd_is_told_apart(cluster: FakeCluster) -> None:
    text = cluster.kubeconfig.read_text()
    cluster.kubeconfig.write_text(text.replace("server: http://", "server: http://").replace(
        cluster.kubeconfig.read_text().split("server: ")[1].split("\n")[0],
        cluster.kubeconfig.read_text().split("server: ")[1].split("\n")[0] + "/other",
    ))  # fmt: skip
    with pytest.raises(Refused, match="knows no LLMService: install the chart"):
        cluster.run("top")
