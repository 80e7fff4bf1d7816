"""Capacity of one replica for the requests that come now, looked up or computed aside.

The manifest's hints size a service until traffic shows other lengths. Then a surface answers:
the profile's own where it has one, else a small one around the lengths seen, which the twin
measures in a thread.
"""

import asyncio
import logging
import math

from controller.service import Service
from profiler.errors import WhaleFluxError
from profiler.surface import Axis, CapacitySurface
from recommender import SurfaceGauge

log = logging.getLogger(__name__)

_STEPS_PER_DOUBLING = 2
"""A cell's lengths lie within 41 % of each other: between, interpolation is off by little."""
_CVS = (0.25, 0.5, 1.0, 2.0, 4.0)

Cell = tuple[int, int, int]


class CapacityBook:
    """One service's capacities by lengths and burstiness."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._whole = service.profile.surface(service.configuration, service.slo)
        self._cells: dict[Cell, CapacitySurface | None] = {}
        """None: the twin could not be asked."""
        self._gauge: SurfaceGauge | None = None
        self._last_rps = service.capacity.rate_rps
        self._longest_tokens = service.profile.memory.longest_tokens(service.configuration)
        self._under_way: asyncio.Task[None] | None = None

    def rate_rps(
        self,
        mean_input_tokens: float | None,
        mean_output_tokens: float | None,
        cv: float | None = None,
        serving: int = 1,
    ) -> float:
        """What one replica carries; the last figure until a better one is computed.

        `cv`: burstiness of the service's arrivals; requests go round the `serving` replicas, so
        that each one's are calmer.
        """
        if not mean_input_tokens or not mean_output_tokens:
            return self._last_rps
        # one fewer: rounds are uneven while a replica joins or leaves
        calmer = (cv or self._service.workload.cv) / max(serving - 1, 1) ** 0.5
        at = (mean_input_tokens, mean_output_tokens, max(calmer, _CVS[0]))
        if sum(at[:2]) > self._longest_tokens:  # nobody could have served such
            return self._last_rps
        surface = self._surface(at)
        if surface is not None:
            carried = surface.rate_rps(*at)
            self._last_rps = carried or self._service.capacity.rate_rps * self._work_ratio(at)
        return self._last_rps

    def _surface(self, at: tuple[float, float, float]) -> CapacitySurface | None:
        if self._whole is not None and self._whole.covers(*at):
            return self._whole
        cell = (_step(at[0]), _step(at[1]), _cv_place(at[2]))
        if cell not in self._cells and (self._under_way is None or self._under_way.done()):
            self._under_way = asyncio.create_task(self._measure(cell))
        return self._cells.get(cell)

    async def _measure(self, cell: Cell) -> None:
        try:
            self._cells[cell] = await asyncio.to_thread(self._measured, cell)
        except WhaleFluxError as error:  # asked once, not at every tick
            log.warning("service %s: capacity of these lengths: %s", self._service.id, error)
            self._cells[cell] = None

    def _measured(self, cell: Cell) -> CapacitySurface:
        service = self._service
        if self._gauge is None:
            self._gauge = SurfaceGauge(
                service.profile, service.configuration, service.slo, service.workload
            )
        axes = (_lengths(cell[0]), _lengths(cell[1]), _CVS[cell[2] : cell[2] + 2])
        return self._gauge.over(axes)

    def _work_ratio(self, at: tuple[float, float, float]) -> float:
        """Scale the hinted capacity by tokens where these lengths miss the SLO even idle.

        More replicas cannot mend that miss, but the load must still be carried.
        """
        hinted = self._service.capacity
        return (hinted.mean_input_tokens + hinted.mean_output_tokens) / (at[0] + at[1])


def _step(tokens: float) -> int:
    return math.floor(math.log2(max(tokens, 1.0)) * _STEPS_PER_DOUBLING)


def _lengths(step: int) -> Axis:
    low, high = (2.0 ** (s / _STEPS_PER_DOUBLING) for s in (step, step + 1))
    return float(low), float(high)


def _cv_place(cv: float) -> int:
    """The interval of `_CVS` that it lies in, or is nearest to."""
    return max(sum(cv >= c for c in _CVS[:-1]) - 1, 0)
