"""`whaleflux plan`: a table for people, JSON for programs, YAML ready to apply."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from controller.api import parse_service
from controller.cli import build_app
from profiler.errors import Refused

ASK = ["plan", "Llama-3.1-8B-Instruct", "--gpu", "H100-SXM", "--rate", "30", "--max-num-seqs", "64",
       "--max-num-batched-tokens", "4096"]  # fmt: skip


def run(*more: str) -> str:
    result = CliRunner().invoke(build_app("plan"), [*ASK, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_json_names_the_configuration_and_what_a_replica_carries() -> None:
    found = json.loads(run("-o", "json", "--tensor-parallel-size", "1"))
    best = found["best"]
    assert (best["tensorParallelSize"], best["maxNumSeqs"], best["maxNumBatchedTokens"]) == (
        1,
        64,
        4096,
    )
    assert best["requestsPerSecondPerReplica"] > 0
    assert best["replicas"] == -(-30 // best["requestsPerSecondPerReplica"])
    assert best["latency"]["ttftMs"] <= 1000
    assert best["latency"]["itlMs"] <= 50
    assert "--max-num-seqs=64" in best["flags"]


def test_yaml_is_an_llmservice_that_validates() -> None:
    manifest = yaml.safe_load(run("-o", "yaml", "--tensor-parallel-size", "1"))
    service = parse_service(manifest, "the plan")
    assert service.metadata.name == "llama-3-1-8b-instruct"
    assert service.spec.engine.max_num_seqs == 64
    assert service.spec.scaling is not None


def test_the_table_fits_eighty_columns_and_says_what_is_not_possible() -> None:
    text = run()
    table = [line for line in text.splitlines() if not line.startswith("not possible")]
    assert max(len(line) for line in table[:10]) <= 80
    assert "best" in text
    assert "flags: " in text


def test_a_trace_sets_rate_lengths_and_burstiness(tmp_path: Path) -> None:
    rows = "\n".join(f"{0.5 * i},{300 + i},{20 + i}" for i in range(60))
    file = tmp_path / "t.csv"
    file.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}\n")
    ask = ["plan", "Llama-3.1-8B-Instruct", "--gpu", "L4", "--trace", str(file), "-o", "yaml",
           "--tensor-parallel-size", "1", "--slo-itl-ms", "100"]  # fmt: skip
    result = CliRunner().invoke(build_app("plan"), ask, catch_exceptions=False)
    workload = yaml.safe_load(result.output)["spec"]["workload"]
    assert workload["requestsPerSecond"] == "2.000"
    assert (workload["inputTokens"], workload["outputTokens"]) == (330, 50)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--slo-ttft-ms", "1"], "nothing meets it, even idle"),
        (["--gpu", "abacus"], "unknown type 'abacus'"),
        (["--rate", "0"], "rate must be a positive number"),
    ],
)
def test_what_cannot_be_planned_is_one_clear_line(more: list[str], told: str) -> None:
    with pytest.raises(Refused, match=told) as refused:
        CliRunner().invoke(build_app("plan"), [*ASK, *more], catch_exceptions=False)
    assert "\n" not in str(refused.value)
