"""Mean latencies as sums over steps: how often each term of the step cost was paid.

Once a schedule is known, a mean TTFT or a mean gap between tokens is linear in the constants
of a `StepCost`. An `Exposure` holds the coefficients, so that a fit tries thousands of
constants without stepping the scheduler again.
"""

from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from profiler.scheduler import Shape
from profiler.step_cost import GRID_SIZE, GRID_TOKENS, StepCost

TERMS = 12
Floats = NDArray[np.float64]


class Exposure(NamedTuple):
    """Coefficients of one mean duration."""

    terms: Floats
    """[TERMS] of the constants, in the order of `constants`."""
    dense: Floats
    """[GRID_SIZE] of the points of the dense curve."""

    @classmethod
    def of(cls, steps: Iterable[tuple[Shape, float]]) -> Self:
        """Give the exposure of so many steps of each shape."""
        terms, dense = np.zeros(TERMS), np.zeros(GRID_SIZE)
        for shape, times in steps:
            expose(shape, times, terms, dense)
        return cls(terms, dense)

    def seconds(self, cost: StepCost) -> float:
        """Duration under a cost; what stepping `step_s` adds up to."""
        return float(self.terms @ constants(cost) + self.dense @ np.array(cost.dense_s))


def constants(cost: StepCost) -> Floats:
    """[TERMS] constants that an exposure's terms multiply."""
    surplus = cost.mixed_kv_ratio - 1.0
    return np.array(
        [
            cost.step_overhead_s,
            cost.sequence_s,
            cost.token_link_s,
            cost.prefill_pair_s,
            cost.prefill_window_pair_s,
            cost.prefill_kv_s,
            cost.kv_token_s,
            cost.kv_window_token_s,
            cost.kv_token_s * surplus,
            cost.kv_window_token_s * surplus,
            cost.mixed_sequence_s,
            cost.padded_query_s,
        ]
    )


@njit(cache=True)
def expose(shape: Shape, times: float, terms: Floats, dense: Floats) -> None:
    """Add `times` steps of a shape to the coefficients (a kernel)."""
    mixed = times if shape.prefill_sequences > 0 else 0.0
    decodes = shape.sequences - shape.prefill_sequences
    terms[0] += times
    terms[1] += times * shape.sequences
    terms[2] += times * shape.tokens
    terms[3] += times * shape.prefill_token_pairs
    terms[4] += times * shape.prefill_window_token_pairs
    terms[5] += times * shape.prefill_kv_tokens
    terms[6] += times * shape.kv_tokens
    terms[7] += times * shape.kv_window_tokens
    terms[8] += mixed * shape.kv_tokens
    terms[9] += mixed * shape.kv_window_tokens
    terms[10] += mixed * decodes
    terms[11] += mixed * decodes * shape.longest_chunk_tokens
    tokens = float(max(shape.tokens, 1))
    high = min(max(int(np.searchsorted(GRID_TOKENS, tokens)), 1), GRID_SIZE - 1)
    low = high - 1
    share = (tokens - GRID_TOKENS[low]) / (GRID_TOKENS[high] - GRID_TOKENS[low])
    dense[low] += times * (1.0 - share)
    dense[high] += times * share
