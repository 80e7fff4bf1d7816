"""A bound that no policy passes: least replica seconds at which a share of requests attains.

A mixed-integer programme over slots of time, solved by HiGHS; the bound is the solver's proved
one, whatever it had found. `docs/replay.md` defines it and proves that it is a bound.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from controller.replay.served import Served
from controller.replay.terms import Terms
from controller.replay.work import Work, least_work
from profiler.errors import Refused
from profiler.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SLOTS = 120
_LEAST_SLOT_S = 20.0
_GAP_RATIO = 0.01
_MOST_NODES = 200
_HEAVY = 0.8
"""Quantile of the work above which requests are a class of their own: the first to forgo."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What no policy can pass."""

    replica_s: float
    gpu_hours: float
    attained_ratio: float
    """At this share of requests within the SLO."""
    slot_s: float
    work_s: float
    """Least replica seconds of all requests, at the best possible batching."""
    counts: tuple[int, ...]
    """Replicas at the start of each slot in the programme's solution: no schedule that serves."""


def bound(trace: Trace, served: Served, terms: Terms, attained_ratio: float) -> Bound:
    """Bound what any policy pays that attains a share of the requests or more."""
    if not 0 <= attained_ratio <= 1:
        raise Refused(f"attained_ratio must lie in [0, 1], got {attained_ratio}")
    work = least_work(trace, served, terms)
    n = work.from_s.size
    may_miss = n - math.ceil(round(attained_ratio * n, 6))
    work_s = float((work.prefill_s + work.decode_s).sum())
    floor_s = _floor_s(trace, terms)
    if n > may_miss:
        slots = _Slots.of(work, _shortest_start_s(terms))
        found = _solved(slots, work, may_miss)
    else:
        found = _Found(0.0, (), _LEAST_SLOT_S)
    replica_s = max(found.replica_s, floor_s)
    hours = replica_s * served.gpus / 3600.0
    return Bound(replica_s, hours, attained_ratio, found.slot_s, work_s, found.counts)


def _shortest_start_s(terms: Terms) -> float:
    """Faults may shorten starts, too."""
    return terms.start_up_s * math.prod(min(f.factor, 1.0) for f in terms.faults.long_starts)


class _Found(NamedTuple):
    """What the programme tells."""

    replica_s: float
    counts: tuple[int, ...]
    slot_s: float


def _floor_s(trace: Trace, terms: Terms) -> float:
    """What the minimum alone costs; nothing is sure where replicas may fall."""
    faults = terms.faults
    if faults.node_losses or faults.failed_starts:
        return 0.0
    end_s = min(max(trace.duration_s, terms.until_s or 0.0), terms.vanishes_s)
    return terms.min_replicas * max(end_s - terms.appears_s, 0.0)


class _Slots(NamedTuple):
    """Time cut into slots."""

    slot_s: float
    number: int
    start_up_s: float

    @classmethod
    def of(cls, work: Work, start_up_s: float) -> "_Slots":
        ends = np.concatenate([work.first_by_s, work.last_by_s, work.from_s])
        end_s = float(ends[np.isfinite(ends)].max())
        slot_s = max(_LEAST_SLOT_S, end_s / _SLOTS)
        return cls(slot_s, int(end_s // slot_s) + 1, start_up_s)

    def place(self, at_s: Floats) -> Ints:
        """Slot of each moment; after the last for one that never comes."""
        at = np.minimum(at_s / self.slot_s, float(self.number))
        return at.astype(np.int64)


class _Class(NamedTuple):
    """Requests that came, and are due, in the same slots."""

    first: int
    prefill_last: int
    decode_last: int
    requests: int
    prefill_s: float
    decode_s: float
    prefill_most_s: float
    """Of one of them."""
    decode_most_s: float


def _classes(slots: _Slots, work: Work) -> list[_Class]:
    """Put alike requests together; due later than they are never harms a bound."""
    first = slots.place(work.from_s)
    prefill_last = _widened(first, slots.place(work.first_by_s), slots.number)
    decode_last = _widened(first, slots.place(work.last_by_s), slots.number)
    total_s = work.prefill_s + work.decode_s
    heavy = (total_s > np.quantile(total_s, _HEAVY)).astype(np.int64)
    keys = np.stack([first, prefill_last, decode_last, heavy], axis=1)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    sums = [np.bincount(inverse, each) for each in (np.ones(first.size), *work[:2])]
    most = [np.zeros(len(unique)), np.zeros(len(unique))]
    for top, each in zip(most, work[:2], strict=True):
        np.maximum.at(top, inverse, each)
    return [
        _Class(int(at), int(by), int(due), int(n), float(p), float(d), float(pm), float(dm))
        for (at, by, due, _), n, p, d, pm, dm in zip(unique, *sums, *most, strict=True)
    ]


def _widened(first: Ints, last: Ints, after: int) -> Ints:
    """Let spans be 0, 1, 2, 4 … slots: fewer classes, and nobody is due earlier than he is."""
    span = np.maximum(last - first, 0)
    wide = np.where(span > 1, 2 ** np.ceil(np.log2(np.maximum(span, 1))).astype(np.int64), span)
    return np.where(last >= after, after, np.minimum(first + wide, after - 1))


class _Programme:
    """Columns and rows as they are added."""

    def __init__(self) -> None:
        self.costs: list[float] = []
        self.uppers: list[float] = []
        self.whole: list[int] = []
        self._entries: list[tuple[int, int, float]] = []
        self._rows: list[tuple[float, float]] = []

    def column(self, cost: float = 0.0, upper: float = np.inf, *, whole: bool = False) -> int:
        self.costs.append(cost)
        self.uppers.append(upper)
        self.whole.append(int(whole))
        return len(self.costs) - 1

    def row(self, terms: Iterable[tuple[int, float]], low: float, high: float = np.inf) -> None:
        for column, factor in terms:
            self._entries.append((len(self._rows), column, factor))
        self._rows.append((low, high))

    def solve(self) -> tuple[float, Floats | None]:
        """The proved bound, and the best solution found."""
        rows, columns, values = zip(*self._entries, strict=True)
        shape = (len(self._rows), len(self.costs))
        low, high = zip(*self._rows, strict=True)
        result = milp(
            self.costs,
            constraints=LinearConstraint(csr_array((values, (rows, columns)), shape), low, high),
            integrality=np.array(self.whole),
            bounds=Bounds(0.0, self.uppers),
            options={"mip_rel_gap": _GAP_RATIO, "node_limit": _MOST_NODES},
        )
        proved = result.mip_dual_bound
        return (0.0 if proved is None else max(float(proved), 0.0)), result.x


class _Due(NamedTuple):
    """Work due in the same slots, and columns of what is spared of it by forgoing requests."""

    total_s: float = 0.0
    spared: tuple[int, ...] = ()


_Dues = dict[int, dict[int, _Due]]
"""By the last slot, then by the first."""


def _solved(slots: _Slots, work: Work, may_miss: int) -> _Found:
    programme = _Programme()
    counts, capacity = _fleet(programme, slots)
    dues = _forgone(programme, _classes(slots, work), may_miss)
    done: list[list[tuple[int, float]]] = [[] for _ in range(slots.number + 1)]
    for last, by_first in dues.items():
        _serve(programme, last, by_first, done)
    # what nothing bounds may be done after the last slot, by as few as one likes
    room = [(column, slots.slot_s) for column in capacity] + [(programme.column(cost=1.0), 1.0)]
    for slot, columns in enumerate(done):
        programme.row([room[slot], *columns], 0.0)
    proved_s, solution = programme.solve()
    found = () if solution is None else tuple(round(solution[c]) for c in counts)
    return _Found(proved_s, found, slots.slot_s)


def _serve(
    programme: _Programme,
    last: int,
    by_first: dict[int, _Due],
    done: list[list[tuple[int, float]]],
) -> None:
    """Work that is due by one slot: what came and is not done is carried on to the next."""
    carried: list[tuple[int, float]] = []
    for slot in range(min(by_first), last + 1):
        served, due = programme.column(), by_first.get(slot, _Due())
        done[slot].append((served, -1.0))
        left = [(programme.column(), 1.0)] if slot < last else []
        spared = [(column, 1.0) for column in due.spared]
        programme.row([(served, 1.0), *left, *carried, *spared], due.total_s)
        carried = [(column, -1.0) for column, _ in left]


def _forgone(programme: _Programme, classes: list[_Class], may_miss: int) -> _Dues:
    """Let some requests be forgone: each spares the work of the largest of its class at most."""
    dues: _Dues = {}
    forgone: list[tuple[int, float]] = []
    for each in classes:
        forgo = programme.column(upper=each.requests)
        forgone.append((forgo, 1.0))
        for last, total_s, most_s in (
            (each.prefill_last, each.prefill_s, each.prefill_most_s),
            (each.decode_last, each.decode_s, each.decode_most_s),
        ):
            if total_s > 0:
                spared = programme.column(upper=total_s)
                programme.row([(forgo, most_s), (spared, -1.0)], 0.0)
                by_first = dues.setdefault(last, {})
                due = by_first.get(each.first, _Due())
                by_first[each.first] = _Due(due.total_s + total_s, (*due.spared, spared))
    programme.row(forgone, 0.0, may_miss)
    return dues


def _fleet(programme: _Programme, slots: _Slots) -> tuple[list[int], list[int]]:
    """Columns of the replicas at each slot's start, and on average within it.

    Within a slot there are never more than at its start and got ready in it, never fewer than
    at its start less those that went.
    """
    counts = [programme.column(whole=True)]
    capacity = []
    for _ in range(slots.number):
        before, after = counts[-1], programme.column(whole=True)
        up = programme.column(cost=slots.start_up_s, whole=True)
        down = programme.column(whole=True)
        mean = programme.column(cost=slots.slot_s)
        programme.row([(after, 1.0), (before, -1.0), (up, -1.0), (down, 1.0)], 0.0, 0.0)
        programme.row([(before, 1.0), (up, 1.0), (mean, -1.0)], 0.0)
        programme.row([(mean, 1.0), (before, -1.0), (down, 1.0)], 0.0)
        counts.append(after)
        capacity.append(mean)
    return counts[:-1], capacity
