"""What a replica carries of other lengths than planned, as a ratio: the closed form of the twin.

The twin is asked once, for the planned lengths and calm arrivals; how its answer moves with lengths
and burstiness the closed form tells within a sixth over a factor of eight, smoothly, and in
milliseconds.
"""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from profiler.errors import Refused
from profiler.slo import Slo
from recommender.capacity import Station, expected_rps, find_capacity
from recommender.workload import Workload

_LENGTHS = 1000
"""Pairs of lengths that stand for all: enough for means and percentiles."""
_STEPS_PER_E = 20
"""Lengths are told apart by 5 %."""
_CV_STEPS_PER_E = 4
_OF_ONE_RPS = 1e-6
"""A rate that one replica carries: the burstiness is that of its own requests."""
_CALM_CV = 1.0
"""Poisson: what many users make, and what a part of bursts that go round replicas comes to."""


def calm_capacity_rps(station: Station, workload: Workload, slo: Slo) -> float:
    """What the twin says that a replica carries of the workload's lengths, arrivals calm.

    0 where not even an idle replica keeps the objective; takes a tenth of a second.
    """
    calm = replace(workload, cv=_CALM_CV, recorded=None).at_rate(_OF_ONE_RPS)
    found = find_capacity(station, calm, slo)
    return 0.0 if found is None else found.rate_rps


class LengthScale:
    """One configuration's, around one workload."""

    def __init__(self, station: Station, workload: Workload, slo: Slo, longest_tokens: int) -> None:
        rows = np.linspace(0, workload.input_tokens.size - 1, _LENGTHS).astype(np.int64)
        if workload.input_tokens.size > _LENGTHS:
            workload = replace(
                workload,
                input_tokens=workload.input_tokens[rows],
                output_tokens=workload.output_tokens[rows],
                recorded=None,
            )
        self._station, self._workload, self._slo = station, workload, slo
        self._longest_tokens = longest_tokens
        calm = replace(workload, cv=_CALM_CV, recorded=None).at_rate(_OF_ONE_RPS)
        self._planned_rps = expected_rps(station, calm, slo)
        self._at = lru_cache(maxsize=512)(self._expected_rps)

    def ratio(self, mean_input_tokens: float, mean_output_tokens: float, cv: float) -> float | None:
        """Capacity there over that of planned lengths and calm arrivals; None where none attains.

        `cv`: burstiness of one replica's own arrivals.
        """
        place = (
            round(math.log(max(mean_input_tokens, 1.0)) * _STEPS_PER_E),
            round(math.log(max(mean_output_tokens, 1.0)) * _STEPS_PER_E),
            round(math.log(max(cv, 0.05)) * _CV_STEPS_PER_E),
        )
        found = self._at(place)
        return found / self._planned_rps if found > 0 and self._planned_rps > 0 else None

    def _expected_rps(self, place: tuple[int, int, int]) -> float:
        means = (math.exp(place[0] / _STEPS_PER_E), math.exp(place[1] / _STEPS_PER_E))
        cv = math.exp(place[2] / _CV_STEPS_PER_E)
        try:
            workload = self._workload.resized(*means, cv, self._longest_tokens)
        except Refused:
            return 0.0
        return expected_rps(self._station, workload.at_rate(_OF_ONE_RPS), self._slo)
