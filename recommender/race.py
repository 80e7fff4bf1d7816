"""The race for the cheapest configuration: who is run through the twin, at which rate.

The most promising candidate has its rate found first and leads. Each of the others is run
once, at the rate at which it would be the cheaper choice; only one that holds there has its own
rate found and leads on. What even the closed form, stretched by its usual error, cannot see
winning is not run at all.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.profile import EngineProfile
from profiler.slo import Slo
from recommender.capacity import (
    Capacity,
    Station,
    expected_rps,
    find_capacity,
    replicas_in_round,
)
from recommender.space import Pins, batchings
from recommender.workload import Workload

_WORTH = 1.02
"""A gain below this is noise; the plainer configuration stays."""
_OPTIMISM = 1.3
"""How far the twin may be above the closed form, for another layout."""
_OPTIMISM_BATCHING = 1.1
"""The same for other batch limits of one layout, whose errors are alike."""
_USUAL = 1.25
"""Off by less, the closed form is trusted."""
_MOST_DOUBT = 4
LEAST_RUN = 4
"""Entrants that are run whatever the closed form says of them."""
_CHALLENGERS = 8
"""Batch limits of one layout that are run."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A candidate before the race: what the closed form expects of it."""

    configuration: Configuration
    profile: EngineProfile
    price_per_hour: float
    """Of one GPU; 0 where GPUs cost nothing more."""
    expected_rps: float

    @property
    def gpus(self) -> int:
        """GPUs of a replica."""
        return self.profile.layout.gpus

    @property
    def station(self) -> Station:
        """How the twin runs it."""
        return Station.of(self.profile, self.configuration)

    @property
    def promise(self) -> tuple[bool, float]:
        """Order of running: what is free first, then the rate for the price."""
        return self.price_per_hour > 0, -self.expected_rps / _outlay(self)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration and what a replica of it carries."""

    configuration: Configuration
    profile: EngineProfile
    capacity: Capacity
    price_per_hour: float = 1.0
    """Of one GPU."""
    expected_rps: float = 0.0
    """What the closed form had expected; 0 where it was not asked."""

    @property
    def gpus(self) -> int:
        """GPUs of a replica."""
        return self.profile.layout.gpus

    @property
    def station(self) -> Station:
        """How the twin runs it."""
        return Station.of(self.profile, self.configuration)

    @property
    def rps_per_gpu(self) -> float:
        """Goodput of a GPU."""
        return self.capacity.rate_rps / self.gpus

    def replicas(self, rate_rps: float) -> int:
        """Fewest that carry a rate."""
        return max(math.ceil(rate_rps / self.capacity.rate_rps - 1e-9), 1)

    def cost_per_hour(self, rate_rps: float) -> float:
        """What those cost."""
        return self.replicas(rate_rps) * self.gpus * self.price_per_hour

    def standing(self, rate_rps: float) -> tuple[float, float]:
        """Order of preference: what the rate costs, then the goodput for the price."""
        return self.cost_per_hour(rate_rps), -self.capacity.rate_rps / _outlay(self)


def _outlay(one: Entrant | Candidate) -> float:
    """What a replica costs; free GPUs are counted, for fewer are better all the same."""
    return one.gpus * (one.price_per_hour or 1.0)


class Outcome(NamedTuple):
    """Who won, and how many were priced in closed form and run by the twin."""

    best: Candidate
    priced: int
    scored: int


def race(entrants: Iterable[Entrant], workload: Workload, slo: Slo, pins: Pins) -> Outcome:
    """Find the cheapest of one entrant a layout, then of its batch limits.

    The rate of the best is 0 where no layout meets the SLO even idle.
    """
    entrants = sorted(entrants, key=lambda entrant: entrant.promise)
    best, scored = measured(entrants[0], workload, slo), 1
    for i, entrant in enumerate(entrants[1:], start=1):
        optimism = math.inf if i < LEAST_RUN else _OPTIMISM * _doubt(best)
        if _is_hopeless(best, entrant, workload, optimism):
            continue
        scored += 1
        best = _challenge(best, entrant, workload, slo) or best
    if best.capacity.rate_rps == 0:
        return Outcome(best, len(entrants), scored)
    tuned = best_batching(best, workload, slo, pins)
    return Outcome(tuned.best, len(entrants) + tuned.priced, scored + tuned.scored)


def best_batching(leader: Candidate, workload: Workload, slo: Slo, pins: Pins) -> Outcome:
    """Race the batch limits of one layout, those that the closed form likes best first."""
    scored, best, doubt = 0, leader, _doubt(leader)
    rivals = _rivals(leader, workload, slo, pins)
    for entrant in rivals[: int(_CHALLENGERS * min(doubt, _MOST_DOUBT))]:
        if not _is_hopeless(best, entrant, workload, _OPTIMISM_BATCHING * doubt):
            scored += 1
            best = _challenge(best, entrant, workload, slo) or best
    return Outcome(best, len(rivals), scored)


def _doubt(leader: Candidate) -> float:
    """How far the closed form was off: near an objective that hardly can be met it guesses."""
    expected, found = leader.expected_rps, leader.capacity.rate_rps
    if expected == 0 or found == 0:
        return math.inf
    off = max(expected / found, found / expected)
    return off**2 if off > _USUAL else 1.0


def _rivals(leader: Candidate, workload: Workload, slo: Slo, pins: Pins) -> Sequence[Entrant]:
    """Other batch limits of the leader's layout that fit."""
    rivals = []
    ratio = leader.capacity.rate_rps / leader.expected_rps if leader.expected_rps > 0 else 1.0
    for configuration in batchings(leader.configuration, pins):
        if configuration == leader.configuration:
            continue
        try:
            station = Station.of(leader.profile, configuration)
        except Refused:
            continue
        # what the closed form missed of the leader, it misses of its like
        rate_rps = expected_rps(station, workload, slo) * ratio
        rivals.append(Entrant(configuration, leader.profile, leader.price_per_hour, rate_rps))
    # to a hundredth: what the closed form cannot tell apart is tried in the order of plainness
    rivals.sort(key=lambda entrant: -round(math.log(max(entrant.expected_rps, 1e-9)), 2))
    return rivals


def part_of_one(workload: Workload, carried_rps: float) -> Workload:
    """What one replica gets of a workload where so many are needed as carry it in rounds."""
    return workload.shared(replicas_in_round(workload, carried_rps))


def measured(entrant: Entrant, workload: Workload, slo: Slo) -> Candidate:
    """Find an entrant's rate with the twin."""
    part = part_of_one(workload, entrant.expected_rps)
    capacity = find_capacity(entrant.station, part, slo, near_rps=entrant.expected_rps)
    assert capacity is not None, "without a floor the search always answers"  # noqa: S101
    return _candidate(entrant, capacity)


def _candidate(entrant: Entrant, capacity: Capacity) -> Candidate:
    return Candidate(
        entrant.configuration,
        entrant.profile,
        capacity,
        entrant.price_per_hour,
        entrant.expected_rps,
    )


def rate_to_win(leader: Candidate, entrant: Entrant, workload: Workload) -> float:
    """Rate that a replica of the entrant must carry to be the cheaper choice.

    Either fewer replicas cost less, or as much is paid and each GPU carries clearly more.
    0: any rate will do; infinite: none will.
    """
    sized_rps, paid = workload.sized_rps, leader.cost_per_hour(workload.sized_rps)
    for_one = entrant.gpus * entrant.price_per_hour
    equal_rps = _WORTH * leader.capacity.rate_rps * _outlay(entrant) / _outlay(leader)
    if paid == 0 or for_one == 0:
        return equal_rps if paid == for_one else (math.inf if paid == 0 else 0.0)
    affordable = paid / for_one
    fewer, as_many = math.ceil(affordable - 1e-9) - 1, math.floor(affordable + 1e-9)
    cheaper_rps = sized_rps / fewer if fewer >= 1 else math.inf
    if as_many > fewer and as_many >= 1:
        return min(cheaper_rps, max(equal_rps, sized_rps / as_many))
    return cheaper_rps


def _is_hopeless(leader: Candidate, entrant: Entrant, workload: Workload, optimism: float) -> bool:
    """Whether the closed form, stretched, is still below what it takes to win."""
    if leader.capacity.rate_rps == 0:
        return False
    rate_rps = rate_to_win(leader, entrant, workload)
    return math.isinf(rate_rps) or (
        math.isfinite(optimism) and entrant.expected_rps * optimism < rate_rps
    )


def _challenge(
    leader: Candidate, entrant: Entrant, workload: Workload, slo: Slo
) -> Candidate | None:
    """Give the entrant with its rate when it beats the leader."""
    floor_rps = 0.0
    if leader.capacity.rate_rps > 0:
        floor_rps = rate_to_win(leader, entrant, workload)
    part = part_of_one(workload, entrant.expected_rps)
    capacity = find_capacity(
        entrant.station, part, slo, at_least_rps=floor_rps, near_rps=entrant.expected_rps
    )
    if capacity is None or capacity.rate_rps == 0:
        return None
    return _candidate(entrant, capacity)
