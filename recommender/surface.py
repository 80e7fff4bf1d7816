"""Measure a capacity surface with the twin: points where they are needed, and how good it is.

A coarse grid first; then points in the middle of its cells are asked of the twin, and where
interpolation is off by more than the tolerance the cell is split along the side on which the
rate changes most. What the last round says of the error is kept with the surface.
"""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np

from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.profile import EngineProfile
from profiler.slo import Slo
from profiler.surface import Axis, CapacitySurface
from recommender.capacity import Station, check_bounded, find_capacity
from recommender.workload import Workload

TOLERANCE = 0.1
_REACH = 8.0
"""Lengths from an eighth of the workload's to eight times."""
_CVS = (0.25, 0.5, 1.0, 2.0)
_MOST_POINTS = (10, 8, 5)
"""On each axis."""
_CHECKS = 48
_OF_ONE_RPS = 1e-6
"""A rate that one replica carries: the burstiness of a point is that of its own requests."""

Point = tuple[float, float, float]


class SurfaceGauge:
    """Asks the twin for points of one configuration's surface, each once."""

    def __init__(
        self, profile: EngineProfile, configuration: Configuration, slo: Slo, workload: Workload
    ) -> None:
        """`workload` gives the spread of lengths around their means.

        Raises `Refused` for an SLO that bounds nothing, `DoesNotFit` where there is no room.
        """
        check_bounded(slo)
        self.slo = slo
        self.configuration = configuration
        self._station = Station.of(profile, configuration)
        self._longest = min(
            configuration.max_model_len or profile.max_model_len,
            self._station.limits.num_blocks * self._station.limits.block_size,
        )
        self._workload = workload
        self._known: dict[Point, float] = {}

    def rate_rps(self, point: Point) -> float:
        """What the twin says; 0 where a request does not fit or the SLO is missed idle."""
        if point not in self._known:
            self._known[point] = self._measure(point)
        return self._known[point]

    def _measure(self, point: Point) -> float:
        try:
            workload = self._workload.resized(*point, longest_tokens=self._longest)
            workload = workload.at_rate(_OF_ONE_RPS)
            found = find_capacity(self._station, workload, self.slo)
        except Refused:
            return 0.0
        return 0.0 if found is None else found.rate_rps

    def over(self, axes: tuple[Axis, Axis, Axis]) -> CapacitySurface:
        """Measure all points of a grid."""
        rates = tuple(self.rate_rps(point) for point in product(*axes))
        return CapacitySurface(self.configuration, self.slo, *axes, rates)


def measure_surface(
    profile: EngineProfile,
    configuration: Configuration,
    slo: Slo,
    workload: Workload,
    tolerance: float = TOLERANCE,
) -> CapacitySurface:
    """Measure the surface around a workload; `error_ratio` tells how far it can be trusted."""
    gauge = SurfaceGauge(profile, configuration, slo, workload)
    start = (workload.mean_input_tokens, workload.mean_output_tokens)
    steps = np.geomspace(1 / _REACH, _REACH, 4)
    inputs, outputs = (
        tuple(float(x) for x in np.unique(np.maximum(np.round(mean * steps), 1.0)))
        for mean in start
    )
    surface = gauge.over((inputs, outputs, _CVS))
    while True:
        errors = _errors(gauge, surface)
        axes = _refined(surface, [at for at, error in errors if abs(error) > tolerance])
        if axes == surface.axes:
            return _with_errors(surface, [abs(error) for _, error in errors])
        surface = gauge.over(axes)


def _errors(gauge: SurfaceGauge, surface: CapacitySurface) -> list[tuple[Point, float]]:
    """Relative error of the interpolation in the middle of cells, a fixed draw of them."""
    centres = list(product(*(_middles(axis) for axis in surface.axes)))
    chosen = np.random.default_rng(0).permutation(len(centres))[:_CHECKS]
    found = []
    for i in chosen:
        truth, told = gauge.rate_rps(centres[i]), surface.rate_rps(*centres[i])
        if truth > 0 and told > 0:
            found.append((centres[i], told / truth - 1.0))
    return found


def _refined(surface: CapacitySurface, bad: list[Point]) -> tuple[Axis, Axis, Axis]:
    """Split, for each bad cell, the side along which the rate changes most."""
    axes = [list(axis) for axis in surface.axes]
    for at in bad:
        falls = []
        for i, axis in enumerate(surface.axes):
            below = max(x for x in axis if x <= at[i])
            above = min(x for x in axis if x >= at[i])
            ends = [max(surface.rate_rps(*_at(at, i, x)), 1e-9) for x in (below, above)]
            falls.append(abs(float(np.log(ends[0] / ends[1]))))
        widest = int(np.argmax(falls))
        if at[widest] not in axes[widest] and len(axes[widest]) < _MOST_POINTS[widest]:
            axes[widest].append(at[widest])
    return tuple(sorted(axes[0])), tuple(sorted(axes[1])), tuple(sorted(axes[2]))


def _at(point: Point, axis: int, x: float) -> Point:
    moved = [x if i == axis else value for i, value in enumerate(point)]
    return moved[0], moved[1], moved[2]


def _with_errors(surface: CapacitySurface, errors: list[float]) -> CapacitySurface:
    if not errors:
        return surface
    return replace(
        surface,
        error_ratio=float(max(errors)),
        mean_error_ratio=float(np.mean(errors)),
        checked=len(errors),
    )


def _middles(axis: Axis) -> list[float]:
    return [float((low * high) ** 0.5) for low, high in pairwise(axis)] or list(axis)
