"""`whaleflux allocate`: services and a fleet in, placements and what binds out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from controller.api.fleet import read_fleet
from controller.cli import build_app
from profiler.errors import Refused

SERVICES = """
apiVersion: serving.whaleflux.io/v1alpha1
kind: LLMService
metadata: {name: NAME}
spec:
  model: {uri: meta-llama/Llama-3.2-1B-Instruct}
  engine: {maxNumSeqs: 32, maxNumBatchedTokens: 2048, pipelineParallelSize: 1}
  slo: {ttftMs: 2000, itlMs: 60}
  workload: {requestsPerSecond: "20", inputTokens: 256, outputTokens: 64}
  scaling: {min: 1, max: 20}
  placement: {gpus: [{gpu: L4}, {gpu: L40S}]}
"""
NODES = [
    {"name": "l4", "count": 3, "gpu": "L4", "gpus": 2, "zone": "a", "pricePerHour": "0.8"},
    {"name": "l40s", "gpu": "L40S", "gpus": 2, "zone": "b", "pricePerHour": "1.5"},
]


def files(
    folder: Path, fleet: dict[str, Any], names: tuple[str, ...] = ("chat", "code")
) -> list[str]:
    services, file = folder / "services.yaml", folder / "fleet.yaml"
    services.write_text("---".join(SERVICES.replace("NAME", name) for name in ("chat", "code")))
    file.write_text(yaml.safe_dump(fleet))
    return [str(services), "--fleet", str(file)]


def run(*args: str) -> str:
    result = CliRunner().invoke(build_app("allocate"), ["allocate", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_service_is_placed_on_nodes_of_a_type_that_it_allows(tmp_path: Path) -> None:
    found = json.loads(run(*files(tmp_path, {"nodes": NODES}), "-o", "json"))
    assert {p["service"] for p in found["placements"]} == {"chat", "code"}
    assert found["shortfalls"] == []
    gpu = {"l4-0": "L4", "l4-1": "L4", "l4-2": "L4", "l40s": "L40S"}
    assert all(p["variant"].split()[0] == gpu[p["node"]] for p in found["placements"])
    assert 0 < found["costPerHour"] <= 7.8


def test_what_runs_is_left_where_it_is(tmp_path: Path) -> None:
    asked = files(tmp_path, {"nodes": NODES})
    first = run(*asked, "-o", "json")
    before = tmp_path / "before.json"
    before.write_text(first)
    again = json.loads(run(*asked, "-o", "json", "--running", str(before)))
    assert again["moved"] == 0
    assert again["placements"] == json.loads(first)["placements"]


def test_a_budget_too_small_serves_the_more_important_and_says_what_is_short(
    tmp_path: Path,
) -> None:
    fleet = {"nodes": NODES, "budgetPerHour": "0.9", "services": {"code": {"priority": 5}}}
    found = json.loads(run(*files(tmp_path, fleet), "-o", "json"))
    assert [s["service"] for s in found["shortfalls"]][-1] == "chat"
    assert found["costPerHour"] <= 0.9
    assert all("\n" not in s["because"] and s["because"] for s in found["shortfalls"])


def test_the_table_tells_cost_and_what_binds(tmp_path: Path) -> None:
    text = run(*files(tmp_path, {"nodes": NODES, "services": {"chat": {"minZones": 2}}}))
    assert "an hour, and 0.00 for reserved GPUs" in text
    assert "replicas started or stopped" in text


def test_sharing_is_told_where_replicas_have_room_for_each_other(tmp_path: Path) -> None:
    nodes = [{"name": "big", "gpu": "L40S", "gpus": 8, "pricePerHour": "1"}]
    asked = files(tmp_path, {"nodes": nodes, "services": {"chat": {"priority": 5}}})
    file = Path(asked[0])
    file.write_text(file.read_text().replace('"20"', '"1"'))
    text = run(*asked, "--sharing")
    assert "chat and code may share one L40S" in text
    assert "chat may sleep beside code on L40S: awake in" in text


@pytest.mark.parametrize(
    ("fleet", "told"),
    [
        ({}, "nodes: Field required"),
        ({"nodes": []}, "nodes"),
        ({"nodes": [{"name": "a", "gpu": "L4", "pricePerHour": "-1"}]}, "nodes.0.pricePerHour"),
        ({"nodes": [{"name": "a", "gpu": "L4", "market": "free"}]}, "nodes.0.market"),
        ({"nodes": [{"name": "a", "gpu": "L4", "colour": "red"}]}, "nodes.0.colour"),
        ({"nodes": [{"name": "a", "gpu": "L4"}], "services": {"chat": {"spotPercent": 101}}},
         "services.chat.spotPercent"),
        ({"nodes": [{"name": f"n{i}", "count": 9999, "gpu": "L4"} for i in range(3)]},
         "more than 20000"),
    ],
)  # fmt: skip
def test_a_fleet_that_is_none_is_refused_by_its_field(
    tmp_path: Path, fleet: dict[str, Any], told: str
) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump(fleet))
    with pytest.raises(Refused, match=told) as refused:
        read_fleet(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["[unclosed", "just text", ""])
def test_a_fleet_that_is_no_yaml_of_ours_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(content)
    with pytest.raises(Refused):
        read_fleet(file)
    with pytest.raises(Refused, match="cannot be read"):
        read_fleet(tmp_path / "absent.yaml")


def test_gpus_that_the_fleet_lacks_are_named(tmp_path: Path) -> None:
    asked = files(tmp_path, {"nodes": [{"name": "a", "gpu": "H100-SXM"}]})
    with pytest.raises(Refused, match=r"chat: spec\.placement: the fleet has no node of L4, L40S"):
        run(*asked)


def test_what_ran_must_be_an_allocation(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"placements": [{}]}')
    with pytest.raises(Refused, match=r"--running: .* is no allocation"):
        run(*files(tmp_path, {"nodes": NODES}), "--running", str(wrong))
