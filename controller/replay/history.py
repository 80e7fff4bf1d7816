"""A trace rebuilt from what engines counted, interval by interval.

Called by `whaleflux replay --prometheus`; `controller.traffic.history` asks the Prometheus. How
many came in an interval is counted (what ended, and what batch and queue grew by); when within
it, is drawn. Engines tell a request's lengths when it ends: the k-th to come in a stretch
without gaps takes the lengths of the k-th to end after those that were under way when the
stretch began. So the lengths of those that ended in an interval add up to what was counted.

Unknown is not zero: an interval that is not known is cut out of time.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from controller.replay.counted import Bools, Buckets, Counted, Floats
from profiler.errors import Refused
from profiler.trace import Trace
from recommender.workload import CALMEST

Ints = NDArray[np.int64]

_TELLING = 8
"""Differences of neighbouring intervals that are needed to tell anything of how they vary."""
_MANY, _ERRORS = 100, 2.0
"""Such differences that tell a correlation, and standard errors that it must be away from none."""


def rebuilt(counted: Counted, seed: int = 0) -> Trace:
    """Make the requests that were counted.

    Within an interval they come as a renewal process does whose gaps are Gamma. Raises `Refused`
    where nothing came.
    """
    known = counted.known
    came = np.zeros(known.size, np.int64)
    came[known] = np.diff(np.rint(np.cumsum(counted.came[known])), prepend=0.0)
    if not came.sum() > 0:
        raise Refused("history: no request came in the time asked for: take a longer one")
    chance = np.random.default_rng(seed)
    shape = 1.0 / _dispersion_of_gaps(counted.came)
    arrivals = [
        (place + _within(int(n), shape, chance)) * counted.interval_s
        for place, n in enumerate(came[known])
    ]
    inputs, outputs = _lengths(counted, came, chance)
    prefixes = np.floor(inputs * counted.hit_ratio).astype(np.int64)
    return Trace.of(np.concatenate(arrivals), inputs, outputs, prefixes)


def _within(count: int, shape: float, chance: np.random.Generator) -> Floats:
    """[count] moments in an interval, from 0 to 1."""
    ends = np.cumsum(np.maximum(chance.gamma(shape, size=count + 1), 1e-12))
    moments: Floats = ends[:-1] / ends[-1]
    return moments


def _dispersion_of_gaps(came: Floats) -> float:
    """Squared cv of the gaps within an interval; 1, Poisson, where that cannot be told.

    What a count varies by over its mean is that square for a renewal process (Cox, Renewal
    Theory, 1962), whatever the width; a rate that changes adds to it in proportion to the width.
    So two widths are carried on to none. It is taken between Poisson and what one interval shows.
    """
    one, two = _dispersion(came, 1), _dispersion(came, 2)
    if not (np.isfinite(one) and np.isfinite(two)):
        return 1.0
    return float(np.clip(2.0 * one - two, max(min(one, 1.0), CALMEST**2), max(one, 1.0)))


def _dispersion(came: Floats, width: int) -> float:
    """Half the mean square of neighbours' differences, over the mean; NaN: too few came."""
    groups = came[: came.size // width * width].reshape(-1, width).sum(axis=1)
    steps = np.diff(groups)
    steps = steps[np.isfinite(steps)]
    if steps.size < _TELLING or not np.nansum(groups) > 0:
        return np.nan
    return float(np.mean(steps**2) / 2.0 / np.nanmean(groups))


def _lengths(counted: Counted, came: Ints, chance: np.random.Generator) -> tuple[Ints, Ints]:
    """Prompts and answers of all that came, in their order."""
    likeness, ended = _likeness(counted), []
    for i in np.flatnonzero(counted.known):
        prompts = _drawn(counted.prompts, int(i), chance)
        ended.append(_paired(prompts, _drawn(counted.answers, int(i), chance), likeness, chance))
    empty = np.zeros(0, np.int64)
    rows = np.cumsum(counted.known) - 1
    columns = []
    for name, column in zip(("prompt", "answer"), zip(*ended, strict=True), strict=True):
        everyone, parts = np.concatenate(column), [empty]
        if not everyone.size:
            raise Refused(f"history: no {name} lengths in the time asked for: take a longer one")
        for first, end in _stretches(counted.known):
            needed, before = int(came[first:end].sum()), int(counted.held[first])
            pool = np.concatenate(column[rows[first] : rows[first] + end - first])
            pool = pool[before:][:needed]
            more = chance.choice(everyone, needed - pool.size)  # they ended later, or never
            parts += [pool, more]
        columns.append(np.concatenate(parts))
    return columns[0], columns[1]


def _likeness(counted: Counted) -> float:
    """How prompt and answer of a request correlate; 0 where it cannot be told.

    As the sums over an interval's requests do. Neighbours' means are held against each other, so
    that slow changes count for nothing.
    """
    prompts, answers = counted.prompts, counted.answers
    ended = np.where(counted.known, prompts.counts.sum(axis=1), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.sqrt(ended[1:] * ended[:-1] / (ended[1:] + ended[:-1]))
        steps = [np.diff(each.total / ended) * weight for each in (prompts, answers)]
    told = np.isfinite(steps[0]) & np.isfinite(steps[1]) & (weight > 0)
    one, other = (step[told] for step in steps)
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    if told.sum() < _MANY or not spread > 0:
        return 0.0
    found = float((one * other).sum()) / spread
    return found if abs(found) * np.sqrt(told.sum()) > _ERRORS else 0.0


def _paired(
    prompts: Ints, answers: Ints, likeness: float, chance: np.random.Generator
) -> tuple[Ints, Ints]:
    """Put lengths together by their ranks, as a normal pair of that correlation has them."""
    one, other = chance.standard_normal((2, max(prompts.size, answers.size)))
    other = likeness * one + np.sqrt(1.0 - likeness**2) * other
    first, second = one[: prompts.size].argsort(), other[: answers.size].argsort()
    return np.sort(prompts)[first.argsort()], np.sort(answers)[second.argsort()]


def _stretches(known: Bools) -> Iterator[tuple[int, int]]:
    """Begin and end of each row of known intervals."""
    edges = np.flatnonzero(np.diff(known.astype(np.int8), prepend=0, append=0)).tolist()
    return ((first, end) for first, end in list(pairwise(edges))[::2])


def _drawn(buckets: Buckets, interval: int, chance: np.random.Generator) -> Ints:
    """Lengths of those that ended in an interval: each in its bucket, together of their sum.

    Even inside the buckets at first, then all moved towards their upper or lower bounds by the
    same share of the way.
    """
    counts = np.rint(np.maximum(np.nan_to_num(buckets.counts[interval]), 0.0)).astype(np.int64)
    total = buckets.total[interval]
    least = np.repeat(np.floor(buckets.lower) + 1.0, counts)
    most = np.maximum(np.repeat(np.floor(buckets.upper), counts), least)
    most = np.where(np.isfinite(most), most, _longest(least, most, total))
    drawn = least + (most - least) * chance.random(least.size)
    missing = total - drawn.sum()
    bound = most if missing > 0 else least
    room = abs(float((bound - drawn).sum()))
    if np.isfinite(missing) and room > 0:
        drawn += (bound - drawn) * min(abs(missing) / room, 1.0)
    return _whole(drawn)


def _longest(least: Floats, most: Floats, total: float) -> Floats:
    """How long those may be whose bucket has no end: as long as their sum asks for."""
    endless = ~np.isfinite(most)
    left = total - least[~endless].sum()
    each = np.ceil(left / max(int(endless.sum()), 1)) if np.isfinite(left) else 0.0
    return np.maximum(2.0 * least, each)


def _whole(values: Floats) -> Ints:
    """Round so that the sum is kept: up where most is cut off."""
    floors = np.floor(values)
    up = int(np.rint(values.sum() - floors.sum()))
    floors[np.argsort(floors - values, kind="stable")[:up]] += 1.0
    whole: Ints = floors.astype(np.int64)
    return whole
