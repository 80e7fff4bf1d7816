"""Forecast the load over the time that a new replica takes to start.

A level that keeps coming back to its mean is expected to do so again, as far as the last hour shows
it (regression of the level one lead time later on the level before); one that wanders is expected
to stay. The loads that may come are what such a forecast says and what each of the last hour's fell
short by: the worse they were, the wider they are. A rise that is under way is carried on, and one
that comes at this time of every day is expected again.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.decide.history import Floats, History

Ints = NDArray[np.intp]

SMOOTHING_S = 20.0
SMOOTHING_SCRAPES = 3.0
"""The level is taken over one lead time, but over so many scrapes and seconds at least: a start
cannot answer what is over before it is done, and single scrapes are too noisy to act on."""
LEAST_KNOWN_S = 5.0
"""Less of that time known is an accident, not a level."""
LEAST_SPANS = 3
"""Shorter histories, in spans of level and lead, would take one step of the load for a habit."""
FELT_S = 30.0
"""A load that lasts so long is felt: what is shorter waits in the engines' batches."""
CUT = 0.95
"""Quantile of the loads that may come beyond which none is prepared for: one surge is no habit."""
_PICKS = 40
"""Of those loads, at even quantiles: as good as all, and quicker."""
TOLD = 0.80
"""Quantile of them that people are told."""
STAYS_PRIOR = 4.0
"""Spans of level and lead that "it stays as it is" counts as, against a return to the mean."""
PRIOR_RISE_RATIO = 0.15
"""Rise expected over a lead time before history shows one."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Load to be ready for within one lead time, in replicas' worth."""

    level: float
    """What it is now."""
    sure: float
    """What it is taken to become in any case: what it is, and a rise that is under way."""
    loads: tuple[float, ...]
    """What it may be, in ascending order, each as likely."""
    error_ratio: float | None = None
    """Mean error of having taken a level for the next lead time's; None without history."""

    @property
    def load(self) -> float:
        """What to be ready for, in one figure."""
        return max(self.loads[int(TOLD * len(self.loads))], self.sure)


def smoothing_s(history: History, lead_s: float) -> float:
    """Window of the level."""
    return max(lead_s, SMOOTHING_S, SMOOTHING_SCRAPES * history.cadence_s)


def forecast(
    history: History, lead_s: float, now_s: float, usual_ratio: float | None = None
) -> Forecast | None:
    """Forecast from what was seen; None with too little of it lately.

    `usual_ratio`: what the load rises by at this time of every day, over what it is; None: no
    habit.
    """
    window_s = smoothing_s(history, lead_s)
    level = history.mean(now_s - window_s, now_s)
    if level is None or history.known_s(now_s - window_s) < LEAST_KNOWN_S:
        return None
    span_s = max(lead_s, SMOOTHING_S)
    trend = _trend(history, level, window_s, span_s, now_s)
    season = (usual_ratio or 0.0) * level
    pairs = None
    if history.spans_s > LEAST_SPANS * (span_s + window_s):
        pairs = _pairs(history, window_s, span_s)
    if pairs is None:
        load = level + max(PRIOR_RISE_RATIO * level, trend, season)
        return Forecast(level, load, (load,))
    earlier, later, felt = pairs
    stays = _stays(earlier, later, history.spans_s / (span_s + window_s))
    loads = np.sort(np.maximum(felt + stays * (level - earlier), 0.0))
    return Forecast(
        level=level,
        sure=level + max(stays * trend, season, 0.0),
        loads=tuple(loads[(_QUANTILES * loads.size).astype(int)].tolist()),
        error_ratio=float(np.abs(later - earlier).mean()) / max(float(later.mean()), 1e-9),
    )


def _trend(history: History, level: float, window_s: float, span_s: float, now_s: float) -> float:
    """What the level has risen by in the last span, as far as it still does; 0 where it fell.

    A step that is over half a window ago has been taken, and is not carried on.
    """
    before = history.mean(now_s - span_s - window_s, now_s - span_s)
    if before is None or before >= level:
        return 0.0
    newer = history.mean(now_s - window_s / 2, now_s)
    older = history.mean(now_s - window_s, now_s - window_s / 2)
    still = math.inf if newer is None or older is None else 2.0 * (newer - older)
    return max(min(level - before, still), 0.0)


def _stays(earlier: Floats, later: Floats, spans: float) -> float:
    """Share of a level's distance from the mean that is left one lead time later, 0 to 1."""
    before, after = earlier - earlier.mean(), later - later.mean()
    slope = float(before @ after) / max(float(before @ before), 1e-12)
    return min(max((spans * slope + STAYS_PRIOR) / (spans + STAYS_PRIOR), 0.0), 1.0)


def _pairs(
    history: History, window_s: float, span_s: float
) -> tuple[Floats, Floats, Floats] | None:
    """Levels, those of one span later, and the loads felt then; [pairs] each. None without any."""
    at_s = history.at_s
    whole = (at_s - at_s[0] >= window_s) & (at_s <= at_s[-1] - span_s)
    starts = np.flatnonzero(whole)[::2]  # neighbours' windows are nearly the same
    if not starts.size:
        return None
    later = np.minimum(np.searchsorted(at_s, at_s[starts] + span_s), at_s.size - 1)
    weight = history.over_s
    total = np.concatenate([[0.0], np.cumsum(history.load * weight)])
    known_s = np.concatenate([[0.0], np.cumsum(weight)])

    def means(ends: Ints, over_s: float) -> Floats:
        first = np.searchsorted(at_s, at_s[ends] - over_s, side="right")
        known = np.maximum(known_s[ends + 1] - known_s[first], 1e-9)
        return (total[ends + 1] - total[first]) / known  # type: ignore[no-any-return]

    return means(starts, window_s), means(later, window_s), means(later, FELT_S)


_QUANTILES = np.minimum((np.arange(_PICKS) + 0.5) / _PICKS, CUT)
