"""A profile without the engine: the sources are combined, and named in its notes."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli import build_app
from profiler.document import read_profile
from profiler.errors import Refused
from profiler.profile import EngineProfile, Source, resolve_profile
from tests.profiler.test_operator_tables import write_tables

CARD = ("--model", "Llama-3.1-8B", "--gpu", "RTX-4090")


def run(folder: Path, *flags: str) -> EngineProfile:
    file = folder / "profile.yaml"
    answer = CliRunner().invoke(
        build_app("profile"), ["profile", "estimate", *flags, "-o", str(file)]
    )
    if answer.exception is not None:
        raise answer.exception
    return read_profile(str(file))


def test_without_a_source_it_is_the_data_sheet_s(tmp_path: Path) -> None:
    made = run(tmp_path, *CARD)
    assert made.cost.kv_token_s == pytest.approx(
        resolve_profile("Llama-3.1-8B", "RTX-4090").cost.kv_token_s
    )
    assert made.source is Source.ANALYTICAL


def test_operator_tables_override_what_was_guessed(tmp_path: Path) -> None:
    made = run(tmp_path, *CARD, "--tables", str(write_tables(tmp_path)))
    assert made.source is Source.MEASURED
    assert "compute: operator tables" in made.provenance.notes[0]
    assert "request: data sheet" in made.provenance.notes[0]
    assert made.uncertainty.compute < 0.05


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((*CARD, "--tables", "nowhere"), r"nowhere\.dense\.csv: cannot be read"),
        (("--model", "Llama-3.1-8B", "--gpu", "L4", "--kernels"), "kernel database"),
        (("--model", "Llama-3.1-8B", "--gpu", "abacus"), "unknown type"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(
    tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    with pytest.raises(Refused, match=told):
        run(tmp_path, *flags)
