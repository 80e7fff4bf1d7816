"""Collect calm samples for the next baseline; memory is bounded.

Called beside the detector, once a sample. Incidents and rollouts do not enter, nor what went
just before an incident was noticed: a fault that grows slowly would teach itself as calm.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from monitor.detectors.anomaly.windows import Floats

QUARANTINE_SAMPLES = 60
"""Samples wait that long before they count, and are dropped when an incident begins."""

BLOCKS = 24
"""The oldest block goes first: 24 × 60 samples are a day at one a minute, 58 kB of ten metrics."""


Kept = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Blocks of QUARANTINE_SAMPLES samples [samples, metrics]; each ends with a NaN row where
    samples were left out after it, so that no window spans the gap.
    """

    blocks: tuple[Kept, ...] = ()
    waiting: tuple[Kept, ...] = ()
    """Samples in quarantine, [metrics] each."""
    collected: int = 0
    """Blocks ever, those that went included."""

    def seen(self, sample: Floats, calm: bool) -> "History":
        """Take in a sample; `calm` is false during incidents and rollouts."""
        if not calm:
            return self._cut()
        waiting = (*self.waiting, np.array(sample, dtype=np.float32))
        if len(waiting) < 2 * QUARANTINE_SAMPLES:
            return replace(self, waiting=waiting)
        done = np.stack(waiting[:QUARANTINE_SAMPLES])
        kept, rest = (*self.blocks, done)[-BLOCKS:], waiting[QUARANTINE_SAMPLES:]
        return History(kept, rest, self.collected + 1)

    def _cut(self) -> "History":
        """Drop what waits, and mark the gap."""
        if not self.blocks or np.isnan(self.blocks[-1][-1]).all():
            return replace(self, waiting=())
        gap = np.full((1, self.blocks[-1].shape[1]), np.nan, np.float32)
        marked = np.vstack([self.blocks[-1], gap])
        return History((*self.blocks[:-1], marked), (), self.collected)

    @property
    def samples(self) -> Floats | None:
        """What `fit` takes: [samples, metrics], or None while nothing has left quarantine."""
        return np.vstack(self.blocks).astype(np.float64) if self.blocks else None
