"""The simulate command: a trace through an engine, told as table, JSON and rows."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from controller.cli import build_app
from profiler.configuration import Configuration
from profiler.document import to_document
from profiler.errors import Refused
from profiler.layout import Layout
from profiler.profile import resolve_profile
from profiler.timings import Metric
from profiler.trace import read_trace, stream_trace
from profiler.twin import simulate

HEADER = "arrival_s,input_tokens,output_tokens,hash_ids\n"
MODEL = ("--model", "Llama-3.1-8B-Instruct", "--gpu", "H100-SXM", "--max-model-len", "32768")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "trace.csv"
    rows = [f"{0.02 * i},{100 + 37 * i % 900},{1 + i % 60}" for i in range(300)]
    file.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")
    return file


def run(*args: object) -> str:
    command = ["simulate", *(str(arg) for arg in args)]
    answer = CliRunner().invoke(build_app("simulate"), command)
    if answer.exception is not None:
        raise answer.exception
    return answer.stdout


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_it_says_what_the_twin_says(trace: Path) -> None:
    told = json.loads(run(trace, *MODEL, "-o", "json", "--slo-ttft-ms", 200))
    profile = resolve_profile("Llama-3.1-8B-Instruct", "H100-SXM")
    timings = simulate(
        read_trace(trace), profile.cost, profile.limits(Configuration(max_model_len=32768))
    )
    assert told["requests"] == 300
    assert told["steps"] == timings.steps
    assert told["latencyMs"]["ttft"]["p90"] == pytest.approx(
        1e3 * timings.quantile_s(Metric.TTFT, 0.9), rel=0.01
    )
    assert told["attainedRatio"] == pytest.approx(float((timings.ttft_s <= 0.2).mean()))


def test_every_request_is_written_with_its_times(trace: Path, tmp_path: Path) -> None:
    requests, steps = tmp_path / "requests.csv", tmp_path / "steps.csv"
    run(trace, *MODEL, "--requests-csv", requests, "--steps-csv", steps, "--steps-every-s", 0)
    rows = rows_of(requests)
    assert sorted(int(row["request"]) for row in rows) == list(range(300))
    for row in rows:
        assert float(row["queue_s"]) <= float(row["ttft_s"]) <= float(row["e2e_s"])
        assert (row["itl_s"] == "") == (row["output_tokens"] == "1")
    states = rows_of(steps)
    assert sum(int(row["prefill_tokens"]) for row in states) >= sum(
        int(row["input_tokens"]) - int(row["hit_tokens"]) for row in rows
    )


def test_the_ranks_of_a_replica_share_the_requests(trace: Path, tmp_path: Path) -> None:
    requests = tmp_path / "requests.csv"
    flags = ("--model", "Qwen3-30B-A3B", "--gpu", "H200", "-dp", 2, "--max-model-len", 32768)
    run(trace, *flags, "--requests-csv", requests)
    ranks = {row["request"]: row["rank"] for row in rows_of(requests)}
    assert len(ranks) == 300
    assert {int(request) % 2 == int(rank) for request, rank in ranks.items()} == {True}


@pytest.mark.parametrize("flag", ["--async-scheduling", "--engine=sglang", "--priority"])
def test_other_rules_run_too_and_lose_nobody(trace: Path, flag: str) -> None:
    assert json.loads(run(trace, *MODEL, flag, "-o", "json"))["requests"] == 300


def test_the_rules_make_a_difference(trace: Path) -> None:
    crowd = (*MODEL, "--rate-factor", 5, "--max-num-seqs", 8, "-o", "json")
    fair, other, ahead = (
        json.loads(run(trace, *crowd, *more))["latencyMs"]
        for more in ((), ("--engine", "sglang"), ("--async-scheduling",))
    )
    assert fair["ttft"]["p50"] < other["ttft"]["p50"] or fair["itl"]["p50"] < other["itl"]["p50"]
    assert ahead["e2e"] != fair["e2e"]


def test_the_lowest_priority_of_the_trace_is_first(tmp_path: Path) -> None:
    file, requests = tmp_path / "trace.csv", tmp_path / "requests.csv"
    rows = [f"0,100,50,{4 - i}" for i in range(5)]
    file.write_text("\n".join(["arrival_s,input_tokens,output_tokens,priority", *rows]) + "\n")
    run(file, *MODEL, "--max-num-seqs", 1, "--priority", "--requests-csv", requests)
    with requests.open(newline="") as told:
        assert [row["request"] for row in csv.DictReader(told)] == ["4", "3", "2", "1", "0"]


def test_only_the_first_and_faster(trace: Path) -> None:
    few = json.loads(run(trace, *MODEL, "--trace-limit", 40, "-o", "json"))
    fast = json.loads(run(trace, *MODEL, "--trace-limit", 40, "--rate-factor", 4, "-o", "json"))
    assert (few["requests"], fast["requests"]) == (40, 40)
    assert fast["endS"] < few["endS"]


def test_blocks_are_found_again_by_their_hashes(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = [f"{i},{512 * 3},4,0 1|{i + 2}" for i in range(10)]
    file.write_text(HEADER + "\n".join(rows) + "\n")
    found = [
        json.loads(run(file, *MODEL, *more, "-o", "json"))["prefixHitRatio"]
        for more in ((), ("--no-enable-prefix-caching",))
    ]
    assert found == [0.6, 0.0]


def test_a_trace_in_many_parts_is_the_same_trace(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(trace, *MODEL, "-o", "json")
    monkeypatch.setattr(
        "controller.cli.simulate.stream_trace",
        lambda path, **how: stream_trace(path, rows=7, **how),
    )
    assert run(trace, *MODEL, "-o", "json") == whole


def test_a_profile_stands_for_model_and_gpu(trace: Path, tmp_path: Path) -> None:
    profile = resolve_profile("Llama-3.1-8B-Instruct", "H100-SXM", Layout(2))
    file = tmp_path / "profile.yaml"
    file.write_text(yaml.safe_dump(to_document(profile, "p")))
    ask = ("--max-model-len", 32768, "-tp", 2, "-o", "json")
    told = json.loads(run(trace, "--profile", file, *ask))
    assert told["layout"] == str(Layout(2))
    assert told["latencyMs"] == json.loads(run(trace, *MODEL[:4], *ask))["latencyMs"]
    with pytest.raises(Refused, match="is not what the profile is for"):
        run(trace, "--profile", file, "--max-model-len", 32768)


def test_the_table_fits_eighty_columns(trace: Path) -> None:
    assert max(map(len, run(trace, *MODEL, "--slo-ttft-ms", 60).splitlines())) <= 80


def test_a_table_names_the_latencies_and_the_objective(trace: Path) -> None:
    told = run(trace, *MODEL, "--slo-itl-ms", 50)
    assert all(name in told for name in ("TTFT", "ITL", "E2E", "QUEUE", "within the objective"))


@pytest.mark.parametrize(
    ("text", "flags", "told"),
    [
        ("arrival_s,input_tokens,output_tokens\n0,5,5\n-1,5,5\n", MODEL, "row 2: arrival_s"),
        ("arrival_s,input_tokens\n0,5\n", MODEL, "no column output_tokens"),
        ("arrival_s,input_tokens,output_tokens\n", MODEL, "has no rows"),
        (HEADER + "0,10,1,\n1,x,1,\n", MODEL, "row 2: input_tokens is 'x': give a number"),
        (HEADER + "0,10,1,\n1,10,1,7 a\n", MODEL, "row 2: hash_ids are '7 a': give whole numbers"),
        (HEADER + "0,10,1,\n1,600,1,7 8 9\n", MODEL, "row 2: hash_ids are 3 blocks of 512 tokens"),
        (HEADER + "0,10,1,\n1,10,1,-7\n", MODEL, "row 2: hash_ids hold -7"),
        (HEADER + "0,10,1,\n1,32000,1000,\n", MODEL, "row 2: .* exceed max_model_len 32768"),
        (HEADER + "0,100,1,7\n", (*MODEL, "--block-size", "24"), "do not divide each other"),
        (HEADER + "0,10,1,\n", (*MODEL, "--rate-factor", "0"), "give a positive factor"),
        (HEADER + "0,10,1,\n", (*MODEL, "--steps-csv", "/nowhere/x"), "/nowhere/x: cannot be"),
        (HEADER + "0,10,1,\n", (), "give --model, or --profile"),
        ("arrival_s,input_tokens,output_tokens\n0,5,5\n", ("--model", "none"), "neither a folder"),
        ("arrival_s,input_tokens,output_tokens\n0,5,5\n", (*MODEL, "-tp", "3"), "does not divide"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, text: str, flags: tuple[str, ...], told: str
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(Refused, match=told) as caught:
        run(file, *flags)
    assert "\n" not in str(caught.value)
