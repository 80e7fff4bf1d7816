"""Give a score its meaning: how many false alarms a day a threshold there would cost.

Called by `baseline` with scores of calm samples that the model had not been fitted to.
Peaks over a threshold, as in Siffer et al., "Anomaly Detection in Streams with Extreme Value
Theory", KDD 2017, with the shape held at 0 (exponential excess): the score is a logarithm
already, and a shape estimated from two dozen peaks moves thresholds more than it explains.
"""

import math
from dataclasses import dataclass

import numpy as np

from monitor.detectors.anomaly.windows import WINDOW_SAMPLES, Floats

DAY_S = 86_400.0
TAIL_QUANTILE = 0.98
PRIOR_PEAKS, PRIOR_EXCESS = 5.0, 0.5
"""With few peaks the excess leans on half the distance between median and 99 %."""


@dataclass(frozen=True, slots=True)
class Tail:
    """False alarms a day at `level`, and the rise in score that divides them by e."""

    level: float
    per_day: float
    decay: float

    def rate_per_day(self, value: float) -> float:
        """False alarms a day if the threshold were `value`; below `level` that rate stands."""
        return self.per_day * math.exp(-max(0.0, value - self.level) / self.decay)

    def threshold(self, per_day: float) -> float:
        """The score above which calm days raise `per_day` alarms."""
        return self.level + self.decay * max(0.0, math.log(self.per_day / per_day))


def tail_of(calm: Floats, step_s: float) -> Tail:
    """Fit to scores of calm samples in order; calm: [samples], NaN where unscored."""
    level = float(np.nanquantile(calm, TAIL_QUANTILE))
    peaks = episode_peaks(calm, level)
    days = max(int((~np.isnan(calm)).sum()), 1) * step_s / DAY_S
    excess = sum(peaks) - level * len(peaks) + PRIOR_PEAKS * PRIOR_EXCESS
    return Tail(level, max(len(peaks), 1) / days, excess / (len(peaks) + PRIOR_PEAKS))


def episode_peaks(scores: Floats, level: float) -> list[float]:
    """The highest score of each alarm at `level`; a window of calm ends an alarm."""
    over = np.flatnonzero(scores > level)  # NaN is never over
    if not over.size:
        return []
    heads = np.flatnonzero(np.diff(over, prepend=over[0] - 2 * WINDOW_SAMPLES) > WINDOW_SAMPLES)
    return [float(run.max()) for run in np.split(scores[over], heads[1:])]
