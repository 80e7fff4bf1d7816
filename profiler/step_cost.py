"""What one engine step costs, in seconds: a curve over its tokens and a handful of constants.

The twin, the emulator and the search all price a step with `step_s`. The constants come
from a source of `profiler.sources` (catalogue, kernel database, measured operators), and
`calibrate` corrects them by what whole engines showed:

    dense     = dense_s at the step's tokens (`GRID_TOKENS`, linear between)
    prefill   = prefill_pair_s · Σ a(k + a/2) + prefill_kv_s · Σ (k + a) over chunks of a new
                tokens after k computed ones: compute, and reading what is attended to
    decode    = kv_token_s · Σ context; in a step that prefills too × mixed_kv_ratio, as both
                fight over bandwidth, + decodes · (mixed_sequence_s + padded_query_s · longest
                chunk), as attention kernels launch a grid as deep as the longest chunk
    step      = step_overhead_s + sequence_s · sequences + token_link_s · tokens
                + dense + prefill + decode

Sliding-window layers have constants of their own over windowed contexts. All constants are
non-negative and the curve never falls, so the step time never falls when a step grows (held
by a property test).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from profiler.scheduler import Shape

NO_WINDOW = 1 << 40
"""`window_tokens` of a model without sliding windows: longer than any context."""

GRID_TOKENS: NDArray[np.float64] = np.array(
    [
        *(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256),
        *(288, 320, 384, 448, 512, 576, 640, 704, 768, 896, 1024, 1152, 1280, 1408, 1536),
        *(1792, 2048, 2560, 3072, 4096, 6144, 8192, 12288, 16384, 32768),
    ],
    dtype=np.float64,
)
"""Where the dense curve has its points: dense where kernels change their tiling."""

GRID_SIZE = GRID_TOKENS.size


class StepCost(NamedTuple):
    """Constants of the step-cost formula; seconds per unit, ratios, tokens."""

    step_overhead_s: float
    """Launching, scheduling, sampling set-up and message latency of any step."""
    sequence_s: float
    """Per sequence in the step: output head, sampling, detokenising."""
    dense_s: tuple[float, ...]
    """[GRID_SIZE] all work that depends on the number of tokens alone: weights read and
    multiplied, experts touched. Never falls; beyond the grid it goes on as its last part."""
    token_link_s: float
    """Messages between GPUs, per token."""
    prefill_pair_s: float
    """Attention per (new token × token it sees), full-attention layers."""
    prefill_window_pair_s: float
    """The same for sliding-window layers."""
    kv_token_s: float
    """Reading one token's KV in decode, full-attention layers."""
    kv_window_token_s: float
    """The same for sliding-window layers."""
    mixed_kv_ratio: float
    """How much dearer decode attention is in a step that also prefills, ≥ 1."""
    window_tokens: int
    """What sliding-window layers see."""
    request_s: float
    """API time of a request before the scheduler sees it."""
    prefill_kv_s: float = 0.0
    """Reading one token of the context that a chunk attends to."""
    mixed_sequence_s: float = 0.0
    """Per decoding sequence in a step that also prefills."""
    padded_query_s: float = 0.0
    """Per decoding sequence and token of the longest chunk beside it."""


@njit(cache=True)
def dense_at_s(cost: StepCost, tokens: float) -> float:
    """Read the dense curve (a kernel)."""
    low, high = 0, GRID_SIZE - 1
    while high - low > 1:
        middle = (low + high) // 2
        if GRID_TOKENS[middle] <= tokens:
            low = middle
        else:
            high = middle
    slope = (cost.dense_s[high] - cost.dense_s[low]) / (GRID_TOKENS[high] - GRID_TOKENS[low])
    return cost.dense_s[low] + slope * (tokens - GRID_TOKENS[low])


@njit(cache=True)
def step_s(cost: StepCost, shape: Shape) -> float:
    """Duration of one step of the given `Shape` (a kernel: no validation)."""
    prefill = (
        cost.prefill_pair_s * shape.prefill_token_pairs
        + cost.prefill_window_pair_s * shape.prefill_window_token_pairs
        + cost.prefill_kv_s * shape.prefill_kv_tokens
    )
    decode = cost.kv_token_s * shape.kv_tokens + cost.kv_window_token_s * shape.kv_window_tokens
    if shape.prefill_sequences > 0:
        decode *= cost.mixed_kv_ratio
        decode += (shape.sequences - shape.prefill_sequences) * (
            cost.mixed_sequence_s + cost.padded_query_s * shape.longest_chunk_tokens
        )
    fixed = cost.step_overhead_s + cost.sequence_s * shape.sequences
    dense = dense_at_s(cost, float(max(shape.tokens, 1)))
    return fixed + cost.token_link_s * shape.tokens + dense + prefill + decode


def dense_curve(tokens: Sequence[float], seconds: Sequence[float]) -> tuple[float, ...]:
    """Put measured points (ascending tokens) on the grid.

    Linear between points, level before the first, on along the last part beyond the last; a
    dip in the measurements is levelled, so that more tokens never cost less.
    """
    x, y = np.asarray(tokens, np.float64), np.maximum.accumulate(np.asarray(seconds, np.float64))
    values = np.interp(GRID_TOKENS, x, y)
    if x.size > 1:
        beyond = x[-1] < GRID_TOKENS
        # the last single part of a measured curve is noise: its last quarter is a trend
        start = min(int(np.searchsorted(x, 0.75 * x[-1])), x.size - 2)
        slope = (y[-1] - y[start]) / (x[-1] - x[start])
        values[beyond] = y[-1] + slope * (GRID_TOKENS[beyond] - x[-1])
    return tuple(values.tolist())


def roofline_curve(token_compute_s: float, weights_s: float) -> tuple[float, ...]:
    """Give the curve of one roofline: weights read, or tokens computed, whichever is longer."""
    return tuple(np.maximum(GRID_TOKENS * token_compute_s, weights_s).tolist())
