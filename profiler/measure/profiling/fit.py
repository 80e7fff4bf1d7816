"""From measured points to constants: prior, fit, cross-validation.

Pure. Beside the groups of constants, which `calibrate` moves, the dense curve may bend at a
few knots, each held by a prior of its own: a profile has the points to say so. A point that
is left out is left out whole, as its time to first token and its prefill time are one
observation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from profiler.architecture import Architecture
from profiler.calibrate import (
    Calibration,
    Measurement,
    Posterior,
    Residual,
    most_likely,
    origins_after,
    predict_s,
    residual,
)
from profiler.errors import Refused
from profiler.estimate import GROUPS, Estimate, Parts, Uncertainty, parts, scaled
from profiler.measure.profiling.curve import KNOT_TOKENS, bent
from profiler.measure.profiling.points import FLOOR_RATIO, Decode, Point, Prefill
from profiler.step_cost import NO_WINDOW, StepCost, dense_curve

KNOWN_BEND = 0.08
"""Log standard deviation by which kernels leave a known GPU's roofline at a knot."""
GENERIC_BEND = 0.25
"""The same where the curve is drawn through three measurements."""
WIDE = Uncertainty(
    weights=0.5, compute=0.4, prefill_attention=1.0, decode_attention=1.0, mixed=1.0, link=1.0,
    overhead=0.8, sequence=1.5, request=1.0,
)  # fmt: skip
"""Of a prior that no data sheet stands behind."""
GENERIC = "first measurements"

_OVERHEAD_SHARE = 0.3
"""Of a lone decode step; the rest is taken for reading weights."""
_ATTENTION_EFFICIENCY = 0.6
"""Attention reaches less of the peak than matrices do, as in `operators.Efficiency`."""
_PAIR_SHARE = 6e-5
"""Attention per pair of tokens beside a token's matrices: that of an 8 B model."""
_KV_SHARE = 1e-5
"""Reading one token's KV beside reading the weights: that of an 8 B model."""
_SEQUENCE_SHARE = 0.01
_MIXED_RATIO = 1.5
_LEAST_ERROR = 0.01
"""No constant is known better than this: engines differ from one start to the next."""
_ANCHOR = 0.3
"""Keeps the error of a group that the points say little of at its own."""
_SUSPICIOUS = 2.5
"""A point that took longer than predicted by so many of its errors is measured again."""
_FEW = 5
"""With fewer points none can be told from the rest."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished point: what it was, and what came of it."""

    point: Point
    measurements: tuple[Measurement, ...]


def fit(prior: Estimate, measured: Sequence[Measured], bend: float) -> Calibration:
    """Fit constants and curve; `held_out` has each point predicted by a fit of all others."""
    estimate = fit_estimate(prior, measured, bend)
    left_out: list[Residual] = []
    if len(measured) > 2:
        for i, left in enumerate(measured):
            others = [*measured[:i], *measured[i + 1 :]]
            cost = fit_estimate(prior, others, bend).cost
            left_out += [residual(cost, m) for m in left.measurements]
    kept = tuple(residual(estimate.cost, m) for m in _flat(measured))
    return Calibration(estimate, kept, tuple(left_out))


def suspicious(prior: Estimate, measured: Sequence[Measured], bend: float) -> tuple[Measured, ...]:
    """Points that took longer than a fit of all others explains, the worst first."""
    found = []
    for i, each in enumerate(measured if len(measured) > _FEW else ()):
        cost = fit_estimate(prior, [*measured[:i], *measured[i + 1 :]], bend).cost
        first = each.measurements[0]
        surplus = math.log(first.seconds / max(predict_s(cost, first), 1e-12))
        if surplus > _SUSPICIOUS * max(first.error_ratio, FLOOR_RATIO):
            found.append((surplus, i))
    return tuple(measured[i] for _, i in sorted(found, reverse=True))


def fit_estimate(prior: Estimate, measured: Sequence[Measured], bend: float) -> Estimate:
    """Move groups and bends together: maximum a posteriori in logarithms, as `calibrate`.

    One after the other would let the groups take what belongs to the curve.
    """
    measurements = _flat(measured)
    if not measurements:
        return prior
    prior_errors = prior.uncertainty.array()
    spread = np.concatenate([prior_errors, np.full(len(KNOT_TOKENS), bend)])
    found = most_likely(partial(_moved, prior.cost), spread, measurements)
    left = found.left[: len(GROUPS)]
    cost = _moved(prior.cost, found.log_factors)
    own = _independent(cost, measurements, found, left * prior_errors)
    return Estimate(cost, Uncertainty.of(own), origins_after(prior, left))


def _independent(
    cost: StepCost,
    measurements: Sequence[Measurement],
    found: Posterior,
    marginal: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[groups] errors that, taken as independent, give the errors of the points' predictions.

    Overhead and weights trade against each other, so their own errors stay wide where their
    sum is known well; an `Uncertainty` has no correlations to say so. Never wider than a
    group's own error, nor narrower than a tenth of it or 1 %.
    """
    rows = found.slopes[: len(measurements)] * np.array([[m.error_ratio] for m in measurements])
    known = np.einsum("pi,ij,pj->p", rows, found.covariance, rows)
    shares = np.array([_shares(cost, m) for m in measurements])
    wanted = (shares * marginal) ** 2 / np.maximum(known, _LEAST_ERROR**2)[:, None]
    anchor = _ANCHOR * np.eye(marginal.size)
    ratios = lsq_linear(
        np.vstack([wanted, anchor]),
        np.concatenate([np.ones(len(measurements)), np.full(marginal.size, _ANCHOR)]),
        bounds=(0.01, 1.0),
    )
    own: NDArray[np.float64] = np.maximum(
        marginal * np.sqrt(ratios.x), np.minimum(marginal, _LEAST_ERROR)
    )
    return own


def _shares(cost: StepCost, measurement: Measurement) -> NDArray[np.float64]:
    """[groups] share of each group in a measurement's predicted duration."""
    spent = np.zeros(len(GROUPS))
    for shape, times in measurement.steps:
        spent[: len(Parts._fields)] += np.array(parts(cost, shape)) * times
    spent[-1] = measurement.requests * cost.request_s
    shares: NDArray[np.float64] = spent / max(float(spent.sum()), 1e-12)
    return shares


def _moved(cost: StepCost, log_factors: NDArray[np.float64]) -> StepCost:
    """Scale the groups, then bend the curve ([groups + knots])."""
    return bent(scaled(cost, log_factors[: len(GROUPS)]), log_factors[len(GROUPS) :])


def _flat(measured: Sequence[Measured]) -> list[Measurement]:
    return [m for each in measured for m in each.measurements]


def generic_prior(first: Sequence[Measured], architecture: Architecture | None) -> Estimate:
    """Draw a prior through a lone decode and lone prefills, where no data sheet is at hand.

    The dense curve goes through the prefills; attention is priced beside it as the
    architecture has it (that of an 8 B model where it is unknown), all with wide errors.
    """
    decode_s = _one(first, Decode)
    prefills = sorted((m.point.tokens, _steps_s(m)) for m in first if isinstance(m.point, Prefill))
    if len(prefills) < 2:
        raise Refused("a prior of one's own needs two lone prefills and a lone decode")
    overhead_s = _OVERHEAD_SHARE * decode_s
    weights_s = decode_s - overhead_s
    (n1, t1), (n2, t2) = prefills[0], prefills[-1]
    token_s = max((t2 - t1) / (n2 - n1), 1e-9)
    pair_s = token_s * _pair_share(architecture)
    tokens = [1.0, *(float(n) for n, _ in prefills)]
    seconds = [weights_s, *(max(t - overhead_s - pair_s * n * n / 2, 1e-9) for n, t in prefills)]
    cost = StepCost(
        step_overhead_s=overhead_s,
        sequence_s=_SEQUENCE_SHARE * decode_s,
        dense_s=dense_curve(tokens, seconds),
        token_link_s=0.0,
        prefill_pair_s=pair_s,
        prefill_window_pair_s=0.0,
        kv_token_s=weights_s * _kv_share(architecture),
        kv_window_token_s=0.0,
        mixed_kv_ratio=_MIXED_RATIO,
        window_tokens=NO_WINDOW,
        request_s=_request_s(first),
    )
    return Estimate.from_source(GENERIC, cost, WIDE)


def _one(first: Sequence[Measured], kind: type[Decode]) -> float:
    for m in first:
        if isinstance(m.point, kind):
            return _steps_s(m)
    raise Refused("a prior of one's own needs two lone prefills and a lone decode")


def _steps_s(measured: Measured) -> float:
    """Duration without the API's share where the engine told it, else with it."""
    alone = [m.seconds for m in measured.measurements if m.requests == 0]
    return min(alone, default=measured.measurements[0].seconds)


def _request_s(first: Sequence[Measured]) -> float:
    """Smallest surplus of a time to first token over its prefill; 5 ms where unknown."""
    surplus = [
        m.seconds - _steps_s(each) for each in first for m in each.measurements if m.requests > 0
    ]
    return max(min([s for s in surplus if s > 0], default=5e-3), 1e-4)


def _pair_share(a: Architecture | None) -> float:
    if a is None:
        return _PAIR_SHARE
    attention = 4.0 * a.heads * a.head_size * max(a.full_attention_layers, 1)
    return attention / (2.0 * max(a.active_parameters, 1)) / _ATTENTION_EFFICIENCY


def _kv_share(a: Architecture | None) -> float:
    if a is None:
        return _KV_SHARE
    kv_bytes = 2.0 * a.kv_elements_per_token() * max(a.layers - a.linear_layers, 1)
    return kv_bytes / max(a.weight_bytes, 1.0)
