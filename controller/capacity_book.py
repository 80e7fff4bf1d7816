"""Capacity of one replica for the requests that come now.

Called at every observation, live and in a replay. The twin has said what a replica carries of
planned lengths; a surface, where the profile brings one, else the closed form, moves that
to the lengths seen.
"""

from dataclasses import dataclass

from controller.service import Service
from recommender import LengthScale, Station

_CALMEST = 0.25
_PLANNED_REQUESTS = 100.0
"""So many requests of planned lengths are counted in: a handful says little."""
ENOUGH_REQUESTS = 600
"""Lengths are those of the latest requests, so many or those of a minute: a surge of other ones
would be taken for more work than it is, or for less."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Requests that ended lately, and their mean lengths."""

    requests: float
    mean_input_tokens: float
    mean_output_tokens: float


class CapacityBook:
    """One service's capacities by lengths and burstiness."""

    def __init__(self, service: Service) -> None:
        self._planned, self._cv = service.capacity, service.workload.cv
        self._calm_rps = service.calm_rps
        self._surface = service.profile.surface(service.configuration, service.slo)
        self._longest_tokens = service.profile.memory.longest_tokens(service.configuration)
        station = Station.of(service.profile, service.configuration)
        self._scale = LengthScale(station, service.workload, service.slo, self._longest_tokens)
        self._last_rps = service.capacity.rate_rps

    def rate_rps(self, lengths: Lengths | None, cv: float | None = None, serving: int = 1) -> float:
        """What one replica carries; the last answer where nothing is known of lengths.

        `cv`: burstiness of the service's arrivals; requests go round the `serving` replicas, so
        that each one's are calmer.
        """
        if lengths is None or not lengths.requests > 0:
            return self._last_rps
        means = self._with_planned(lengths)
        if sum(means) > self._longest_tokens:  # nobody could have served such
            return self._last_rps
        # one fewer: rounds are uneven while a replica joins or leaves
        calmer = max((cv or self._cv) / max(serving - 1, 1) ** 0.5, _CALMEST)
        self._last_rps = self._looked_up(*means, calmer)
        return self._last_rps

    def _with_planned(self, lengths: Lengths) -> tuple[float, float]:
        weight = lengths.requests / (lengths.requests + _PLANNED_REQUESTS)
        return (
            self._planned.mean_input_tokens * (1 - weight) + lengths.mean_input_tokens * weight,
            self._planned.mean_output_tokens * (1 - weight) + lengths.mean_output_tokens * weight,
        )

    def _looked_up(self, mean_input: float, mean_output: float, cv: float) -> float:
        surface = self._surface
        if surface is not None and surface.covers(mean_input, mean_output, cv):
            carried = surface.rate_rps(mean_input, mean_output, cv)
            if carried > 0:
                return carried
        ratio = self._scale.ratio(mean_input, mean_output, cv)
        if ratio is None:  # more replicas cannot mend that miss, but the load must still be carried
            planned = self._planned
            planned_tokens = planned.mean_input_tokens + planned.mean_output_tokens
            ratio = planned_tokens / (mean_input + mean_output)
        return (self._calm_rps or self._planned.rate_rps) * ratio
