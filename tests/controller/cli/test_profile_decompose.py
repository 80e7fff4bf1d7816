"""`whaleflux profile decompose`: a table, JSON, and a picture that needs nothing else."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from controller.cli import build_app
from profiler.document import to_document
from profiler.profile import resolve_profile

ASK = ["profile", "decompose", "--model", "Llama-3.1-8B-Instruct", "--gpu", "H100-SXM"]


def run(*more: str) -> str:
    result = CliRunner().invoke(build_app("profile"), [*ASK, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_adds_up_and_shows_the_profile_beside(tmp_path: Path) -> None:
    profile = resolve_profile("Llama-3.1-8B-Instruct", "H100-SXM")
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(to_document(profile, "p")))
    found = json.loads(run("-o", "json", "--profile", str(file), "--decode", "64x1024"))
    (step,) = found["steps"]
    assert step["shape"] == "decode 64x1024"
    assert step["predictedS"] == pytest.approx(sum(o["predicted_s"] for o in step["operators"]))
    assert step["profileS"] == pytest.approx(sum(step["groupsS"].values()))
    assert step["measuredS"] is None


def test_measured_operators_stand_beside(tmp_path: Path) -> None:
    table = {"gpu": "H100", "model": "m", "notes": ["weights are 16-bit"], "shapes": [
        {"shape": "prefill 512", "operators": {"feed-forward": 0.01, "element-wise": 0.002}}
    ]}  # fmt: skip
    file = tmp_path / "k.json"
    file.write_text(json.dumps(table))
    text = run("--measured", str(file), "--prefill", "512")
    assert "element-wise" in text
    assert "10.000" in text
    assert "note: weights are 16-bit" in text


def test_the_default_shapes_cover_prefill_decode_and_both() -> None:
    shapes = [step["shape"] for step in json.loads(run("-o", "json"))["steps"]]
    assert {shape.partition(" ")[0] for shape in shapes} == {"prefill", "decode", "mixed"}


class _Page(HTMLParser):
    """Counts tags and collects what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v]


def test_the_picture_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "d.html"
    run("--html", str(file), "--tensor-parallel-size", "2")
    text = file.read_text()
    page = _Page()
    page.feed(text)
    assert page.fetched == []
    assert "script" not in page.tags
    assert page.tags["svg"] == 2
    assert page.tags["rect"] > 20
    assert page.tags["circle"] > 10
    assert "all-reduce" in text
    assert "nan" not in text.lower().replace("finance", "")
    assert len(text) < 100_000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gpu", "X9"], "unknown type"),
        (["--decode", "64"], "--decode"),
        (["--measured", "/none"], "cannot read /none"),
        (["--html", "/none/d.html"], "cannot write"),
        (["--tensor-parallel-size", "3"], "does not divide"),
    ],
)
def test_mistakes_are_one_line(more: list[str], message: str) -> None:
    result = CliRunner().invoke(build_app("profile"), [*ASK, *more])
    assert message in str(result.exception)
