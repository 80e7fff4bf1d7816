"""Workloads that several files share."""

import numpy as np
import pytest

from profiler.trace import Lengths, gamma_renewal
from recommender import Workload, workload_from_trace


@pytest.fixture(scope="session")
def recorded() -> Workload:
    """Ten minutes of bursts, of prompts of 50 to 150 tokens."""
    rng = np.random.default_rng(5)
    lengths = Lengths(rng.integers(50, 150, 500), rng.integers(5, 40, 500))
    return workload_from_trace(gamma_renewal(2.0, 600.0, lengths, rng, cv=2.0))
