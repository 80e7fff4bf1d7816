"""What could have been done by one who knows the future: a bound, and a schedule beside it.

The bound is `bound`'s: nobody passes it. The schedule is the cheapest series of counts that
was found to reach the same share of requests, replayed like any policy: what is between the
two nobody knows to be possible.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from controller.replay.bound import Bound, bound
from controller.replay.outcome import Outcome
from controller.replay.policy import Fleet, Known, Scrape, Wish
from controller.replay.run import replay
from controller.replay.served import Served
from controller.replay.terms import Terms
from profiler.trace import Trace

Ints = NDArray[np.int64]

_SLOT_S = 10.0
_MARGINS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0, 2.5)
"""Times the replicas that the mean rate of a slot needs."""
_SMOOTHED = 3
"""Slots over which the load is averaged first."""
_TRIALS = 120
"""Replays that the series found is then trimmed by."""


@dataclass(slots=True)
class Schedule:
    """A policy that knows how many shall serve when, and starts them in time."""

    counts: tuple[int, ...]
    """Replicas serving in each slot from 0 s; the last for ever after."""
    slot_s: float = _SLOT_S
    interval_s: float = 5.0
    name: str = "clairvoyant"

    def start(self, known: Known) -> float:
        """Remember how long a start takes."""
        return known.start_up_s

    def decide(
        self, scrape: Scrape | None, fleet: Fleet, state: float, now_s: float
    ) -> tuple[Wish, float]:
        """Want the most that shall serve until a start from now would be ready."""
        last = len(self.counts) - 1
        first = min(int(now_s // self.slot_s), last)
        until = min(int((now_s + state) // self.slot_s), last)
        return Wish(max(self.counts[first : until + 1]), "planned"), state


@dataclass(frozen=True, slots=True)
class Clairvoyant:
    """The bound and the best that was found."""

    bound: Bound
    schedule: Schedule
    outcome: Outcome
    """Of the schedule."""
    reached: bool
    """Whether it attains the share that was asked for."""

    @property
    def slack_ratio(self) -> float:
        """How much more than the bound the schedule costs."""
        return self.outcome.replica_s / max(self.bound.replica_s, 1e-9) - 1.0


def clairvoyant(
    trace: Trace, served: Served, terms: Terms, attained_ratio: float, trials: int = _TRIALS
) -> Clairvoyant:
    """Bound what a share of attained requests costs, and search a schedule that reaches it."""
    least = bound(trace, served, terms, attained_ratio)
    tried = [(s, scheduled(trace, served, terms, s)) for s in _first(trace, served, terms)]
    good = [(s, o) for s, o in tried if _reaches(o, attained_ratio)]
    if not good:
        schedule, outcome = max(tried, key=lambda pair: pair[1].attained_ratio)
        return Clairvoyant(least, schedule, outcome, reached=False)
    best = min(good, key=lambda pair: pair[1].replica_s)
    for first, end in islice(_cuts(best[0]), trials):
        counts = list(best[0].counts)
        counts[first:end] = [max(n - 1, terms.min_replicas, 1) for n in counts[first:end]]
        shorter = replace(best[0], counts=tuple(counts))
        if shorter != best[0]:
            outcome = scheduled(trace, served, terms, shorter)
            if _reaches(outcome, attained_ratio) and outcome.replica_s < best[1].replica_s:
                best = shorter, outcome
    return Clairvoyant(least, *best, reached=True)


def scheduled(trace: Trace, served: Served, terms: Terms, schedule: Schedule) -> Outcome:
    """Replay a schedule, its first replicas there from the first moment."""
    return replay(trace, served, schedule, replace(terms, initial=schedule.counts[0]))


def _cuts(schedule: Schedule) -> Iterator[tuple[int, int]]:
    """Stretches of slots to try one replica fewer in: halves, quarters, and so on."""
    slots = len(schedule.counts)
    parts = 1
    while parts < slots:
        parts *= 2
        edges = np.linspace(0, slots, parts + 1).astype(int).tolist()
        yield from ((first, end) for first, end in pairwise(edges) if end > first)


def _reaches(outcome: Outcome, attained_ratio: float) -> bool:
    return not outcome.attained_ratio < attained_ratio


def _first(trace: Trace, served: Served, terms: Terms) -> Iterator[Schedule]:
    """Series that follow the load, with more or less room; constant ones as well."""
    slots = int(trace.duration_s // _SLOT_S) + 1
    came = np.bincount((trace.arrival_s // _SLOT_S).astype(np.int64), minlength=slots)
    near = np.ones(min(_SMOOTHED, slots))
    around = np.convolve(came, near, "same") / np.convolve(np.ones(slots), near, "same")
    needed = around / _SLOT_S / served.capacity.rate_rps
    series = [_filled(_bounded(needed * margin, terms), terms.start_up_s) for margin in _MARGINS]
    highest = {int(each.max()) - less for each in series for less in (0, 1)}
    series += [_bounded(np.full(slots, float(count)), terms) for count in sorted(highest)]
    known: set[tuple[int, ...]] = set()
    for each in series:
        counts = tuple(each.tolist())
        if counts not in known:
            known.add(counts)
            yield Schedule(counts)


def _bounded(replicas: NDArray[np.float64] | Ints, terms: Terms) -> Ints:
    counts = np.ceil(np.asarray(replicas, np.float64) - 1e-9).astype(np.int64)
    return np.clip(counts, max(terms.min_replicas, 1), terms.max_replicas)


def _filled(counts: Ints, start_up_s: float) -> Ints:
    """Keep a replica over a gap that is shorter than a start: it costs less than another start.

    Level by level, which is the cheapest series that is nowhere below: each level is paid for
    on its own.
    """
    filled = counts.copy()
    for level in range(1, int(counts.max(initial=0)) + 1):
        on = np.flatnonzero(filled >= level)
        for before, after in pairwise(on):
            if (after - before - 1) * _SLOT_S <= start_up_s:
                inside = filled[before + 1 : after]
                np.maximum(inside, level, out=inside)
    return filled
