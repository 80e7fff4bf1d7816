"""Builders for the tests of the anomaly detector: a small system that is calm."""

import numpy as np
from numpy.typing import NDArray

from monitor.detectors.anomaly import Baseline, Detector, Metric, Score, fit

Floats = NDArray[np.float64]

STEP_S = 60.0
NAMES = tuple(Metric(name) for name in ("load", "queue", "kv", "tokens", "power", "errors"))


def calm(samples: int = 1_500, seed: int = 1) -> Floats:
    """Six metrics: five follow one load, in units of their own; errors stay at 0."""
    chance = np.random.default_rng(seed)
    load = 5.0 + 2.0 * np.sin(np.arange(samples) / 40.0) + chance.normal(0.0, 0.3, samples)
    gains = np.array([1.0, 20.0, 0.1, 900.0, 50.0])
    noise = chance.normal(0.0, 0.1, (samples, gains.size))
    return np.column_stack([(load[:, None] + noise) * gains, np.zeros(samples)])


def baseline(train: Floats | None = None) -> Baseline:
    return fit(calm() if train is None else train, STEP_S, NAMES)


def replay(
    detector: Detector, samples: Floats, begin_s: float = 0.0
) -> tuple[Detector, list[Score]]:
    scores = []
    for place, sample in enumerate(samples):
        detector, score = detector.seen(sample, begin_s + place * STEP_S)
        scores.append(score)
    return detector, scores


def values(scores: list[Score]) -> Floats:
    return np.array([np.nan if score.value is None else score.value for score in scores])
