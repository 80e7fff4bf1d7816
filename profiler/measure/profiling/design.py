"""Choose the next point to measure: the one that teaches most for its time.

Greedy D-optimal design (Fedorov, Theory of Optimal Experiments, 1972; sequential and
Bayesian as in Chaloner and Verdinelli, Statistical Science 10, 1995): a point's gain is
what it adds to the log determinant of the information about the groups of constants and
about bends of the dense curve, starting from the prior's own. Pure: nothing is driven here.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.calibrate import Measurement, predict_s
from profiler.estimate import GROUPS, Estimate, scaled
from profiler.measure.profiling.curve import KNOT_TOKENS, bent
from profiler.measure.profiling.points import (
    INJECTIONS,
    REPEATS,
    WINDOW_STEPS,
    WINDOWS,
    Mixed,
    Point,
    Prefill,
    decode_shape,
    expected,
    prefill_shape,
)
from profiler.step_cost import StepCost, step_s

Floats = NDArray[np.float64]

_NUDGE = 1e-3
"""Of a log factor, for differences."""
_FIXED_S = 0.5
"""Connections, looks at counters, and the wait for the engine to be idle."""
_ENOUGH = 0.5
"""Where no point's duration is known worse than by this many of its own errors, measuring
it would teach little: the largest variance bounds the D-optimal gain (Kiefer and Wolfowitz,
Canadian Journal of Mathematics 12, 1960)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The next point, what it teaches and what it takes."""

    point: Point
    gain_nats: float
    cost_s: float


def next_point(
    estimate: Estimate,
    bend: float,
    points: Sequence[Point],
    measured: Collection[Point],
    budget_s: float,
) -> Choice | None:
    """The best of `points` not measured yet that fits into the budget; None: stop.

    `bend` is the log standard deviation by which the dense curve may leave the estimate's
    at each of its knots.
    """
    spread = np.concatenate([estimate.uncertainty.array(), np.full(len(KNOT_TOKENS), bend)])
    rows = {p: _row(estimate.cost, p, spread) for p in (*points, *measured)}
    information = np.eye(spread.size)
    for p in measured:
        information += np.outer(rows[p], rows[p])
    covariance: Floats = np.linalg.inv(information).astype(np.float64)
    choices = [
        Choice(p, _gain(covariance, rows[p]), point_cost_s(estimate.cost, p))
        for p in points
        if p not in measured
    ]
    enough_nats = 0.5 * np.log1p(_ENOUGH**2)
    worth = [c for c in choices if c.cost_s <= budget_s and c.gain_nats > enough_nats]
    return max(worth, key=lambda c: c.gain_nats / (c.cost_s + _FIXED_S), default=None)


def _gain(covariance: Floats, row: Floats) -> float:
    """Rise of ½ log det; by the matrix determinant lemma."""
    return float(0.5 * np.log1p(row @ covariance @ row))


def _row(cost: StepCost, point: Point, spread: Floats) -> Floats:
    """[groups + knots] sensitivity of a point's log duration, in prior errors per own error."""
    measurement = expected(point, cost.window_tokens)
    base = np.log(max(predict_s(cost, measurement), 1e-12))
    row = np.array(
        [_log_s(_nudged(cost, i), measurement) - base for i in range(spread.size)], np.float64
    )
    scaled_row: Floats = row / _NUDGE * spread / measurement.error_ratio
    return scaled_row


def _nudged(cost: StepCost, i: int) -> StepCost:
    factors = np.zeros(len(GROUPS) + len(KNOT_TOKENS))
    factors[i] = _NUDGE
    if i < len(GROUPS):
        return scaled(cost, factors[: len(GROUPS)])
    return bent(cost, factors[len(GROUPS) :])


def _log_s(cost: StepCost, measurement: Measurement) -> float:
    return float(np.log(max(predict_s(cost, measurement), 1e-12)))


def point_cost_s(cost: StepCost, point: Point) -> float:
    """Seconds that measuring a point takes, by the estimate itself."""
    window = cost.window_tokens
    if isinstance(point, Prefill):
        one = step_s(cost, prefill_shape(point.tokens, point.cached, window)) + cost.request_s
        cached = step_s(cost, prefill_shape(max(point.cached, 1), 0, window))
        return float(_FIXED_S + (REPEATS[0] + 2) * one + cached * (point.cached > 0))
    decode = step_s(cost, decode_shape(point.sequences, point.context, window))
    begin = point.sequences * step_s(cost, prefill_shape(max(point.context, 1), 0, window))
    steps: float = WINDOW_STEPS * WINDOWS[0] * decode
    if isinstance(point, Mixed):
        chunk = step_s(cost, prefill_shape(point.tokens, 0, window))
        steps = WINDOWS[0] * INJECTIONS * (2 * decode + chunk + cost.request_s)
    return float(_FIXED_S + begin + steps)
