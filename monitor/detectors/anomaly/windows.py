"""Bring metrics to one scale and cut them into windows; called by fit and detector alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW_SAMPLES = 10
"""5 sees too little of how metrics move together, 20 answers late: both cost VUS-PR."""

CLIP = 10.0
"""Standard deviations. A single metric far away shall not drown what all others say."""

CONSTANT = 1e-6
"""Of its own value: below this spread a metric counts as constant."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Each metric's usual value and spread, [metrics]. A constant one has almost no spread,
    so that any move of it is clipped to the largest there is.
    """

    usual: Floats
    spread: Floats

    def __call__(self, samples: Floats) -> Floats:
        """In standard deviations, clipped: [samples, metrics]; NaN stays NaN."""
        return np.clip((samples - self.usual) / self.spread, -CLIP, CLIP)


def scaling(train: Floats) -> Scaling:
    """Mean and standard deviation; train: [samples, metrics], NaN allowed.

    Not median and quartiles: engine counters rest at one value and burst, so that their
    quartiles meet, and each burst of calm days would count as far away.
    """
    usual = np.nanmean(train, axis=0)
    spread = np.maximum(np.nanstd(train, axis=0), CONSTANT * np.abs(usual))
    return Scaling(usual, np.maximum(spread, np.finfo(np.float64).tiny))


def windows(samples: Floats) -> Floats:
    """The window that ends at each sample: [samples, metrics × WINDOW_SAMPLES], metric by
    metric, oldest first. What lies before the first sample is NaN.
    """
    before = np.full((WINDOW_SAMPLES - 1, samples.shape[1]), np.nan)
    padded = np.vstack([before, samples])
    view = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES, axis=0)
    return view.reshape(samples.shape[0], -1)
