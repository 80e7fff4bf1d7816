"""A workload from what somebody counted: arrivals per interval, histograms of lengths.

As Prometheus or an engine's own page hold them; who reads them there is `controller.traffic`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiler.errors import Refused
from recommender.workload import (
    CALMEST,
    PEAK_S,
    SAMPLE,
    Errors,
    Floats,
    Ints,
    Workload,
    by_chance,
    check_ratio,
)

_TELLING_COUNT, _LEAST_COUNTS = 20.0, 60
"""Arrivals an interval that show the bursts in it, and intervals that must be left."""
_STEEPEST, _ROUNDS = 4.0, 40


@dataclass(frozen=True, slots=True)
class LengthCounts:
    """A histogram of prompt or answer lengths."""

    bounds: tuple[float, ...]
    """[buckets] upper bounds in tokens, ascending; the last may be infinite."""
    counts: tuple[float, ...]
    """[buckets] requests in each, not cumulative."""
    total_tokens: float
    """Sum of all lengths."""


def workload_from_counts(
    requests: Sequence[float],
    interval_s: float,
    prompts: LengthCounts,
    answers: LengthCounts,
    hit_ratio: float = 0.0,
) -> Workload:
    """Make a workload from counters and histograms, as Prometheus or an engine holds them.

    `requests`: arrivals in each of a row of intervals of `interval_s`, NaN where unknown. The
    dispersion of the counts is that of the gaps, squared (renewal theory: the variance of a
    count over its mean tends to cv²). Raises `Refused` where nothing came.
    """
    counts = np.asarray(requests, np.float64)
    seen = counts[np.isfinite(counts)]
    if seen.size == 0 or seen.sum() <= 0 or interval_s <= 0:
        raise Refused("workload: no requests in the time asked for: take a longer one")
    check_ratio(hit_ratio)
    cv = cv_of_counts(counts)
    inputs, outputs = _lengths(prompts, "prompt", 1), _lengths(answers, "generation", 2)
    return Workload(
        rate_rps=float(seen.mean()) / interval_s,
        cv=cv,
        input_tokens=inputs,
        output_tokens=outputs,
        hit_ratio=hit_ratio,
        peak_rps=_peak_of_counts(counts, interval_s, cv),
        errors=Errors(
            cv / float(seen.sum()) ** 0.5,
            _error_of_lengths(inputs, prompts),
            _error_of_lengths(outputs, answers),
        ),
        drawn=True,
    )


def cv_of_counts(counts: Floats) -> float:
    """Burstiness from arrivals per interval (NaN: unknown); 1, Poisson, where too few came.

    Slow changes of the rate are taken out: differences of neighbours have twice the variance.
    Short intervals hide bursts, so neighbours are added up while enough of them are left.
    """
    known = counts[np.isfinite(counts)]
    if known.size < 8 or known.sum() < 30:
        return 1.0
    wanted = _TELLING_COUNT / max(float(known.mean()), 1e-9)
    width = int(np.clip(np.ceil(wanted), 1, max(counts.size // _LEAST_COUNTS, 1)))
    groups = counts[: counts.size // width * width].reshape(-1, width).sum(axis=1)
    steps = np.diff(groups)
    steps = steps[np.isfinite(steps)]
    if steps.size < 4:
        return 1.0
    variance = float(np.mean(steps**2)) / 2.0
    return float(np.clip(np.sqrt(variance / np.nanmean(groups)), CALMEST, 10.0))


def _peak_of_counts(counts: Floats, interval_s: float, cv: float) -> float:
    """Rate of the busiest window without a gap in it, less what chance makes of a steady one."""
    width = int(np.clip(PEAK_S / interval_s, 1, max(counts.size // 4, 1)))
    moving = np.convolve(counts, np.ones(width), "valid")
    mean = float(np.nanmean(counts))
    if not np.isfinite(moving).any():
        return mean / interval_s
    above = float(np.nanmax(moving)) - by_chance(mean * width, cv, counts.size / width)
    return max(above / width, mean) / interval_s


def _lengths(histogram: LengthCounts, name: str, seed: int) -> Ints:
    """[SAMPLE] lengths as the histogram has them, each in its bucket, together of its mean."""
    counts = np.maximum(np.asarray(histogram.counts, np.float64), 0.0)
    total = float(counts.sum())
    if not total > 0 or not np.isfinite(histogram.total_tokens):
        raise Refused(f"workload: no {name} lengths in the time asked for: take a longer one")
    mean = max(histogram.total_tokens / total, 1.0)
    upper = np.asarray(histogram.bounds, np.float64)
    lower = np.concatenate([[0.0], upper[:-1]])
    upper = np.where(np.isfinite(upper), upper, np.maximum(2.0 * lower, 2.0 * mean))
    ranks = (np.arange(SAMPLE) + 0.5) / SAMPLE * total
    place = np.minimum(np.searchsorted(np.cumsum(counts), ranks), counts.size - 1)
    below = np.concatenate([[0.0], np.cumsum(counts)])[place]
    share = np.clip((ranks - below) / counts[place], 1e-9, 1.0)
    drawn = _tilted(lower[place], upper[place], share, mean)
    whole: Ints = np.maximum(np.rint(drawn), 1).astype(np.int64)
    return np.random.default_rng(seed).permutation(whole)


def _tilted(lower: Floats, upper: Floats, share: Floats, mean: float) -> Floats:
    """Place values inside their buckets, low or high, so that they have the mean."""
    low, high = -_STEEPEST, _STEEPEST
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        drawn = lower + (upper - lower) * share ** np.exp(middle)
        low, high = (low, middle) if drawn.mean() < mean else (middle, high)
    placed: Floats = lower + (upper - lower) * share ** np.exp((low + high) / 2)
    return placed


def _error_of_lengths(lengths: Ints, histogram: LengthCounts) -> float:
    """Relative error of the mean of as many lengths as were counted."""
    counted = max(sum(histogram.counts), 1.0)
    return float(lengths.std() / lengths.mean() / counted**0.5)
