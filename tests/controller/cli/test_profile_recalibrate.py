"""`whaleflux profile recalibrate`: pages a window apart become a verdict."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from controller.cli import build_app
from profiler.configuration import Configuration
from profiler.document import read_profile, to_document
from profiler.errors import Refused
from profiler.measure.profiling import Total
from profiler.profile import resolve_profile
from profiler.recalibrate import Window, expected

PROFILE = resolve_profile("Llama-3.1-8B-Instruct", "L4")
CONFIGURATION = Configuration(max_num_seqs=32, max_num_batched_tokens=2048, max_model_len=4096)
REQUESTS, PROMPT, ANSWER = 60, 400, 100


def pages(tmp_path: Path, slower: float, count: int = 12) -> list[str]:
    """Pages of an engine whose gaps are `slower` times as long as the profile has them."""
    gaps = float(REQUESTS * (ANSWER - 1))
    itl_s, ttft_s = 0.08, 0.3
    for _ in range(60):  # the batch follows from the gaps, and the gaps from the batch
        load = Window(60.0, Total(REQUESTS * ttft_s, REQUESTS), Total(gaps * itl_s, gaps),
                      REQUESTS * PROMPT, 0.0, REQUESTS * ANSWER)  # fmt: skip
        made = expected(PROFILE.cost, PROFILE.limits(CONFIGURATION), load)
        assert made is not None
        itl_s, ttft_s = made.itl_s * slower, made.ttft_s * slower
    files = []
    for i in range(count):
        lines = [
            *histogram("vllm:time_to_first_token_seconds", i * REQUESTS, i * REQUESTS * ttft_s),
            *histogram("vllm:inter_token_latency_seconds", i * gaps, i * gaps * itl_s),
            f"vllm:prompt_tokens_total {i * REQUESTS * PROMPT}",
            f"vllm:generation_tokens_total {i * REQUESTS * ANSWER}",
            "vllm:num_requests_running 9",
            "vllm:num_requests_waiting 0",
            'vllm:request_success_total{finished_reason="length"} 5',
        ]
        file = tmp_path / f"{i}.prom"
        file.write_text("\n".join(lines) + "\n")
        files.append(str(file))
    return files


def histogram(name: str, count: float, total: float) -> list[str]:
    return [f'{name}_bucket{{le="+Inf"}} {count}', f"{name}_sum {total}", f"{name}_count {count}"]


def ask(tmp_path: Path, files: list[str], *more: str) -> list[str]:
    profile = tmp_path / "p.yaml"
    profile.write_text(yaml.safe_dump(to_document(PROFILE, "p")))
    limits = ["--max-num-seqs", "32", "--max-num-batched-tokens", "2048", "--max-model-len", "4096"]
    return ["profile", "recalibrate", *files, "--profile", str(profile), *limits, *more]


def test_an_engine_as_predicted_is_exit_0(tmp_path: Path) -> None:
    result = CliRunner().invoke(build_app("profile"), ask(tmp_path, pages(tmp_path, 1.0)))
    assert result.exit_code == 0, result.output
    assert "decode (ITL): as predicted; measured / predicted 1.000" in result.output


def test_a_slower_engine_is_exit_1_and_its_profile_is_written(tmp_path: Path) -> None:
    out = tmp_path / "new.yaml"
    command = ask(tmp_path, pages(tmp_path, 1.2), "-o", "json", "--write", str(out))
    result = CliRunner().invoke(build_app("profile"), command)
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)["decode (ITL)"]
    assert found["found"]
    assert found["ratio"] == pytest.approx(1.2, rel=0.03)
    assert found["windows"] == 11
    again = read_profile(str(out))
    assert again.cost.kv_token_s > PROFILE.cost.kv_token_s
    assert "recalibrated" in again.provenance.notes[-1]


def test_a_restart_between_pages_leaves_its_window_out(tmp_path: Path) -> None:
    files = pages(tmp_path, 1.0)
    result = CliRunner().invoke(
        build_app("profile"), ask(tmp_path, [*files[4:8], *files[:4]], "-o", "json")
    )
    assert json.loads(result.stdout)["decode (ITL)"]["excluded"] == {"restart": 1}


@pytest.mark.parametrize("files", [["/none"], []])
def test_too_few_pages_or_none_are_refused(tmp_path: Path, files: list[str]) -> None:
    result = CliRunner().invoke(
        build_app("profile"), ask(tmp_path, files or pages(tmp_path, 1.0)[:1])
    )
    assert "metrics: " in str(result.exception)


def test_a_corrected_profile_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "no" / "new.yaml"
    command = ask(tmp_path, pages(tmp_path, 1.2), "--write", str(out))
    result = CliRunner().invoke(build_app("profile"), command)
    assert isinstance(result.exception, Refused)
    assert str(result.exception) == f"{out}: cannot be written: No such file or directory"
