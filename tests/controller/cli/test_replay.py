"""The replay command: one command gives an answer, faults are checked, mistakes are one line."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from controller.cli import build_app
from controller.cli.replay.asked import moment_s
from controller.cli.replay.contenders import chosen
from controller.cli.replay.faults import read_faults
from controller.replay.opponents import ALL
from controller.replay.terms import (
    FailedStarts,
    Faults,
    Garbled,
    LongStarts,
    NodeLoss,
    SlowReplica,
    Span,
)
from profiler.configuration import Configuration
from profiler.document import to_document
from profiler.errors import Refused, RetryLater
from profiler.profile import resolve_profile

HEADER = "arrival_s,input_tokens,output_tokens"
WANTED = ("--model", "meta-llama/Llama-3.1-8B-Instruct", "--gpu", "L4", "--slo-ttft-ms", 2000,
          "--slo-itl-ms", 100)  # fmt: skip


def written(file: Path, rows: Sequence[str]) -> Path:
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    return file


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A request a second, and four a second in the middle."""
    at = [float(i) for i in range(200)] + [200 + i / 4 for i in range(800)]
    at += [400.0 + i for i in range(200)]
    return written(
        tmp_path / "t.csv", [f"{s},{300 + 37 * i % 900},{20 + i % 60}" for i, s in enumerate(at)]
    )


def run(*args: object) -> str:
    command = ["replay", *(str(arg) for arg in args)]
    answer = CliRunner().invoke(build_app("replay"), command)
    if answer.exception is not None:
        raise answer.exception
    return answer.stdout


def told(*args: object) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run(*args, "-o", "json"))
    return answer


def policies(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["policy"]: row for row in answer["policies"]}


def test_one_command_without_any_configuration_gives_an_answer(trace: Path) -> None:
    answer = told(trace, *WANTED)
    rows = policies(answer)
    assert list(rows)[0::2] == ["whaleflux", "hpa"]
    assert list(rows)[1].startswith("static-")
    assert answer["meetsSlo"]
    assert answer["best"] in rows
    assert rows["whaleflux"]["requests"] == 1200
    assert rows["whaleflux"]["attainedRatio"] > 0.8
    assert rows["whaleflux"]["scaleUps"] > 0
    first = rows["whaleflux"]["decisions"][0]
    assert first["after"] != first["before"]
    assert first["reason"]
    assert any(flag.startswith("--max-num-seqs=") for flag in answer["flags"])


def test_the_table_says_who_is_best_and_on_which_terms(trace: Path) -> None:
    text = run(trace, *WANTED, "--missed-ratio", 0.5, "--policy", "static")
    assert "is the cheapest that attains 95%" in text
    assert "fault: 50% of scrapes are missed" in text
    assert "start-up: 90 s" in text


def test_what_is_pinned_is_kept(trace: Path) -> None:
    answer = told(
        trace, *WANTED, "--max-num-seqs", 48, "--max-num-batched-tokens", 1024, "--max-model-len",
        4096, "--min", 2, "--max", 5, "--initial", 3, "--start-up-s", 40, "--scrape-s", 5,
        "--policy", "hpa",
    )  # fmt: skip
    assert "--max-num-seqs=48" in answer["flags"]
    assert "--max-num-batched-tokens=1024" in answer["flags"]
    terms = answer["terms"]
    assert (terms["minReplicas"], terms["maxReplicas"], terms["initial"]) == (2, 5, 3)
    assert (terms["startUpS"], terms["scrapeS"]) == (40, 5)
    assert answer["policies"][0]["peakReplicas"] <= 5


def test_a_profile_stands_for_model_and_gpu(trace: Path, tmp_path: Path) -> None:
    profile = resolve_profile("Llama-3.1-8B-Instruct", "L4", Configuration().layout)
    file = tmp_path / "profile.yaml"
    file.write_text(yaml.safe_dump(to_document(profile, "mine")))
    answer = told(trace, "--profile", file, "--slo-e2e-ms", 60_000, "--policy", "hpa")
    assert answer["gpu"] == profile.gpu
    assert "--max-model-len=2048" in answer["flags"]  # what the longest request needs


def test_faults_are_suffered(trace: Path) -> None:
    usual = (trace, *WANTED, "--policy", "static", "--initial", 4, "--min", 4)
    rows = [told(*usual, *more)["policies"][0] for more in ((), ("--node-loss", 300))]
    assert rows[0]["cut"] == 0
    assert rows[1]["cut"] > 0


def test_the_bound_and_the_schedule_are_told(tmp_path: Path) -> None:
    short = written(tmp_path / "t.csv", [f"{i / 4},500,50" for i in range(480)])
    answer = told(short, *WANTED, "--clairvoyant", "--policy", "static")
    assert 0 < answer["bound"]["gpuHours"] <= answer["knowsTheFuture"]["gpuHours"]
    assert answer["bound"]["attainedRatio"] == 0.95
    assert answer["policies"][0]["gpuHoursOverBound"] >= 1


def test_a_compressed_trace_brings_more_load(trace: Path) -> None:
    once, fast = (
        told(trace, *WANTED, "--policy", "static", "--rate-factor", factor) for factor in (1, 4)
    )
    assert fast["policies"][0]["peakReplicas"] > once["policies"][0]["peakReplicas"]


def test_the_page_is_written(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the extra `report` is not installed")
    page = tmp_path / "page.html"
    run(trace, *WANTED, "--policy", "hpa", "--html", page)
    assert "Scaling policies on t.csv" in page.read_text()
    with pytest.raises(Refused, match=r"--html: .* cannot be written"):
        run(trace, *WANTED, "--policy", "hpa", "--html", tmp_path / "no" / "page.html")


def test_an_objective_that_no_fleet_keeps_is_said(trace: Path) -> None:
    answer = told(trace, *WANTED[:4], "--slo-ttft-ms", 1)
    assert not answer["meetsSlo"]
    assert answer["best"] is None
    assert answer["says"][0].startswith("No fleet keeps this objective")


@pytest.mark.parametrize(
    "rows",
    [
        ["5,100,20"] * 10_000,
        [f"{i},100,0" for i in range(60)],
        ["0,100,20", "30000,100,20"],
        ["0,3,4"],
    ],
    ids=["all at once", "no answers", "a gap", "a single one"],
)
def test_odd_traces_are_no_trouble(tmp_path: Path, rows: list[str]) -> None:
    answer = told(written(tmp_path / "t.csv", rows), *WANTED)
    for row in answer["policies"]:
        assert row["requests"] == len(rows)
        assert row["unserved"] == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--policy", "foo"), "--policy foo: is none of whaleflux, static, hpa"),
        (("--node-loss", "soon"), "--node-loss soon: give it as AT or AT:NODE"),
        (("--scrape-s", "nan"), "scrape_s must be a positive number"),
        (("--min", "9", "--max", "3"), "replicas from 9 to 3"),
        (("--rate-factor", "nan"), "positive factor"),
        (("--max-model-len", "64"), "max_model_len"),
        (("--prometheus", "http://127.0.0.1:9"), "not both"),
        (("--gpu", "abacus"), "abacus"),
    ],
)
def test_a_mistake_is_one_line(trace: Path, args: tuple[str, ...], says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        run(trace, *WANTED, *args)
    assert "\n" not in str(refused.value)


def test_bad_rows_and_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="row 2: arrival_s is nan"):
        run(written(tmp_path / "t.csv", ["0,3,4", "nan,3,4"]), *WANTED)
    with pytest.raises(Refused, match="has no rows"):
        run(written(tmp_path / "t.csv", []), *WANTED)
    with pytest.raises(Refused, match="No such file"):
        run(tmp_path / "none.csv", *WANTED)


def test_what_must_be_given_is_asked_for(trace: Path) -> None:
    with pytest.raises(Refused, match="give a TRACE or --prometheus"):
        run(*WANTED)
    with pytest.raises(Refused, match="give --model, or --profile"):
        run(trace, *WANTED[2:])
    with pytest.raises(Refused, match="give an objective"):
        run(trace, *WANTED[:4])


def test_a_prometheus_that_does_not_answer_is_named() -> None:
    with pytest.raises(RetryLater, match=r"http://127\.0\.0\.1:9/api/v1/query: cannot be reached"):
        run("--prometheus", "http://127.0.0.1:9", *WANTED)
    with pytest.raises(Refused, match="--since never: give how long ago"):
        run("--prometheus", "http://127.0.0.1:9", "--since", "never", *WANTED)
    with pytest.raises(Refused, match="lies after the end"):
        run("--prometheus", "http://127.0.0.1:9", "--since", "1h", "--until", "2h", *WANTED)


def given(**faults: str) -> Faults:
    names = ("node-loss", "slow-replica", "long-starts", "failed-starts", "garbled",
             "missed-scrapes")  # fmt: skip
    each = {f"--{name}": [faults[name.replace("-", "_")]]
            if name.replace("-", "_") in faults else [] for name in names}  # fmt: skip
    return read_faults(each, 0.0, 0.0)


def test_faults_are_read_from_their_compact_forms() -> None:
    span = Span(300.0, 900.5)
    assert given(
        node_loss="600:2", slow_replica="1:2.5@300-900.5", long_starts="3@300-900.5",
        failed_starts="0.3@300-900.5", garbled="-1@300-900.5", missed_scrapes="300-900.5",
    ) == Faults(
        (NodeLoss(600.0, 2),), (SlowReplica(1, 2.5, span),), (LongStarts(3.0, span),),
        (FailedStarts(span, 0.3),), (Garbled(-1.0, span),), (span,),
    )  # fmt: skip
    assert given(node_loss="600") == Faults((NodeLoss(600.0, 0),))
    assert math.isnan(given(garbled="nan@0-9").garbled[0].value)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("node_loss", "-5"), ("node_loss", "nan"), ("node_loss", "600:x"), ("node_loss", ""),
        ("slow_replica", "2@3-9"), ("slow_replica", "0:2@9-3"), ("slow_replica", "0:2"),
        ("slow_replica", "-1:2@3-9"), ("slow_replica", "0:nan@3-9"), ("slow_replica", "0:-2@3-9"),
        ("failed_starts", "0.3"), ("failed_starts", "1:0.3@0-9"), ("failed_starts", "7@0-9"),
        ("long_starts", "x@0-9"), ("missed_scrapes", "600"), ("missed_scrapes", "0-inf"),
        ("garbled", "nan"),
    ],
)  # fmt: skip
def test_faults_that_cannot_be_read_are_refused(option: str, text: str) -> None:
    with pytest.raises(Refused):
        given(**{option: text})


def test_policies_are_known_by_name() -> None:
    assert chosen(()) == ("whaleflux", "static", "hpa")
    assert chosen(("kubeai", "kubeai")) == ("kubeai",)
    assert chosen(("all",)) == ("whaleflux", "static", *(f().name for f in ALL))


def test_moments_are_ages_or_times() -> None:
    assert moment_s("--since", "1.5h", 10_000.0) == 4600.0
    assert moment_s("--since", "1970-01-01T00:01", 0.0) == 60.0
    assert moment_s("--since", "1970-01-01T02:00:00+02:00", 9.0) == 0.0
