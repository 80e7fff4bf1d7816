"""Know the regimes of a system, and how metrics move together within them.

Called by `baseline` to fit and by `detector` to judge. Windows are assigned to the nearest of
a few centres (k-means, Lloyd 1982; seeding after Arthur and Vassilvitskii, "k-means++", 2007);
what remains is projected off its principal subspace. The residual is the squared prediction
error of Jackson and Mudholkar, "Control procedures for residuals associated with principal
component analysis", Technometrics 21(3), 1979.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from monitor.detectors.anomaly.windows import WINDOW_SAMPLES, Floats

REGIMES = 20
KEPT_VARIANCE = 0.7
"""Of what regimes leave over. Anything from 0.4 to 0.8 scores within a few hundredths."""

CENTRE_WINDOWS, SUBSPACE_WINDOWS = 4_000, 12_000
"""At most so many windows, evenly spread, are read to fit; neighbours say nearly the same."""

ROUNDS = 20
LEAST_SEEN_RATIO = 0.5
"""With less of a window seen there is no score: most of it would be invented."""


class Energies(NamedTuple):
    """What a window has unusual, metric by metric: both [windows, metrics], NaN if unseen."""

    broken: Floats
    """Squared residual: the metric does not follow the others as it used to."""

    away: Floats
    """Squared distance from the nearest regime: a state not known."""


@dataclass(frozen=True, slots=True)
class Regimes:
    """Centres [regimes, width] and subspace [width, dimensions]; width is metrics × window."""

    centres: Floats
    subspace: Floats

    def energies(self, windows: Floats) -> Energies:
        """Judge windows [windows, width]; rows with missing samples one by one."""
        offset = windows - self.nearest(windows)
        residual = offset - (offset @ self.subspace) @ self.subspace.T
        for row in np.flatnonzero(np.isnan(windows).any(axis=1)):
            residual[row] = self._partial(offset[row])
        return Energies(_by_metric(residual), _by_metric(offset))

    def nearest(self, windows: Floats) -> Floats:
        """The nearest centre of each window, by what is seen of it: [windows, width]."""
        seen = ~np.isnan(windows)
        filled = np.where(seen, windows, 0.0)
        squares = np.square(self.centres)
        size = seen.astype(np.float64) @ squares.T if not seen.all() else squares.sum(axis=1)
        nearest: Floats = self.centres[np.argmin(size - 2.0 * filled @ self.centres.T, axis=1)]
        return nearest

    def _partial(self, offset: Floats) -> Floats:
        """The residual of the seen part, by least squares on it alone: [width]."""
        seen = ~np.isnan(offset)
        if seen.mean() < LEAST_SEEN_RATIO:
            return np.full_like(offset, np.nan)
        basis = self.subspace[seen]
        ridge = 1e-2 * np.eye(basis.shape[1])  # directions that nothing seen supports stay 0
        part = np.linalg.solve(basis.T @ basis + ridge, basis.T @ offset[seen])
        residual = np.full_like(offset, np.nan)
        residual[seen] = offset[seen] - basis @ part
        return residual


def _by_metric(parts: Floats) -> Floats:
    """Mean square over each metric's seen samples: [windows, metrics]; NaN where none is."""
    cube = parts.reshape(parts.shape[0], -1, WINDOW_SAMPLES)
    seen = (~np.isnan(cube)).sum(axis=2)
    total = np.nansum(np.square(cube), axis=2)
    return np.asarray(np.divide(total, seen, out=np.full(total.shape, np.nan), where=seen > 0))


def learn(windows: Floats, chance: np.random.Generator) -> Regimes:
    """Fit to complete windows [windows, width], width > 0, at least one."""
    centres = _centres(_spread(windows, CENTRE_WINDOWS), chance)
    some = _spread(windows, SUBSPACE_WINDOWS)
    fitted = Regimes(centres, np.zeros((windows.shape[1], 0)))
    return Regimes(centres, _subspace(some - fitted.nearest(some)))


def _spread(rows: Floats, at_most: int) -> Floats:
    """Every n-th row, so that `at_most` are left."""
    return rows[:: max(1, -(-rows.shape[0] // at_most))]


def _subspace(offsets: Floats) -> Floats:
    """The directions that carry KEPT_VARIANCE: [width, dimensions]."""
    variances, directions = np.linalg.eigh(offsets.T @ offsets / offsets.shape[0])
    variances, directions = np.maximum(variances[::-1], 0.0), directions[:, ::-1]
    if variances[0] <= 0.0:
        return directions[:, :0]
    reached = np.cumsum(variances) / variances.sum()
    return np.ascontiguousarray(directions[:, : np.searchsorted(reached, KEPT_VARIANCE) + 1])


def _centres(rows: Floats, chance: np.random.Generator) -> Floats:
    """k-means: [regimes, width]. Fewer regimes where there are fewer windows to tell them by."""
    centres = _seeds(rows, min(REGIMES, max(1, rows.shape[0] // 50)), chance)
    for _ in range(ROUNDS):
        owner = np.argmin(_squared(rows, centres), axis=1)
        moved = centres.copy()
        for regime in np.unique(owner):  # one without windows stays where it is
            moved[regime] = rows[owner == regime].mean(axis=0)
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres


def _seeds(rows: Floats, count: int, chance: np.random.Generator) -> Floats:
    """First centres, each drawn by its squared distance from those before."""
    chosen = [int(chance.integers(rows.shape[0]))]
    nearest = _squared(rows, rows[chosen])[:, 0]
    while len(chosen) < count and nearest.sum() > 0.0:
        places = np.cumsum(nearest)
        chosen.append(int(np.searchsorted(places, chance.random() * places[-1], side="right")))
        nearest = np.minimum(nearest, _squared(rows, rows[chosen[-1:]])[:, 0])
    return rows[chosen]


def _squared(rows: Floats, centres: Floats) -> Floats:
    """Squared distances: [rows, centres]."""
    cross: Floats = rows @ centres.T
    size = np.square(rows).sum(axis=1)[:, None] + np.square(centres).sum(axis=1)
    return np.asarray(np.maximum(size - 2.0 * cross, 0.0))
