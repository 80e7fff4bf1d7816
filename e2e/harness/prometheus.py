"""A real Prometheus for a test: it scrapes what it is told, and stops with it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .processes import free_port, start_server, stop_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="no prometheus on the PATH: apt-get install prometheus",
)


@contextmanager
def prometheus(
    jobs: Sequence[dict[str, Any]], folder: Path, every: str, rules: Sequence[Path] = ()
) -> Iterator[str]:
    """Run it in a folder of its own; its URL. `every`: how often it scrapes and evaluates."""
    config = folder / "prometheus.yml"
    intervals = ("scrape_interval", "scrape_timeout", "evaluation_interval")
    settings = {
        "global": dict.fromkeys(intervals, every),
        "rule_files": [str(file) for file in rules],
        "scrape_configs": list(jobs),
    }
    config.write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("ab") as log:
        process = start_server(
            ["prometheus", f"--config.file={config}", f"--web.listen-address={address}",
             f"--storage.tsdb.path={folder / 'tsdb'}", "--log.level=warn"],
            log,
        )  # fmt: skip
    try:
        yield f"http://{address}"
    finally:
        stop_server(process, 5.0)
