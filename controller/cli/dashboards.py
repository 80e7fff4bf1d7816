"""`whaleflux dashboards`: write Grafana's dashboards and Prometheus' rules."""

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from monitor.exporters import RUNBOOKS
from monitor.exporters import dashboards as grafana_dashboards
from monitor.exporters import rules as prometheus_rules


def dashboards(
    folder: Annotated[
        Path, typer.Argument(help="Where to write dashboards/*.json and rules.yaml.")
    ],
    runbooks: Annotated[
        str, typer.Option(help="Address of the runbooks, for the alerts' runbook_url.")
    ] = RUNBOOKS,
) -> None:
    """Write the Grafana dashboards and the Prometheus rules into a folder."""
    for name, text in files(runbooks).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def files(runbooks: str = RUNBOOKS) -> dict[str, str]:
    """Give the text of every file by its path in the folder."""
    boards = {
        f"dashboards/{uid}.json": json.dumps(board, indent=1, ensure_ascii=False) + "\n"
        for uid, board in grafana_dashboards().items()
    }
    made = yaml.safe_dump(
        prometheus_rules(runbooks), sort_keys=False, allow_unicode=True, width=100
    )
    return {**boards, "rules.yaml": made}
