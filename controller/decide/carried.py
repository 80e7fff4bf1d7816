"""What a replica carries within the objective, against what the twin says: learnt from what came.

Requests that ended are counted by the load of a replica in the minute before, and by how heavy
they were, together with those that missed the objective. The misses of a higher load are never
fewer (isotonic regression: Barlow et al., Statistical Inference under Order Restrictions, 1972);
the highest load at which few enough missed is what a replica carries: to the end of its step, once
enough requests were seen there. Higher ones are not sought; they come by themselves, as the load
goes up and down. Until then the twin is believed.

How many may miss there follows the error budget: the service as a whole may miss as many as the
objective allows. What is not spent lets the fleet run fuller; what is overspent, emptier.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

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
_CAREFUL, _GENEROUS = 1.0, 4.0
"""Misses at the highest load over those allowed in all: with the budget spent, and unspent."""
_UNSPENT = 0.2
_TRUSTED = 300.0
"""Requests, none missed, that the twin's word counts as at each load: as many without a miss say,
95 % sure, that fewer than a hundredth do (the rule of three)."""
_TELLING = 2.0
"""Requests at a load, times the misses allowed, that tell of the whole step."""
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
    out_of_reach: bool = False
    """Requests miss the objective at any load: more replicas would not mend it."""
    tallies: tuple[Tally, ...] = ()
    """The heaviness seen last is the last."""
    requests: float = 0.0
    """Of all, for the error budget; older ones count less."""
    missed: float = 0.0
    at_s: float | None = None

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
    generous = np.interp(carried.spent_ratio(allowed), [_UNSPENT, 1.0], [_GENEROUS, _CAREFUL])
    hopeless = _is_hopeless(tally)
    ratio = 1.0 if hopeless else _highest(tally, allowed * float(generous))
    tallies = (*others[-_MOST_MIXES + 1 :], tally)
    return replace(carried, ratio=ratio, out_of_reach=hopeless, tallies=tallies)


def _tally_of(carried: Carried, octave: int) -> Tally:
    return next((each for each in carried.tallies if each.octave == octave), Tally(octave))


def place_of(load_ratio: float) -> int:
    """Where a load is counted."""
    if load_ratio <= _LOWEST:
        return 0
    return min(int(math.log(load_ratio / _LOWEST) / STEP) + 1, PLACES - 1)


def _load_at(place: int) -> float:
    """The lowest load that is counted there."""
    return _LOWEST * math.exp(STEP * (place - 1)) if place > 0 else 0.0


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


@dataclass(slots=True)
class _Block:
    """Neighbouring loads that are taken together."""

    first: int
    last: int
    requests: float
    missed: float

    @property
    def missed_ratio(self) -> float:
        return self.missed / self.requests


def _highest(tally: Tally, allowed: float) -> float:
    """The highest load at or beyond which enough requests were seen, and few enough missed."""
    good = -1
    for block in _isotonic(tally):
        if block.missed_ratio > allowed:
            break
        good = block.last
    told = 0.0
    for place in range(good, -1, -1):
        told += _requests_at(tally, place)
        if told >= _TELLING / allowed:
            return min(max(_load_at(place + 1), LEAST_RATIO), MOST_RATIO)
    return LEAST_RATIO


_TRUSTED_UP_TO = place_of(1.0)


def _requests_at(tally: Tally, place: int) -> float:
    """Those seen there, and the twin's word."""
    return tally.requests[place] + (_TRUSTED if place <= _TRUSTED_UP_TO else 0.0)


def _isotonic(tally: Tally) -> list[_Block]:
    """Pool neighbours until the share of misses never falls as the load grows."""
    blocks: list[_Block] = []
    for at, missed in enumerate(tally.missed):
        requests = _requests_at(tally, at)
        if requests <= 0:
            continue
        blocks.append(_Block(at, at, requests, missed))
        while len(blocks) > 1 and blocks[-2].missed_ratio > blocks[-1].missed_ratio:
            above = blocks.pop()
            below = blocks[-1]
            below.last = above.last
            below.requests += above.requests
            below.missed += above.missed
    return blocks
