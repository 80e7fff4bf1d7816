"""What counters and histograms say of requests: arithmetic alone, for both sources.

Called by `controller.traffic.prometheus` and `controller.traffic.engine`. NaN is what nobody
knows; it never becomes zero here.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from monitor import Sample
from recommender import LengthCounts

Floats = NDArray[np.float64]
Notes = tuple[str, ...]
"""What was missing, and what was used in its place; for people."""

TARGET = (
    *("cluster", "namespace", "pod", "job", "instance"),
    *("exported_job", "exported_instance", "model_name"),
)
"""Labels that tell engines apart; one that is not there tells nothing."""
LENGTHS = {"prompt_length": "prompt lengths", "generation_length": "answer lengths"}
"""Histograms of lengths, as `monitor.signals` and as people name them."""
SMOOTHED = (
    "{count} engines publish no running and waiting requests: theirs are counted as they end, "
    "which smooths bursts"
)
LEAST_ENDED = 30
"""With fewer requests, neither burstiness nor lengths can be told."""
_LEAST_INTERVALS = 8
"""With fewer, burstiness is not told from counts."""
_OPEN_ENDED_RATIO = 0.05
"""Requests beyond the last bound of which it is worth to speak."""
_MOST_HIT_RATIO = 0.999


def key_of(labels: Mapping[str, str]) -> tuple[str, ...]:
    """What tells an engine from others."""
    return tuple(labels.get(name, "") for name in TARGET)


def arrivals_per_interval(finished: Floats, held: Floats) -> Floats:
    """[points − 1] requests that came between two moments, of all engines together.

    `finished`: [engines, points] requests ended since an engine's start; `held`: those in its
    batch and queue. NaN: no sample. An interval is NaN where nothing was seen, and where one
    engine's requests cannot be told: over a gap in its samples, and when it began anew. What an
    engine counted before its first sample is not counted; what it held when it went, is: that
    had come.
    """
    points = finished.shape[1]
    seen: NDArray[np.bool_] = np.isfinite(finished) & np.isfinite(held)
    total = np.zeros(points - 1)
    for row in range(finished.shape[0]):
        places = np.flatnonzero(seen[row])
        total += _of_engine(finished[row, places], held[row, places], places, points)
    anybody = np.any(seen, axis=0)
    total[~(anybody[:-1] & anybody[1:])] = np.nan
    return total


def _of_engine(finished: Floats, held: Floats, places: NDArray[np.intp], points: int) -> Floats:
    """One engine's share of `arrivals_per_interval`; its samples lie at `places`."""
    counts = np.zeros(points - 1)
    restarts = np.flatnonzero(np.diff(finished) < 0) + 1
    came = finished + held
    for first, end in pairwise([0, *restarts, places.size]):
        # gauges and counters may be a step apart: what seems to go back is made up for later
        added = np.diff(np.maximum.accumulate(came[first:end]))
        for i, more in enumerate(added, start=first):
            gap = places[i + 1] - places[i] > 1
            counts[places[i] : places[i + 1]] = np.nan if gap else more
    counts[places[restarts] - 1] = np.nan
    return counts


def merged_lengths(buckets: Iterable[Sample], total_tokens: float) -> LengthCounts:
    """Add up the engines' histograms, whose bounds may differ: they end at the longest request.

    So an engine without a bound counts nothing between its own last and that one.
    """
    engines: dict[tuple[str, ...], dict[float, float]] = {}
    for labels, value in buckets:
        engines.setdefault(key_of(labels), {})[float(labels["le"])] = value
    bounds = np.array(sorted({bound for engine in engines.values() for bound in engine}))
    cumulative = np.zeros(bounds.size)
    for engine in engines.values():
        cumulative += _at_bounds(engine, bounds)
    counts = np.diff(np.maximum.accumulate(cumulative), prepend=0.0)
    return LengthCounts(tuple(bounds.tolist()), tuple(counts.tolist()), total_tokens)


def _at_bounds(engine: Mapping[float, float], bounds: Floats) -> Floats:
    """One engine's cumulative counts at other bounds, even inside a bucket."""
    own = sorted(bound for bound in engine if np.isfinite(bound))
    everything = engine.get(np.inf, max(engine.values()))
    counts = [engine[bound] for bound in own]
    return np.interp(bounds, [0.0, *own], [0.0, *counts], right=everything)


def hit_ratio_of(hits: float | None, queries: float | None) -> tuple[float, Notes]:
    """Share of the tokens looked up in the prefix cache that were there; 0 when unknown."""
    if hits is None or queries is None:
        return 0.0, ("no counters of the prefix cache: its hits are taken as 0",)
    if not queries > 0:
        return 0.0, ("nothing was looked up in the prefix cache: its hits are taken as 0",)
    return min(max(hits / queries, 0.0), _MOST_HIT_RATIO), ()


def notes_of(counts: Floats) -> Notes:
    """What is to be said of a row of counts."""
    known = int(np.isfinite(counts).sum())
    notes = []
    if known < counts.size:
        notes.append(
            f"{counts.size - known} of {counts.size} intervals are left out: gaps in the scrape, "
            f"or an engine that began anew"
        )
    if known < _LEAST_INTERVALS or np.nansum(counts) < LEAST_ENDED:
        notes.append("too few requests or intervals to tell burstiness: taken as Poisson")
    return tuple(notes)


def open_ended(prompts: LengthCounts, answers: LengthCounts) -> Notes:
    """Say when the last bucket, which has no end, holds many requests."""
    notes = []
    for name, lengths in (("prompts", prompts), ("answers", answers)):
        total = sum(lengths.counts)
        ratio = lengths.counts[-1] / total if total > 0 and np.isinf(lengths.bounds[-1]) else 0.0
        if ratio > _OPEN_ENDED_RATIO:
            last = lengths.bounds[-2] if len(lengths.bounds) > 1 else 0.0
            notes.append(
                f"{ratio:.0%} of the {name} are longer than the last bucket, {last:g} tokens: how "
                f"much longer is a guess"
            )
    return tuple(notes)
