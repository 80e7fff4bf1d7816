"""A cluster for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.cli.kubectl.fake_cluster import FakeCluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path) as running:
        yield running
