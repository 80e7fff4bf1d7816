"""What calm looks like: fitted once on history, frozen, and asked by `detector`.

Called at start-up and again when `History` holds enough calm samples. It reads no labels and
no later samples, and nothing that it judges changes it.
"""

from dataclasses import dataclass
from typing import NamedTuple, NewType

import numpy as np
from numpy.typing import NDArray

from monitor.detectors.anomaly.regimes import Energies, Regimes, learn
from monitor.detectors.anomaly.tail import Tail, tail_of
from monitor.detectors.anomaly.windows import WINDOW_SAMPLES, Floats, Scaling, scaling, windows

Metric = NewType("Metric", str)

MOST_ABSENT_RATIO = 0.5
"""A metric absent from more of the history than this is not modelled, and named as such."""

LEAST_WINDOWS = 50
FOLDS = 3
BROKEN_WEIGHT, AWAY_WEIGHT = 2 / 3, 1 / 3
"""Broken correlations tell more incidents; long ones in a new state tell by distance alone."""

ENERGY_FLOOR_RATIO = 0.1
"""Of the mean over metrics: one that the model explains fully must not rule by rounding."""


class Centring(NamedTuple):
    """Median and 99 % quantile of the logarithm over calm windows: these become 0 and 1."""

    middle: float
    high: float

    def __call__(self, energy: Floats) -> Floats:
        """energy: [windows], ≥ 0."""
        return (np.log(np.maximum(energy, 1e-12)) - self.middle) / (self.high - self.middle)


@dataclass(frozen=True, slots=True)
class Baseline:
    """All that a detector knows. Arrays are never written after `fit`."""

    metrics: tuple[Metric, ...]
    modelled: NDArray[np.int64]
    """Columns in use."""

    step_s: float
    scale: Scaling
    regimes: Regimes
    usual_energy: Floats
    """Squared residual of each modelled metric over calm windows, floored: [modelled]."""

    broken: Centring
    away: Centring
    tail: Tail

    @property
    def unmodelled(self) -> tuple[Metric, ...]:
        """Metrics that history hardly holds: nothing is said about them."""
        known = set(self.modelled.tolist())
        return tuple(name for place, name in enumerate(self.metrics) if place not in known)

    def values(self, energies: Energies) -> Floats:
        """The score of each window: [windows]; calm has median about 0 and 99 % about 1."""
        broken = self.broken(_broken(energies, self.usual_energy))
        away = self.away(_away(energies))
        return np.asarray(BROKEN_WEIGHT * broken + AWAY_WEIGHT * away)

    def shares(self, energies: Energies) -> Floats:
        """What each metric has in the score: [windows, modelled], rows of sum 1."""
        parts = (np.sqrt(energies.broken / self.usual_energy), energies.away)
        broken, away = (np.nan_to_num(part) for part in parts)
        whole = np.finfo(np.float64).tiny
        broken = broken / np.maximum(broken.sum(axis=1, keepdims=True), whole)
        away = away / np.maximum(away.sum(axis=1, keepdims=True), whole)
        return np.asarray(BROKEN_WEIGHT * broken + AWAY_WEIGHT * away)


def fit(
    train: Floats, step_s: float, metrics: tuple[Metric, ...] | None = None, seed: int = 0
) -> Baseline:
    """Learn calm from history; train: [samples, metrics], one sample each `step_s`, NaN allowed.

    The tail is that of blocks held out in turn: a model is never surprised by its own data.
    """
    names = metrics or tuple(Metric(f"m{place:02d}") for place in range(train.shape[1]))
    used = np.flatnonzero(np.isnan(train).mean(axis=0) <= MOST_ABSENT_RATIO)
    if not used.size:
        raise ValueError("history holds no metric for half of the time: give a longer one")
    scale = scaling(train[:, used])
    cut = windows(scale(train[:, used]))
    whole = ~np.isnan(cut).any(axis=1)
    if whole.sum() < FOLDS * LEAST_WINDOWS:
        least = FOLDS * LEAST_WINDOWS + WINDOW_SAMPLES
        raise ValueError(f"history is too short: give {least} complete samples at least")
    regimes = learn(cut[whole], np.random.default_rng(seed))
    usual = _floored(regimes.energies(cut[whole]).broken)
    unseen = _held_out(cut, whole, seed)
    broken = _centring(_broken(unseen, usual))
    away = _centring(_away(unseen))
    draft = Baseline(
        names, used, step_s, scale, regimes, usual, broken, away, Tail(0.0, 1.0, 1.0)
    )
    return _with_tail(draft, tail_of(draft.values(unseen), step_s))
