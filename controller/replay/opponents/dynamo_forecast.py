"""The load predictors of NVIDIA Dynamo's planner, one step ahead.

Called by `dynamo`. `constant` and `kalman` are the planner's own rules. `arima` stands in for
pmdarima's automatic choice: the order with the least AIC among ARIMA(p, d, 0), p ≤ 2, d ≤ 1, by
least squares, on log1p where it collapses to p = 0; no moving-average terms. Prophet is left out.

Source: ai-dynamo/dynamo `components/src/dynamo/planner/core/load/predictors.py`,
`config/defaults.py`.
"""

from collections.abc import Sequence
from itertools import product
from math import expm1, isfinite, log, log1p
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Predictor = Literal["constant", "arima", "kalman"]

LEAST_POINTS = 5
MOST_POINTS = 120
"""Kept of a series; the planner keeps all."""

KALMAN_Q_LEVEL, KALMAN_Q_TREND, KALMAN_R = 1.0, 0.1, 10.0


def observe(points: tuple[float, ...], value: float) -> tuple[float, ...]:
    """Append a point; the zeros before the first load are skipped, what is not finite is zero."""
    value = value if isfinite(value) else 0.0
    if value == 0.0 and not points:
        return points
    return (*points, value)[-MOST_POINTS:]


def predict(points: Sequence[float], predictor: Predictor) -> float:
    """Forecast the next point, never negative; zero before any load."""
    if not points:
        return 0.0
    if predictor == "constant":
        return points[-1]
    if predictor == "kalman":
        return kalman(points)
    return arima(points)


def kalman(points: Sequence[float]) -> float:
    """Local linear trend: level and trend filtered, the level one step ahead."""
    step = np.array([[1.0, 1.0], [0.0, 1.0]])
    noise = np.diag([KALMAN_Q_LEVEL, KALMAN_Q_TREND])
    state, spread = np.array([points[0], 0.0]), np.eye(2) * 1000.0
    for point in points[1:]:
        state, spread = step @ state, step @ spread @ step.T + noise
        gain = spread[:, 0] / (spread[0, 0] + KALMAN_R)
        state = state + gain * (point - state[0])
        spread = spread - np.outer(gain, spread[0])
    return float((step @ state)[0])


def arima(points: Sequence[float]) -> float:
    """Forecast by the automatic order; the last point where there are too few."""
    if len(points) < LEAST_POINTS:
        return points[-1]
    if len(set(points)) == 1:
        return points[0]
    forecast, order = _best(np.asarray(points, dtype=np.float64))
    if order == 0:
        forecast = expm1(_best(np.array([log1p(max(point, 0.0)) for point in points]))[0])
    return max(0.0, forecast) if isfinite(forecast) else points[-1]


def _best(series: NDArray[np.float64]) -> tuple[float, int]:
    """Forecast and autoregressive order of the least AIC."""
    fits = (_fit(series, order, steps) for order, steps in product(range(3), range(2)))
    _, forecast, order = min(fit for fit in fits if fit is not None)
    return forecast, order


def _fit(
    series: NDArray[np.float64], order: int, differences: int
) -> tuple[float, float, int] | None:
    """AIC, forecast and order of one candidate; None where the points do not determine it."""
    moved = np.diff(series, differences) if differences else series
    rows = moved.size - 2  # the same points for every order, so that the criteria compare
    if rows < order + 2:
        return None
    lags = [moved[2 - lag : moved.size - lag] for lag in range(1, order + 1)]
    design = np.column_stack([np.ones(rows), *lags])
    weights = np.linalg.lstsq(design, moved[2:], rcond=None)[0]
    errors = moved[2:] - design @ weights
    variance = max(float(errors @ errors) / rows, 1e-12)
    last = np.concatenate([[1.0], moved[::-1][:order]])
    forecast = float(last @ weights) + (float(series[-1]) if differences else 0.0)
    return rows * log(variance) + 2.0 * (order + 2), forecast, order
