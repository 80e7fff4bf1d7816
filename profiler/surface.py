"""The capacity surface: what one replica carries, by lengths of requests and burstiness.

A grid that the recommender measured with the twin for one configuration under one objective,
kept in the `EngineProfile`, read by whoever sizes a service. Between its points logarithms are
interpolated linearly, which is exact for products of powers; `error_ratio` says how far the
interpolation was off where it was checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.slo import Slo

Axis = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CapacitySurface:
    """Rates over a grid of mean prompt length, mean answer length and burstiness."""

    configuration: Configuration
    slo: Slo
    input_tokens: Axis
    """Ascending, as the next two."""
    output_tokens: Axis
    cv: Axis
    rates_rps: tuple[float, ...]
    """[inputs · outputs · cvs], the last axis fastest; 0 where an idle replica misses the SLO."""
    error_ratio: float = float("nan")
    """Largest relative error at the points that were checked; NaN where none was."""
    mean_error_ratio: float = float("nan")
    checked: int = 0
    """Points at which the twin was asked beside the interpolation."""

    def __post_init__(self) -> None:
        """Refuse what is no grid."""
        for name, axis in zip(("input_tokens", "output_tokens", "cv"), self.axes, strict=True):
            if not axis or axis[0] <= 0 or any(a >= b for a, b in pairwise(axis)):
                raise Refused(f"capacity.{name}: must be positive and ascending, got {axis}")
        points = int(np.prod([len(axis) for axis in self.axes]))
        if len(self.rates_rps) != points:
            raise Refused(f"capacity.ratesRps: must be {points} rates, got {len(self.rates_rps)}")
        if not all(0 <= rate < np.inf for rate in self.rates_rps):
            raise Refused("capacity.ratesRps: must be rates of 0 or more")

    @property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """The three axes in order."""
        return self.input_tokens, self.output_tokens, self.cv

    def covers(self, *at: float) -> bool:
        """Whether a point (prompt, answer, cv) lies on the grid."""
        return all(axis[0] <= x <= axis[-1] for axis, x in zip(self.axes, at, strict=True))

    def rate_rps(self, input_tokens: float, output_tokens: float, cv: float) -> float:
        """Interpolate; points beyond the grid are taken to its edge.

        0 next to a point that carries nothing: half a capacity is nobody's.
        """
        total = 0.0
        for weight, rate in self._corners(input_tokens, output_tokens, cv):
            if rate == 0.0:
                return 0.0
            total += weight * np.log(rate)
        return float(np.exp(total))

    def bounds_rps(
        self, input_tokens: float, output_tokens: float, cv: float
    ) -> tuple[float, float]:
        """Bound the true rate on the grid: longer or burstier requests never raise it."""
        rates = [rate for _, rate in self._corners(input_tokens, output_tokens, cv)]
        return min(rates), max(rates)

    def _corners(self, *at: float) -> Iterator[tuple[float, float]]:
        """Weight and rate of the points around a point, those without weight left out."""
        places = [_place(axis, x) for axis, x in zip(self.axes, at, strict=True)]
        for corner in product((0, 1), repeat=len(places)):
            weight, index = 1.0, 0
            for side, (low, share), axis in zip(corner, places, self.axes, strict=True):
                weight *= share if side else 1.0 - share
                index = index * len(axis) + min(low + side, len(axis) - 1)
            if weight > 0.0:
                yield weight, self.rates_rps[index]


def _place(axis: Axis, x: float) -> tuple[int, float]:
    """Point of the axis at or below x, and how far x is on to the next, in logarithms."""
    x = min(max(x, axis[0]), axis[-1])
    low = int(np.clip(np.searchsorted(axis, x, side="right") - 1, 0, max(len(axis) - 2, 0)))
    if len(axis) == 1:
        return 0, 0.0
    return low, float(np.log(x / axis[low]) / np.log(axis[low + 1] / axis[low]))
