"""`whaleflux dashboards` writes what the chart carries."""

from pathlib import Path

from typer.testing import CliRunner

from controller.cli import build_app
from controller.cli.dashboards import files

CARRIED = Path(__file__).parents[2] / "deploy" / "helm" / "whaleflux" / "files"


def test_the_charts_files_are_not_stale() -> None:
    made = files()
    carried = {
        str(path.relative_to(CARRIED)): path.read_text(encoding="utf-8")
        for path in (*CARRIED.glob("dashboards/*"), CARRIED / "rules.yaml")
    }
    assert carried == made, "run `make dashboards`"


def test_it_writes_every_file_with_the_runbooks_address(tmp_path: Path) -> None:
    command = ["dashboards", str(tmp_path), "--runbooks", "https://example.org/r.md"]
    answer = CliRunner().invoke(build_app("dashboards"), command, catch_exceptions=False)
    assert answer.exit_code == 0
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")} == set(files())
    assert "https://example.org/r.md#whalefluxnoleader" in (tmp_path / "rules.yaml").read_text()
