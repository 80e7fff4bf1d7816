"""What the mean gap between tokens should be, by the twin's own step cost, at a replica's load.

One call prices the windows of all replicas of a service, with the very `step_s` that plans and
emulates. A window's mean gap is that of the steps its tokens were made in: some decode only, some
also compute a chunk of a prompt. Both kinds are priced, and weighted by how many prompts came.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from profiler.scheduler import Limits, Shape
from profiler.step_cost import StepCost, step_s

Floats = NDArray[np.float64]


class Windows(NamedTuple):
    """What replicas did between two pages; [windows] each."""

    window_s: Floats
    gaps: Floats
    """Gaps between tokens that closed, > 0."""
    gaps_s: Floats
    """Their sum."""
    prompt_tokens: Floats
    """Computed."""


class Lengths(NamedTuple):
    """Of the service's requests, now."""

    input_tokens: float
    context_tokens: float
    """Mean KV that a request in the batch holds."""


@njit(cache=True)
def expected_gap_s(
    cost: StepCost, limits: Limits, lengths: Lengths, windows: Windows, out_s: Floats
) -> None:
    """Fill `out_s` [windows] with the expected mean gap (a kernel).

    The batch, averaged over time, is Σ gaps / window, and a token sees one more than that:
    itself (arrivals see time averages), unless the batch is full. A chunk of a prompt delays
    the batch there is, once.
    """
    for i in range(out_s.size):
        batch = windows.gaps_s[i] / windows.window_s[i]
        seqs = min(batch + 1.0, float(limits.max_num_seqs))
        beside = windows.prompt_tokens[i] * batch / windows.gaps[i]
        room = max(float(limits.max_num_batched_tokens) - seqs, 1.0)
        chunk = max(min(lengths.input_tokens, room), 1.0)
        share = min(beside / chunk, 1.0)
        if share >= 1.0:
            chunk = min(beside, room)
        alone = _step_s(cost, seqs, lengths, 0.0)
        out_s[i] = alone + share * (_step_s(cost, seqs, lengths, chunk) - alone)


@njit(cache=True)
def _step_s(cost: StepCost, seqs: float, lengths: Lengths, chunk: float) -> float:
    """Price one step of `seqs` decodes and a chunk of a prompt (a kernel)."""
    prefills = 0 if chunk <= 0.0 else 1
    seen = max(chunk, lengths.input_tokens) / 2.0
    context, window = lengths.context_tokens, float(cost.window_tokens)
    shape = Shape(
        round(seqs + chunk),
        round(seqs) + prefills,
        prefills,
        chunk * seen,
        chunk * min(seen, window),
        seqs * context,
        seqs * min(context, window),
        float(prefills) * (seen + chunk / 2.0),
        int(chunk),
    )
    return float(step_s(cost, shape))
