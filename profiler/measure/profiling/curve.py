"""Bend the dense curve where measurements leave its prior shape.

`calibrate` scales the two ends of the curve; kernels also change their tiling in between,
and on a CPU reading and computing add up where a GPU overlaps them. A factor at each knot,
linear in between over the logarithm of the tokens, follows that.
"""

import numpy as np
from numpy.typing import NDArray

from profiler.step_cost import GRID_TOKENS, StepCost

KNOT_TOKENS = (1, 8, 64, 256, 1024, 4096)


def bent(cost: StepCost, log_factors: NDArray[np.float64]) -> StepCost:
    """Multiply the curve by exp of the factors ([knots]); kept from falling."""
    places = np.log(np.array(KNOT_TOKENS, np.float64))
    factors = np.exp(np.interp(np.log(GRID_TOKENS), places, log_factors))
    curve = np.maximum.accumulate(np.array(cost.dense_s) * factors)
    return cost._replace(dense_s=tuple(curve.tolist()))
