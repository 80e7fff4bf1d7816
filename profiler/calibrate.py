"""Correct a step cost by what a whole engine showed.

Each group of constants gets one factor. A prior keeps the factors where the measurements
say little: two or three points move what they touch and leave the rest, many points
override the prior. Maximum a posteriori in logarithms, with a loss that forgives outliers;
the curvature at the optimum gives the errors that remain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from profiler.errors import Refused
from profiler.estimate import Estimate, Uncertainty, scaled
from profiler.exposure import Exposure
from profiler.scheduler import Shape
from profiler.step_cost import StepCost, step_s

Floats = NDArray[np.float64]

_OUTLIER = 2.5
"""Residuals beyond so many of their errors count less and less (soft L1)."""
_FARTHEST = 5.0
"""Prior errors that a factor may move."""
_LEARNED = 0.7
"""A group whose error fell below this share of the prior's was measured."""


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
            residual(_fit(prior, [*measurements[:i], *measurements[i + 1 :]]).cost, left)
            for i, left in enumerate(measurements)
        )
    residuals = tuple(residual(estimate.cost, m) for m in measurements)
    return Calibration(estimate, residuals, held_out)


def residual(cost: StepCost, measurement: Measurement) -> Residual:
    """One measurement beside its prediction."""
    return Residual(measurement.name, measurement.seconds, predict_s(cost, measurement))


class Posterior(NamedTuple):
    """Where a prior and measurements meet."""

    log_factors: Floats
    """[parameters] most likely."""
    slopes: Floats
    """[measurements + parameters, parameters] of the weighted residuals, by prior errors."""
    covariance: Floats
    """[parameters, parameters] relative to the prior's errors."""

    @property
    def left(self) -> Floats:
        """[parameters] share of the prior's error that is left."""
        share: Floats = np.sqrt(np.diagonal(self.covariance))
        return share


def most_likely(
    cost_of: Callable[[Floats], StepCost],
    prior_errors: Floats,
    measurements: Sequence[Measurement],
) -> Posterior:
    """Maximise the posterior of log factors with normal priors around 0.

    cost_of: the cost under [parameters] log factors; prior_errors: [parameters].
    """
    log_measured = np.log([m.seconds for m in measurements])
    errors = np.array([m.error_ratio for m in measurements])

    def residuals(relative: Floats) -> Floats:
        cost = cost_of(relative * prior_errors)
        log_predicted = np.log([max(predict_s(cost, m), 1e-12) for m in measurements])
        points = _forgiving((log_predicted - log_measured) / errors)
        return np.concatenate([points, relative])

    found = least_squares(residuals, np.zeros(prior_errors.size), bounds=(-_FARTHEST, _FARTHEST))
    slopes: Floats = np.asarray(found.jac, np.float64)
    covariance: Floats = np.linalg.inv(slopes.T @ slopes).astype(np.float64)
    return Posterior(found.x * prior_errors, slopes, covariance)


def origins_after(prior: Estimate, left: Floats) -> tuple[str, ...]:
    """Note which groups the measurements taught something about."""
    return tuple(
        "measured" if share < _LEARNED else origin
        for share, origin in zip(left, prior.origins, strict=True)
    )


def _fit(prior: Estimate, measurements: Sequence[Measurement]) -> Estimate:
    if not measurements:
        return prior
    errors = prior.uncertainty.array()
    found = most_likely(partial(scaled, prior.cost), errors, measurements)
    return Estimate(
        scaled(prior.cost, found.log_factors),
        Uncertainty.of(found.left * errors),
        origins_after(prior, found.left),
    )


def _forgiving(errors: Floats) -> Floats:
    """Residuals whose square is the soft L1 loss; applied to the points, not to the prior."""
    loss = 2.0 * _OUTLIER**2 * (np.sqrt(1.0 + (errors / _OUTLIER) ** 2) - 1.0)
    signed: Floats = np.sign(errors) * np.sqrt(loss)
    return signed
