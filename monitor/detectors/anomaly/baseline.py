"""What calm looks like: fitted once on history, frozen, and asked by `detector`.

Called at start-up and again when `History` holds enough calm samples. It reads no labels and
no later samples, and nothing that it judges changes it.
"""

from dataclasses import dataclass, replace
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
"""Broken correlations tell more incidents; long ones in a new state tell by distance alone.
Without the distance the mean over ASD and SMD is the same (.57); it moves .02 from ASD to SMD.
Settings were chosen on the eight labelled servers of `benchmarks.anomaly`, together; picked
among the 25 best without the server that is scored, they reach .49 on ASD and .59 on SMD."""

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
    whole = np.asarray(~np.isnan(cut).any(axis=1))
    if whole.sum() < FOLDS * LEAST_WINDOWS:
        least = FOLDS * LEAST_WINDOWS + WINDOW_SAMPLES
        raise ValueError(f"history is too short: give {least} complete samples at least")
    regimes = learn(cut[whole], np.random.default_rng(seed))
    usual = _floored(regimes.energies(cut[whole]).broken)
    unseen = _held_out(cut, whole, seed)
    broken = _centring(_broken(unseen, usual))
    away = _centring(_away(unseen))
    unrated = Tail(level=0.0, per_day=1.0, decay=1.0)
    draft = Baseline(names, used, step_s, scale, regimes, usual, broken, away, unrated)
    return replace(draft, tail=tail_of(draft.values(unseen), step_s))


def _held_out(cut: Floats, whole: NDArray[np.bool_], seed: int) -> Energies:
    """Energies of each block under a model of the other blocks; NaN where incomplete."""
    rows = np.flatnonzero(whole)
    width = cut.shape[1] // WINDOW_SAMPLES
    broken, away = (np.full((cut.shape[0], width), np.nan) for _ in range(2))
    for block in np.array_split(rows, FOLDS):
        others = np.setdiff1d(rows, block, assume_unique=True)
        model = learn(cut[others], np.random.default_rng(seed))
        broken[block], away[block] = model.energies(cut[block])
    return Energies(broken, away)


def _floored(broken: Floats) -> Floats:
    """The mean energy of each metric, not far below the mean over metrics: [modelled]."""
    usual = broken.mean(axis=0)
    return np.asarray(usual + max(ENERGY_FLOOR_RATIO * float(usual.mean()), 1e-9))


def _broken(energies: Energies, usual: Floats) -> Floats:
    """Roots, so that many metrics a little off weigh as much as one far off: [windows]."""
    return _mean_seen(np.sqrt(energies.broken / usual))


def _away(energies: Energies) -> Floats:
    """Mean squared distance from the nearest regime: [windows]."""
    return _mean_seen(energies.away)


def _mean_seen(parts: Floats) -> Floats:
    """The mean of each row over what is not NaN; NaN where all is."""
    seen = (~np.isnan(parts)).sum(axis=1)
    total = np.nansum(parts, axis=1)
    return np.asarray(np.divide(total, seen, out=np.full(total.shape, np.nan), where=seen > 0))


def _centring(energy: Floats) -> Centring:
    """Fit to calm windows, NaN allowed; history that never changes has no spread of its own."""
    calm = np.log(np.maximum(energy[~np.isnan(energy)], 1e-12))
    middle, high = np.quantile(calm, [0.5, 0.99])
    return Centring(float(middle), float(max(high, middle + 0.1)))
