"""What a day usually brings: the load of the last days in slots of five minutes.

A rise that came at the same time on every day known is expected again; what came on some days only
is not. Days are counted on the controller's own clock, so that none needs a time zone.
"""

from dataclasses import dataclass, field

import numpy as np

from controller.decide.history import Floats

DAY_S = 86_400.0
SLOT_S = 300.0
DAYS = 7
LEAST_DAYS = 2
AGREE_RATIO = 1.5
"""Days whose rises lie further apart than so many times have no habit."""

_SLOTS = int(DAY_S / SLOT_S)
_KEPT = DAYS * _SLOTS


def _unknown() -> Floats:
    return np.full(_KEPT, np.nan, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Season:
    """Means of the slots that are over, and the one under way; must not be written to."""

    means: Floats = field(default_factory=_unknown)
    """[slots] NaN where nothing is known; a slot's place is its number modulo their count."""
    slot: int = -1
    """Number of the slot under way."""
    total: float = 0.0
    known_s: float = 0.0

    def __eq__(self, other: object) -> bool:
        """Whether the same was seen."""
        return isinstance(other, Season) and (
            (self.slot, self.total, self.known_s) == (other.slot, other.total, other.known_s)
            and np.array_equal(self.means, other.means, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    def seen(self, load: float, over_s: float, now_s: float) -> "Season":
        """Take in the load of the last `over_s`."""
        slot = int(now_s // SLOT_S)
        if slot == self.slot:
            total, known_s = self.total + load * over_s, self.known_s + over_s
            return Season(self.means, slot, total, known_s)
        if slot < self.slot:  # a clock that went back tells nothing of days
            return Season(slot=slot, total=load * over_s, known_s=over_s)
        means = self.means.copy()
        if self.slot >= 0:
            between = np.arange(self.slot + 1, min(slot, self.slot + _KEPT)) % _KEPT
            means[between] = np.nan
            mean = self.total / self.known_s if self.known_s > 0 else np.nan
            means[self.slot % _KEPT] = mean
        return Season(means, slot, load * over_s, over_s)

    def rise_ratio(self, lead_s: float, now_s: float) -> float | None:
        """What the load usually rises by until the slot in which a start is ready; None: no habit.

        Over what it is in this slot: 0.5 is half as much again; negative where it falls.
        """
        here, there = int(now_s // SLOT_S), int((now_s + lead_s) // SLOT_S) + 1
        days = np.arange(1, DAYS) * _SLOTS
        before, after = self._at(here - days), self._at(there - days)
        known = np.isfinite(before) & np.isfinite(after) & (before > 0) & (after > 0)
        if known.sum() < LEAST_DAYS:
            return None
        ratios = after[known] / before[known]
        if ratios.max() > AGREE_RATIO * ratios.min():
            return None
        return float(np.median(ratios)) - 1.0

    def _at(self, slots: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Floats:
        """Means of slots that are over and still kept."""
        kept = (slots >= 0) & (slots < self.slot) & (slots > self.slot - _KEPT)
        means: Floats = np.where(kept, self.means[slots % _KEPT], np.nan)
        return means
