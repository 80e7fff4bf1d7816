"""Forecast demand over the time that a new replica takes to start.

At these horizons the last value forecasts as well as any model; what pays is headroom by
quantile: how much demand has risen over one lead time before, it may rise again.
"""

import numpy as np
from numpy.typing import NDArray

from controller.decide.types import Sample

HISTORY_S = 1800.0
SMOOTHING_S = 20.0
"""Window of the current level; single scrapes are too noisy to act on."""
LEAST_SAMPLES = 5
"""Fewer in the window are an accident, not a level."""
LEAST_SPANS = 8
"""Shorter histories, in lead times, would take a single step of the load for a habit."""
QUANTILE = 0.90
PRIOR_RISE_RATIO = 0.15
"""Rise expected over a lead time before history shows one."""


def remember(
    samples: tuple[Sample, ...], arrival_rps: float | None, now_s: float
) -> tuple[Sample, ...]:
    """Append what was seen, drop what is too old; unknown arrivals leave a gap."""
    kept = tuple(sample for sample in samples if sample.at_s > now_s - HISTORY_S)
    return kept if arrival_rps is None else (*kept, Sample(now_s, arrival_rps))


def forecast_rps(samples: tuple[Sample, ...], lead_s: float, now_s: float) -> float | None:
    """Arrivals a second to be ready for within `lead_s`; None with too few recent samples."""
    at_s = np.array([sample.at_s for sample in samples])
    rates = np.array([sample.arrival_rps for sample in samples])
    recent = at_s > now_s - SMOOTHING_S
    if recent.sum() < LEAST_SAMPLES:
        return None
    level = float(rates[recent].mean())
    return level + _rise(at_s, rates, lead_s, level)


def _rise(
    at_s: NDArray[np.float64], rates: NDArray[np.float64], lead_s: float, level: float
) -> float:
    """Quantile of the rises of the level over one lead time, never negative."""
    prior = PRIOR_RISE_RATIO * level
    span = max(lead_s, SMOOTHING_S)
    starts = np.flatnonzero(at_s <= at_s[-1] - span)
    if at_s[-1] - at_s[0] < LEAST_SPANS * span or starts.size < LEAST_SAMPLES:
        return prior
    totals = np.concatenate([[0.0], np.cumsum(rates)])
    upper = np.arange(1, at_s.size + 1)
    lower = np.searchsorted(at_s, at_s - SMOOTHING_S, side="right")
    smooth = (totals[upper] - totals[lower]) / (upper - lower)
    later = np.searchsorted(at_s, at_s[starts] + span)
    rises = smooth[np.minimum(later, at_s.size - 1)] - smooth[starts]
    return float(max(np.quantile(rises, QUANTILE), 0.0))
