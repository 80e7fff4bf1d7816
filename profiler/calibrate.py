"""Correct a step cost by what a whole engine showed.

Each group of constants gets one factor. A prior keeps the factors where the measurements
say little: two or three points move what they touch and leave the rest, many points
override the prior. Maximum a posteriori in logarithms, with a loss that forgives outliers;
the curvature at the optimum gives the errors that remain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from profiler.errors import Refused
from profiler.estimate import GROUPS, Estimate, Uncertainty, scaled, shifted
from profiler.exposure import Exposure
from profiler.scheduler import Shape
from profiler.step_cost import StepCost, step_s

_OUTLIER = 2.5
"""Residuals beyond so many of their errors count less and less (soft L1)."""


class Steps(NamedTuple):
    """So many steps of one shape."""

    shape: Shape
    times: float = 1.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """A duration measured on a whole engine, and the steps that made it."""

    name: str
    """What it was, for people: `prefill 2048`, `decode 64 × 1024`."""
    steps: tuple[Steps, ...]
    seconds: float
    requests: float = 0.0
    """API times in it: 1 for a TTFT, 0 for a gap between tokens."""
    error_ratio: float = 0.02
    """Its own relative standard error; also what the formula cannot follow."""
    exposure: Exposure | None = None
    """Means over many steps of a simulated schedule, instead of or besides `steps`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted."""
        if not 0 < self.seconds < np.inf:
            raise Refused(f"{self.name}: measured {self.seconds} s: a duration is positive")
        if not self.error_ratio > 0:
            raise Refused(f"{self.name}: error_ratio {self.error_ratio} must be positive")
        if not self.steps and self.exposure is None and not self.requests:
            raise Refused(f"{self.name}: has no step and no request in it")


def predict_s(cost: StepCost, measurement: Measurement) -> float:
    """Duration that a cost predicts for the steps of a measurement."""
    steps = sum(step_s(cost, shape) * times for shape, times in measurement.steps)
    means = 0.0 if measurement.exposure is None else measurement.exposure.seconds(cost)
    return steps + means + measurement.requests * cost.request_s


@dataclass(frozen=True, slots=True)
class Residual:
    """One measurement beside its prediction."""

    name: str
    measured_s: float
    predicted_s: float

    @property
    def error_ratio(self) -> float:
        """Relative error of the prediction, signed."""
        return self.predicted_s / self.measured_s - 1.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the measurements made of a prior."""

    estimate: Estimate
    residuals: tuple[Residual, ...]
    """After the fit, on the points it was fitted on."""
    held_out: tuple[Residual, ...] = ()
    """Each point predicted by a fit of all the others."""

    @property
    def mean_error_ratio(self) -> float:
        """Mean |relative error| of the points left out; of the fit's own where none were."""
        errors = [abs(r.error_ratio) for r in self.held_out or self.residuals]
        return float(np.mean(errors)) if errors else float("nan")


def calibrate(
    prior: Estimate, measurements: Sequence[Measurement], *, cross_validate: bool = True
) -> Calibration:
    """Fit the group factors; with no measurements the prior comes back unchanged."""
    estimate = _fit(prior, measurements)
    held_out: tuple[Residual, ...] = ()
    if cross_validate and len(measurements) > 2:
        held_out = tuple(
            _residual(_fit(prior, [*measurements[:i], *measurements[i + 1 :]]).cost, left)
            for i, left in enumerate(measurements)
        )
    residuals = tuple(_residual(estimate.cost, m) for m in measurements)
    return Calibration(estimate, residuals, held_out)


def _residual(cost: StepCost, measurement: Measurement) -> Residual:
    return Residual(measurement.name, measurement.seconds, predict_s(cost, measurement))


def _fit(prior: Estimate, measurements: Sequence[Measurement]) -> Estimate:
    if not measurements:
        return prior
    prior_errors = prior.uncertainty.array()
    log_measured = np.log([m.seconds for m in measurements])
    errors = np.array([m.error_ratio for m in measurements])

    def residuals(log_factors: NDArray[np.float64]) -> NDArray[np.float64]:
        cost = scaled(prior.cost, log_factors)
        log_predicted = np.log([max(predict_s(cost, m), 1e-12) for m in measurements])
        points = _forgiving((log_predicted - log_measured) / errors)
        return np.concatenate([points, log_factors / prior_errors])

    bound = 5.0 * prior_errors
    found = least_squares(residuals, np.zeros(len(GROUPS)), bounds=(-bound, bound), x_scale=bound)
    slopes: NDArray[np.float64] = np.asarray(found.jac)
    left = np.sqrt(np.diagonal(np.linalg.inv(slopes.T @ slopes)))
    return shifted(_calibrated(prior, left < 0.7 * prior_errors), found.x, Uncertainty.of(left))


def _forgiving(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Residuals whose square is the soft L1 loss; applied to the points, not to the prior."""
    loss = 2.0 * _OUTLIER**2 * (np.sqrt(1.0 + (errors / _OUTLIER) ** 2) - 1.0)
    signed: NDArray[np.float64] = np.sign(errors) * np.sqrt(loss)
    return signed


def _calibrated(prior: Estimate, learned: NDArray[np.bool_]) -> Estimate:
    """Note which groups the measurements taught something about."""
    origins = tuple(
        "measured" if new else origin for new, origin in zip(learned, prior.origins, strict=True)
    )
    return Estimate(prior.cost, prior.uncertainty, origins)
