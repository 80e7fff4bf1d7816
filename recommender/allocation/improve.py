"""Whole choices for `generate`: choose greedily, then search again in neighbourhoods.

The master's relaxation leaves some ten demands in pieces, and the pools that they compete for
full. Search over all demands at once is slow, as most choices are near-equal; two dozen
demands searched together, the others held, take HiGHS a tenth of a second. Those that lose
most against the pools' prices are searched first, with some drawn by a seeded generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array, csr_array

from recommender.allocation.columns import Choices
from recommender.allocation.solver import Floats, Problem, Solved, solve

_TOGETHER = ((14, 12), (8, 6), (8, 6))
"""Demands searched together, in turn: those that lose most, and some by chance."""
_TRIES = 60
"""Small exchanges to make room where some demand found none."""
_OUT = 4
"""Demands taken out in one of them."""
_SLACK = 1e-9
_RUN_S = 0.2


@dataclass(slots=True)
class Choosing:
    """A choice for each demand, as far as found, and the room left."""

    choices: Sequence[Choices]
    chosen: list[Floats | None]
    left: Floats
    """Of the tight rows."""
    dual: Floats
    """Prices of the tight rows."""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    took_s: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether every demand has a choice."""
        return all(column is not None for column in self.chosen)

    def cost(self, demands: Sequence[int] | None = None) -> tuple[int, float]:
        """Demands without a choice, then the cost of the others; of all or of some."""
        some = range(len(self.chosen)) if demands is None else demands
        costs = [c @ self.choices[i].own.cost for i in some if (c := self.chosen[i]) is not None]
        return len(some) - len(costs), float(sum(costs))

    def set(self, demand: int, column: Floats | None) -> None:
        """Choose, giving back the room of the choice before."""
        before, tight = self.chosen[demand], self.choices[demand].tight
        if before is not None:
            tight.take(before, self.left, -1)
        if column is not None:
            tight.take(column, self.left, 1)
        self.chosen[demand] = column

    def set_all(self, columns: Sequence[Floats]) -> None:
        """Choose for every demand, and learn these choices."""
        for demand in range(len(self.chosen)):
            self.set(demand, None)
        for demand, column in enumerate(columns):
            self.choices[demand].add(column)
            self.set(demand, column)

    def insert(self, demand: int) -> None:
        """Choose what is cheapest within the room left."""
        self.set(demand, self.choices[demand].best_within(self.dual, self.left))

    def loss(self, demand: int) -> float:
        """What the choice costs beyond the demand's best at the pools' prices."""
        column, choice = self.chosen[demand], self.choices[demand]
        if column is None or not choice.columns:
            return np.inf
        price = choice.tight.price(choice.own.cost, self.dual)
        return float(column @ price - (choice.stack() @ price).min())


def begin(now: Choosing, first: Sequence[Floats | None], fallback: Sequence[Floats]) -> None:
    """Choose `first` where there is room, then the cheapest that fits; room for all is sought.

    `fallback`, if any, fits all together; it is bettered where the others found no room.
    """
    order = sorted(range(len(first)), key=lambda i: (first[i] is None, i))
    for demand in order:
        if not _try(now, demand, first[demand]):
            now.insert(demand)
    for _ in range(_TRIES if not fallback else 0):
        if now.whole:
            break
        _exchange(now)
    if fallback and not now.whole:
        now.set_all(fallback)
    for demand in order if fallback else ():
        before, cost = now.chosen[demand], now.cost([demand])
        now.set(demand, None)
        if not _try(now, demand, first[demand]):
            now.insert(demand)
        if now.cost([demand]) > cost:
            now.set(demand, before)


def _try(now: Choosing, demand: int, column: Floats | None) -> bool:
    """Choose a column if there is room."""
    tight = now.choices[demand].tight
    if column is None or (tight.of(column) > now.left[tight.rows] + _SLACK).any():
        return False
    now.set(demand, column)
    return True


def _exchange(now: Choosing) -> None:
    """Take a few demands out, put one that lacks a choice in first; undo where no better."""
    lacking = [i for i, column in enumerate(now.chosen) if column is None]
    drawn = now.rng.choice(len(now.chosen), min(_OUT, len(now.chosen)), replace=False)
    out = list(dict.fromkeys([int(now.rng.choice(lacking)), *(int(i) for i in drawn)]))
    before, cost = [now.chosen[i] for i in out], now.cost(out)
    for i in out:
        now.set(i, None)
    for i in out:
        now.insert(i)
    if now.cost(out) > cost:
        for i in out:
            now.set(i, None)
        for i, column in zip(out, before, strict=True):
            now.set(i, column)


def search(now: Choosing, turn: int) -> None:
    """Choose anew for some demands together, the others held."""
    losers, chance = _TOGETHER[turn % len(_TOGETHER)]
    order = sorted(range(len(now.chosen)), key=lambda i: (-now.loss(i), i))
    rest = now.rng.permutation(np.array(order[losers:], np.int64))
    free = [*order[:losers], *(int(i) for i in rest[:chance])]
    free = [i for i in free if now.choices[i].columns]
    if not free:
        return
    before = [now.chosen[i] for i in free]
    for i in free:
        now.set(i, None)
    problem, columns = _together(now, free)
    answer = solve(problem, None, 1e-3, _RUN_S, plain=True)
    now.took_s += answer.took_s
    if isinstance(answer, Solved):
        after = [columns[k] for k in np.flatnonzero(answer.x > 0.5)]
        cost = sum(c @ now.choices[i].own.cost for i, c in after)
        lost = sum(np.inf if c is None else c @ now.choices[i].own.cost
                   for i, c in zip(free, before, strict=True))  # fmt: skip
        if cost < lost:
            for i, column in after:
                now.set(i, column)
            return
    for i, earlier in zip(free, before, strict=True):
        now.set(i, earlier)


def _together(now: Choosing, free: Sequence[int]) -> tuple[Problem, list[tuple[int, Floats]]]:
    """One column a demand within the room left."""
    columns = [(i, column) for i in free for column in now.choices[i].columns]
    place = {i: at for at, i in enumerate(free)}
    rows, places, values = [], [], []
    for at, (i, column) in enumerate(columns):
        tight = now.choices[i].tight
        used = tight.of(column)
        touched = np.flatnonzero(used)
        rows.append(tight.rows[touched] + len(free))
        places.append(np.full(touched.size, at))
        values.append(used[touched])
        rows.append(np.array([place[i]]))
        places.append(np.array([at]))
        values.append(np.ones(1))
    shape = (len(free) + now.left.size, len(columns))
    matrix = csr_array(
        coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(places))), shape)
    )
    used_rows = np.flatnonzero(np.diff(matrix.indptr))
    one = np.ones(len(free))
    problem = Problem(
        cost=np.array([column @ now.choices[i].own.cost for i, column in columns]),
        lower=np.zeros(len(columns)),
        upper=np.ones(len(columns)),
        integer=np.ones(len(columns), np.bool_),
        matrix=csr_array(matrix[used_rows]),
        row_lower=np.concatenate([one, np.full(now.left.size, -np.inf)])[used_rows],
        row_upper=np.concatenate([one, now.left])[used_rows],
    )
    return problem, columns
