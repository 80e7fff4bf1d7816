"""`kubectl whaleflux plan`: the manifest's own question, beside what is in force."""

import json

import yaml

from controller.api import parse_service
from tests.controller.cli.kubectl.fake_cluster import FakeCluster


def test_the_manifest_is_planned_for_and_compared(cluster: FakeCluster) -> None:
    cluster.add_service()
    found = json.loads(cluster.run("plan", "chat", "-o", "json").output)
    assert found["best"]["gpu"] == "L4"
    assert found["best"]["maxNumSeqs"] == 16
    assert found["workload"]["requestsPerSecond"] == 2.0
    assert found["comparison"]["running"]["maxNumBatchedTokens"] == 2048
    (note,) = found["workload"]["notes"]
    assert "give --rate 2.00" in note


def test_another_rate_and_nothing_in_force(cluster: FakeCluster) -> None:
    cluster.add_service(
        spec={"placement": {"gpu": "L4", "profile": "mine"}}, status={"configuration": None}
    )
    found = json.loads(cluster.run("plan", "chat", "--rate", "40", "-o", "json").output)
    assert found["workload"]["requestsPerSecond"] == 40.0
    assert "comparison" not in found
    assert "EngineProfile mine" in found["workload"]["notes"][0]


def test_the_yaml_is_the_manifest_with_what_was_found_pinned(cluster: FakeCluster) -> None:
    cluster.add_service(spec={"placement": {"gpus": [{"gpu": "L4"}], "priority": 3}})
    manifest = yaml.safe_load(cluster.run("plan", "chat", "-o", "yaml").output)
    spec = parse_service(manifest, "the plan").spec
    assert (spec.placement.gpu, spec.placement.priority) == ("L4", 3)
    assert spec.engine.type == "emulated"
    assert spec.engine.max_num_batched_tokens is not None
    assert spec.scaling is not None
    assert spec.scaling.max == 4


def test_the_table_says_what_runs_now(cluster: FakeCluster) -> None:
    cluster.add_service()
    text = cluster.run("plan", "chat").output
    assert "now: " in text
    assert "flags: " in text
