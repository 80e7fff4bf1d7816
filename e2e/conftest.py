"""The cluster of the end-to-end tests: one control plane and one node a session."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from e2e.harness import build
from e2e.harness.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from e2e.harness.node import Node


@contextmanager
def control_plane(controller_flags: Sequence[str] = ()) -> Iterator[Cluster]:
    """One that runs; the test is skipped, with the reason, where no Go is to be had."""
    try:
        build.ensure()
    except build.GoMissing as error:
        pytest.skip(f"no cluster: {error}")
    with Cluster(audit=True, controller_flags=controller_flags) as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The one that most tests share."""
    with control_plane() as running:
        yield running


@pytest.fixture(scope="session")
def node(cluster: Cluster) -> Node:
    """A node with eight GPUs that runs pods as processes."""
    return cluster.add_node(
        "gpu-1", gpus=8, gpu_product="NVIDIA-H100-80GB-HBM3", backoff_s=1, heartbeat_s=5
    )


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, deleted in the background afterwards."""
    name = f"e2e-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
