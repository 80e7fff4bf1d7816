"""`whaleflux profile capacity`: a surface that the profile keeps, with its error."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli import build_app
from profiler.configuration import Configuration
from profiler.document import read_profile, write_profile
from profiler.errors import Refused
from profiler.slo import Slo
from tests.recommender.builders import a_profile

ASK = (
    "--input-tokens", "64", "--output-tokens", "16", "--max-num-seqs", "16", "--tolerance", "1",
    "--max-num-batched-tokens", "512", "--slo-ttft-ms", "500",
)  # fmt: skip
CONFIGURATION = Configuration(max_num_seqs=16, max_num_batched_tokens=512, max_model_len=4096)


def run(*args: str) -> str:
    result = CliRunner().invoke(
        build_app("profile"), ["profile", "capacity", *args], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    write_profile(replace(a_profile(), engine_version="0.32.0"), path)
    return path


def test_the_profile_keeps_the_surface_and_everything_else(file: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.yaml"
    said = run(str(file), *ASK, "-o", str(made))
    assert "interpolation is off by" in said
    profile = read_profile(str(made))
    assert profile.engine_version == "0.32.0"
    surface = profile.surface(CONFIGURATION, Slo(0.5, 0.05))
    assert surface is not None
    assert surface.covers(64, 16, 1.0)
    assert surface.rate_rps(64, 16, 1.0) > 0


def test_another_objective_is_added_and_the_same_replaced(file: Path) -> None:
    for ttft in ("500", "500", "900"):
        run(str(file), *ASK[:-1], ttft, "-o", str(file))
    assert len(read_profile(str(file)).capacity) == 2


def test_an_objective_without_bounds_is_refused(file: Path) -> None:
    with pytest.raises(Refused, match="give at least one of ttft, itl, e2e"):
        run(str(file), "--slo-ttft-ms", "0", "--slo-itl-ms", "0")
