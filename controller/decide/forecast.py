"""Forecast the load over the time that a new replica takes to start.

A level that keeps coming back to its mean is expected to do so again, as far as the last hour shows
it (regression of the level one lead time later on the level before); one that wanders is expected
to stay. Headroom is a quantile of what such forecasts fell short by: the worse they were, the wider
it becomes. A rise that is under way is carried on, and one that comes at this time of every day is
expected again.
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
"""Of what forecasts fell short by: what is kept as headroom."""
STAYS_PRIOR = 4.0
"""Spans of level and lead that "it stays as it is" counts as, against a return to the mean."""
PRIOR_RISE_RATIO = 0.15
"""Rise expected over a lead time before history shows one."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Load to be ready for within one lead time, in replicas' worth."""

    level: float
    """What it is now."""
    rise: float
    """What it may rise by; below 0 where it is far above the mean it comes back to."""
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
    trend, season = 0.0 if before is None else level - before, (usual_ratio or 0.0) * level
    if history.spans_s <= LEAST_SPANS * (span_s + window_s):
        return Forecast(level, max(PRIOR_RISE_RATIO * level, trend, season))
    earlier, later = _pairs(history, window_s, span_s)
    if not earlier.size:
        return Forecast(level, max(PRIOR_RISE_RATIO * level, trend, season))
    stays = _stays(earlier, later, history.spans_s / (span_s + window_s))
    mean, mean_before = float(later.mean()), float(earlier.mean())
    short = later - mean - stays * (earlier - mean_before)
    expected = mean + stays * (level - mean_before) + max(_quantile(short, QUANTILE), 0.0)
    under_way = [each for each in (stays * trend, season) if each > 0]
    rise = max(expected - level, *under_way, -level)
    return Forecast(level, rise, float(np.abs(later - earlier).mean()) / max(mean, 1e-9))


def _stays(earlier: Floats, later: Floats, spans: float) -> float:
    """Share of a level's distance from the mean that is left one lead time later, 0 to 1."""
    before, after = earlier - earlier.mean(), later - later.mean()
    slope = float(before @ after) / max(float(before @ before), 1e-12)
    return min(max((spans * slope + STAYS_PRIOR) / (spans + STAYS_PRIOR), 0.0), 1.0)


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
