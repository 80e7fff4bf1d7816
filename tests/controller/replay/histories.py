"""What engines would have counted of requests whose lengths are known."""

from typing import Any

import numpy as np

from controller.replay.counted import Buckets, Counted

BOUNDS = np.array([1.0, 2.0, 5.0, 10.0, 50.0, 200.0, 1000.0, np.inf])
LOWER = np.concatenate([[0.0], BOUNDS[:-1]])


def buckets(lengths: list[list[int]]) -> Buckets:
    """As an engine counts the lengths of those that ended in each interval."""
    counts = [np.histogram(row, np.append(LOWER + 0.5, np.inf))[0] for row in lengths]
    sums = [float(sum(row)) for row in lengths]
    return Buckets(LOWER, BOUNDS, np.array(counts, float), np.array(sums))


def counted(lengths: list[list[int]], came: list[float] | None = None, **changes: Any) -> Counted:
    """Who came in an interval ended in it, unless `came` says something else."""
    intervals = len(lengths)
    usual: dict[str, Any] = {
        "begin_s": 1e9,
        "interval_s": 15.0,
        "came": np.array([len(row) for row in lengths] if came is None else came, float),
        "held": np.zeros(intervals),
        "engines": np.full(intervals, 2.0),
        "prompts": buckets(lengths),
        "answers": buckets(lengths),
        "ttft_s": None,
        "hit_ratio": 0.0,
    }
    return Counted(**{**usual, **changes})
