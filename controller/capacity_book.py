"""Capacity of one replica for the requests that come now, looked up or computed aside.

The manifest's hints size a service until traffic shows other lengths; then the twin is
asked again, in a thread, and the answer kept for every mix of about that length.
"""

import asyncio
import logging
import math

from controller.service import Service
from profiler.errors import WhaleFluxError
from recommender import Workload, find_capacity, workload_from_hints

log = logging.getLogger(__name__)

_BUCKETS_PER_DOUBLING = 4
"""Lengths within 19 % of each other share an answer."""


class CapacityBook:
    """One service's capacities by length bucket."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[tuple[int, int], float] = {}
        self._under_way: asyncio.Task[None] | None = None

    def rate_rps(self, mean_input_tokens: float | None, mean_output_tokens: float | None) -> float:
        """What one replica carries; the manifest's figure until a better one is computed."""
        hinted = self._service.capacity.rate_rps
        if not mean_input_tokens or not mean_output_tokens:
            return hinted
        key = (_bucket(mean_input_tokens), _bucket(mean_output_tokens))
        if key in self._known:
            return self._known[key]
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._compute(key))
        return next(reversed(self._known.values()), hinted)

    async def _compute(self, key: tuple[int, int]) -> None:
        workload = workload_from_hints(
            1.0, _middle(key[0]), _middle(key[1]), self._service.workload.cv
        )
        try:
            self._known[key] = await asyncio.to_thread(_capacity_rps, self._service, workload)
        except WhaleFluxError as error:  # asked once, not at every tick
            log.warning("service %s: capacity of these lengths: %s", self._service.id, error)
            self._known[key] = self._service.capacity.rate_rps


def _bucket(tokens: float) -> int:
    return round(math.log2(max(tokens, 1.0)) * _BUCKETS_PER_DOUBLING)


def _middle(bucket: int) -> float:
    return float(2.0 ** (bucket / _BUCKETS_PER_DOUBLING))


def _capacity_rps(service: Service, workload: Workload) -> float:
    limits = service.profile.limits(service.configuration)
    longest = limits.num_blocks * limits.block_size
    if workload.longest_tokens > longest:
        return service.capacity.rate_rps
    capacity = find_capacity(service.profile.cost, limits, workload, service.slo)
    carried = capacity.rate_rps if capacity is not None else 0.0
    return carried or service.capacity.rate_rps * _work_ratio(service, workload)


def _work_ratio(service: Service, workload: Workload) -> float:
    """Scale the hinted capacity by tokens where these lengths miss the SLO even idle.

    More replicas cannot mend that miss, but the load must still be carried.
    """
    hinted = service.capacity
    tokens = workload.mean_input_tokens + workload.mean_output_tokens
    return (hinted.mean_input_tokens + hinted.mean_output_tokens) / tokens
