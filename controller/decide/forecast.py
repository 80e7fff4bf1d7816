"""Forecast the load over the time that a new replica takes to start.

At these horizons the last value forecasts as well as any model; what pays is headroom by
quantile: how much the load has risen over one lead time before, it may rise again. The worse such
forecasts were, the wider the headroom becomes. A rise that is under way is carried on, and one that
comes at this time of every day is expected again.
"""

from dataclasses import dataclass

import numpy as np

from controller.decide.history import Floats, History

SMOOTHING_S = 20.0
SMOOTHING_SCRAPES = 3.0
"""The level is taken over one lead time, but over so many scrapes and seconds at least: a start
cannot answer what is over before it is done, and single scrapes are too noisy to act on."""
LEAST_KNOWN_S = 5.0
"""Less of that time known is an accident, not a level."""
LEAST_SPANS = 3
"""Shorter histories, in spans of level and lead, would take one step of the load for a habit."""
QUANTILE = 0.80
PRIOR_RISE_RATIO = 0.15
"""Rise expected over a lead time before history shows one."""
_FAINT = 0.1
"""Of the mean load: rises from less are measured as if from there; from nothing any is endless."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Load to be ready for within one lead time, in replicas' worth."""

    level: float
    """What it is now."""
    rise: float
    """What it may rise by; 0 or more."""
    error_ratio: float | None = None
    """Mean error of having taken a level for the next lead time's; None without history."""

    @property
    def load(self) -> float:
        """What to be ready for."""
        return self.level + self.rise


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
    before = history.mean(now_s - span_s - window_s, now_s - span_s)
    trend = max(0.0 if before is None else level - before, (usual_ratio or 0.0) * level)
    if history.spans_s <= LEAST_SPANS * (span_s + window_s):
        return Forecast(level, max(PRIOR_RISE_RATIO * level, trend))
    earlier, later = _pairs(history, window_s, span_s)
    if not earlier.size:
        return Forecast(level, max(PRIOR_RISE_RATIO * level, trend))
    mean = max(float(later.mean()), 1e-9)
    rises = (later - earlier) / np.maximum(earlier, _FAINT * mean)
    habit = max(_quantile(rises, QUANTILE), 0.0) * level
    return Forecast(level, max(habit, trend), float(np.abs(later - earlier).mean()) / mean)


def _quantile(values: Floats, q: float) -> float:
    """As `np.quantile`, in a tenth of the time: a thousand services ask every second."""
    ordered, place = np.sort(values), q * (values.size - 1)
    low = int(place)
    high = min(low + 1, values.size - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


def _pairs(history: History, window_s: float, span_s: float) -> tuple[Floats, Floats]:
    """Levels, and those of one span later; [pairs] each."""
    at_s, weight = history.at_s, history.over_s
    total = np.concatenate([[0.0], np.cumsum(history.load * weight)])
    known_s = np.concatenate([[0.0], np.cumsum(weight)])
    upper = np.arange(1, at_s.size + 1)
    lower = np.searchsorted(at_s, at_s - window_s, side="right")
    smooth = (total[upper] - total[lower]) / np.maximum(known_s[upper] - known_s[lower], 1e-9)
    whole = (at_s - at_s[0] >= window_s) & (at_s <= at_s[-1] - span_s)
    starts = np.flatnonzero(whole)
    later = np.minimum(np.searchsorted(at_s, at_s[starts] + span_s), at_s.size - 1)
    return smooth[starts], smooth[later]
