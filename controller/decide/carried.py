"""What a replica carries within the objective, against what the twin says: learnt from what came.

Requests that ended are counted by the load of a replica in the minute before, and by how heavy
they were, together with those that missed the objective. The misses of a higher load are never
fewer (isotonic regression: Barlow et al., Statistical Inference under Order Restrictions, 1972).
Until enough were seen the twin is believed: at no load up to 1 do any miss, beyond it soon all do.
So it is known what share will miss at any load, and `size` weighs the loads that may come with it.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np

from controller.decide.history import Floats

STEP = 0.08
_LOWEST, _HIGHEST = 0.2, 6.0
PLACES = math.ceil(math.log(_HIGHEST / _LOWEST) / STEP) + 2
"""Loads of a replica, each 8 % above the one before; the first and the last have no end."""
LEAST_RATIO, MOST_RATIO = 0.6, 3.0
"""Bounds of what is believed, whatever was seen."""
FADES_S = 3600.0
BUDGET_FADES_S = 1800.0
BUDGET_PRIOR = 1000.0
"""Requests of which half the allowed misses are taken to have happened before any was seen."""
_TRUSTED, _DOUBTED = 300.0, 10.0
"""Requests that the twin's word counts as at each load, up to what it says that a replica carries
and beyond. As many without a miss say, 95 % sure, that under a hundredth do (rule of three)."""
_ALL_MISS = 0.5
"""So far beyond what a replica carries the twin expects all to miss."""
_BUSY = 0.5
"""Load of a replica below which a miss has other causes than load."""
_HOPELESS = 0.5
_MOST_MIXES = 6


@dataclass(frozen=True, slots=True)
class Judged:
    """Requests that ended since the last time, and under what they did."""

    load_ratio: float
    """Load of a replica in the minute before, in what the twin says that one carries."""
    octave: int
    """How heavy they were: the binary logarithm of a request's replica seconds, rounded down."""
    requests: float
    missed: float
    """Of them, the objective."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests of one heaviness, by the load of a replica; older ones count less."""

    octave: int
    requests: tuple[float, ...] = (0.0,) * PLACES
    missed: tuple[float, ...] = (0.0,) * PLACES


@dataclass(frozen=True, slots=True)
class Carried:
    """What was learnt."""

    ratio: float = 1.0
    """Load that a replica carries, in what the twin says: 1 until something else was seen."""
    missed_ratios: tuple[float, ...] = ()
    """Share expected to miss, by load; never falls. Empty: what the twin says."""
    out_of_reach: bool = False
    """Requests miss the objective at any load: more replicas would not mend it."""
    tallies: tuple[Tally, ...] = ()
    """The heaviness seen last is the last."""
    requests: float = 0.0
    """Of all, for the error budget; older ones count less."""
    missed: float = 0.0
    at_s: float | None = None

    def misses(self, loads: Floats) -> Floats:
        """Share of requests expected to miss at each load of a replica."""
        known = self.missed_ratios or _TWIN_SAYS
        return np.interp(np.log(np.maximum(loads, _LOWEST)), _LOG_LOADS, known)

    def spent_ratio(self, allowed: float) -> float:
        """Misses over those that the objective allows."""
        prior = 0.5 * allowed * BUDGET_PRIOR
        return (self.missed + prior) / (self.requests + BUDGET_PRIOR) / allowed


def learn(carried: Carried, judged: Judged, allowed: float, now_s: float) -> Carried:
    """Take in requests that ended; `allowed`: share that may miss the objective, above 0."""
    since_s = 0.0 if carried.at_s is None else max(now_s - carried.at_s, 0.0)
    fades = math.exp(-since_s / BUDGET_FADES_S)
    carried = replace(
        carried,
        requests=carried.requests * fades + judged.requests,
        missed=carried.missed * fades + judged.missed,
        at_s=now_s,
    )
    tally = _counted(_tally_of(carried, judged.octave), judged, math.exp(-since_s / FADES_S))
    others = [each for each in carried.tallies if each.octave != judged.octave]
    hopeless = _is_hopeless(tally)
    missed_ratios = _TWIN_SAYS if hopeless else _isotonic(tally)
    return replace(
        carried,
        ratio=1.0 if hopeless else _highest(missed_ratios, allowed),
        missed_ratios=missed_ratios,
        out_of_reach=hopeless,
        tallies=(*others[-_MOST_MIXES + 1 :], tally),
    )


def _tally_of(carried: Carried, octave: int) -> Tally:
    return next((each for each in carried.tallies if each.octave == octave), Tally(octave))


def place_of(load_ratio: float) -> int:
    """Where a load is counted."""
    if load_ratio <= _LOWEST:
        return 0
    return min(int(math.log(load_ratio / _LOWEST) / STEP) + 1, PLACES - 1)


def _counted(tally: Tally, judged: Judged, fades: float) -> Tally:
    at = place_of(judged.load_ratio)
    requests = [each * fades for each in tally.requests]
    missed = [each * fades for each in tally.missed]
    requests[at] += judged.requests
    missed[at] += judged.missed
    return Tally(tally.octave, tuple(requests), tuple(missed))


def _is_hopeless(tally: Tally) -> bool:
    """Whether most requests miss although the replicas are not even half busy."""
    idle = place_of(_BUSY)
    requests, missed = sum(tally.requests[:idle]), sum(tally.missed[:idle])
    return requests >= _TRUSTED and missed > _HOPELESS * requests


def _twin_says(place: int) -> tuple[float, float]:
    """Requests, and of them misses, that the twin's word counts as there."""
    beyond = float(np.exp(_LOG_LOADS[place])) - 1.0 - STEP / 2
    requests = _TRUSTED if place <= place_of(1.0) else _DOUBTED
    return requests, requests * min(max(beyond / _ALL_MISS, 0.0), 1.0)


def _isotonic(tally: Tally) -> tuple[float, ...]:
    """Share that misses at each load: neighbours are pooled until it never falls as it grows."""
    blocks: list[tuple[int, float, float]] = []
    for (requests, missed), seen, lost in zip(_PRIOR, tally.requests, tally.missed, strict=True):
        places, ended, late = 1, requests + seen, missed + lost
        while blocks and blocks[-1][2] * ended >= late * blocks[-1][1]:
            below = blocks.pop()
            places, ended, late = places + below[0], ended + below[1], late + below[2]
        blocks.append((places, ended, late))
    shares: list[float] = []
    for places, ended, late in blocks:
        shares += [late / ended] * places
    return tuple(shares)


def _highest(missed_ratios: tuple[float, ...], allowed: float) -> float:
    """The highest load at which few enough miss."""
    above = bisect_right(missed_ratios, allowed)
    if above == 0:
        return LEAST_RATIO
    if above == PLACES:
        return MOST_RATIO
    ends = missed_ratios[above - 1 : above + 1]
    load = math.exp(float(np.interp(allowed, ends, _LOG_LOADS[above - 1 : above + 1])))
    return min(max(load, LEAST_RATIO), MOST_RATIO)


_LOG_LOADS = math.log(_LOWEST) + STEP * (np.arange(PLACES) - 0.5)
"""[PLACES] logarithm of the middle of each."""
_PRIOR = tuple(_twin_says(place) for place in range(PLACES))
_TWIN_SAYS = tuple(missed / requests for requests, missed in _PRIOR)
