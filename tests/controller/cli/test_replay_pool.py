import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from controller.cli.replay_pool import replay_pool
from profiler.errors import Refused

POOL = {"gpu": "L4", "gpus": 3, "asleep": {"wakeMs": 3000}}


def a_service(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "trace": "trace.csv",
        "model": "meta-llama/Llama-3.2-1B-Instruct",
        "engine": {"maxNumSeqs": 32, "maxModelLen": 2048},
        "slo": {"ttftMs": 2000, "itlMs": 100},
        **changes,
    }


def run(folder: Path, *args: str, **scenario: Any) -> str:
    rows = "\n".join(f"{i},256,32" for i in range(60))
    (folder / "trace.csv").write_text(f"arrival_s,input_tokens,output_tokens\n{rows}\n")
    file = folder / "scenario.yaml"
    document = {"pool": POOL, "services": [a_service("chat"), a_service("code")], **scenario}
    file.write_text(yaml.safe_dump(document))
    app = typer.Typer()
    app.command()(replay_pool)
    result = CliRunner().invoke(app, [str(file), *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_service_and_the_pool_are_accounted_for(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "-o", "json"))
    assert [each["service"] for each in found["services"]] == ["chat", "code"]
    assert all(each["requests"] == 60 for each in found["services"])
    assert all(each["attainedRatio"] == 1.0 for each in found["services"])
    assert found["pool"]["peakGpus"] == 2
    used = sum(each["gpuHours"] for each in found["services"])
    assert found["pool"]["usedGpuHours"] == pytest.approx(used, abs=1e-5)


def test_a_service_that_comes_later_has_no_earlier_requests(tmp_path: Path) -> None:
    services = [a_service("chat"), a_service("late", appearsMs=30_000, vanishesMs=50_000)]
    found = json.loads(run(tmp_path, "-o", "json", services=services))
    assert [each["requests"] for each in found["services"]] == [60, 20]


def test_the_table_names_the_services(tmp_path: Path) -> None:
    told = run(tmp_path)
    assert "chat" in told
    assert "2 of 3 GPUs in use at most" in told


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ({"pool": {**POOL, "gpus": 0}}, r"pool\.gpus"),
        ({"services": []}, "services"),
        ({"services": [a_service("chat", colour="red")]}, r"services\.0\.colour"),
        ({"services": [a_service("chat"), a_service("chat")]}, "name of its own"),
        ({"services": [a_service("chat", trace="none.csv")]}, "chat: .*none.csv"),
        ({"services": [a_service("chat", min=3, max=2)]}, "chat: replicas from 3 to 2"),
        ({"services": [a_service("chat", model="nobody/knows")]}, "chat: .*nobody/knows"),
        (
            {"services": [a_service("chat", appearsMs=9, vanishesMs=3)]},
            r"services\.0.*chat: vanishesMs 3 comes before appearsMs 9",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(
    tmp_path: Path, scenario: dict[str, Any], says: str
) -> None:
    with pytest.raises(Refused, match=says) as refused:
        run(tmp_path, **scenario)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text("pool: [")
    with pytest.raises(Refused, match="is not YAML"):
        replay_pool(file)
