"""Whole choices for one demand: candidate columns of the master problem in `generate`.

A column is everything the demand's block of the model says at once: replicas by option, what
is missing, what is started. Guesses are mixes of two variants that just carry the rate, put
into the pools that are cheapest at given prices; `own_problem` finds the true best one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from recommender.allocation.block import Block, most_useful
from recommender.allocation.sheet import Label
from recommender.allocation.solver import Floats, Problem

_BEST = 3
"""Columns a demand, target and round."""
_STEPS = 24
"""Counts of a mix's first variant that are tried, at most."""
_SLACK = 1e-9
_NEVER = 1e9
_NAME_POOLS = ("min_nodes", "min_zones", "mean_of_nodes")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a demand's columns use of rows shared with others; only rows that they touch."""

    rows: NDArray[np.int64]
    table: Floats
    """[columns, rows]"""

    def price(self, cost: Floats, dual: Floats) -> Floats:
        """Cost of the columns and of what they use."""
        price: Floats = cost - self.table @ dual[self.rows]
        return price

    def of(self, columns: Floats) -> Floats:
        """What a column, or each of several, uses of the touched rows."""
        used: Floats = columns @ self.table
        return used

    def take(self, column: Floats, room: Floats, sign: float) -> None:
        """Take from the room (1), or give back (-1), what a column uses."""
        room[self.rows] -= sign * self.of(column)


def read_usage(matrix: "csc_array[np.float64]", columns: slice) -> Usage:
    """Read the columns' part of shared rows."""
    part = matrix[:, columns].tocoo()
    rows = np.unique(part.row)
    table = np.zeros((part.shape[1], rows.size))
    table[part.col, np.searchsorted(rows, part.row)] = part.data
    return Usage(rows.astype(np.int64), table)


@dataclass(slots=True)
class Choices:
    """The columns found for one demand."""

    block: Block
    own: Problem
    """Its rows and columns alone."""
    relaxed: tuple[Floats, Floats]
    """Bounds of its rows in `own_problem`."""
    dense: Floats
    """Its rows again, dense."""
    shared: Usage
    """What its columns use of the shared rows."""
    tight: Usage
    """The same of the rows that `improve` keeps, all of them upper bounds."""
    lanes: tuple[tuple[int, ...], ...]
    """Options that a mix does not tell apart; the price does."""
    mixes: tuple[Floats, ...]
    """By target: replicas by lane, [mix, lane]."""
    columns: list[Floats] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    table: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    usage: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, column: Floats) -> None:
        """Keep a column that is new and within the demand's own rows."""
        key = np.round(column, 6).tobytes()
        if key not in self.seen:
            self.seen.add(key)
            if self.within(column):
                self.columns.append(column)

    def stack(self) -> Floats:
        """All columns found, [found, columns]."""
        return np.array(self.columns).reshape(len(self.columns), self.own.cost.size)

    def within(self, column: Floats) -> bool:
        """Whether a column is within the demand's own rows."""
        reached, own = self.dense @ column, self.own
        return bool(
            (column <= own.upper + _SLACK).all()
            and (reached <= own.row_upper + _SLACK).all()
            and (reached >= own.row_lower - _SLACK).all()
        )

    def add_counts(self, counts: Floats) -> None:
        """Keep what these replicas by option amount to."""
        self.add(self.block.complete(counts))

    def add_cheapest(self, dual: Floats) -> None:
        """Keep the best mixes at these prices of the shared rows."""
        if not self.lanes:
            return
        price = self.price(dual)[: len(self.block.options)]
        best = np.array([price[list(lane)].min() for lane in self.lanes])
        for mixes in self.mixes:
            value = mixes @ best
            for index in _lowest(value):
                counts = self._fill(mixes[index], price, self.own.upper)
                if counts is not None:
                    self.add_counts(counts)

    def add_seed(self, seed: Floats) -> None:
        """Keep replicas by option, and them grown or shrunk by one option to just carry."""
        self.add_counts(seed)
        demand, options = self.block.demand, self.block.options
        if not seed.any() or demand.rate_rps == 0:
            return
        carried = sum(n * o.share for n, o in zip(seed, options, strict=True))
        if 1.0 <= carried < 1.0 + min(o.share for o in options):
            return
        for k, option in enumerate(options):
            for extra in (0, 1) if demand.survives_node_loss else (0,):
                change = ceil((1.0 - carried) / option.share - _SLACK) + extra
                grown = seed.copy()
                grown[k] = min(max(seed[k] + change, 0.0), self.own.upper[k])
                self.add_counts(grown)

    def price(self, dual: Floats) -> Floats:
        """Cost of its columns, and of what they use of the shared rows."""
        return self.shared.price(self.own.cost, dual)

    def exact_problem(self, dual: Floats) -> Problem:
        """The demand alone at these prices."""
        return replace(self.own, cost=self.price(dual))

    def beyond(self, bound: float, dual: Floats) -> float:
        """How far the best column is from a bound at these prices."""
        if not self.columns:
            return inf
        return float((self.stack() @ self.price(dual)).min()) - bound

    def own_problem(self, dual: Floats) -> Problem:
        """The demand alone at these prices, relaxed to what tells no pools apart.

        Nodes and zones are asked for as so many replicas. One option a lane is then enough,
        the cheapest, beside those that run; room there for all replicas only lowers the bound.
        """
        price, upper = self.price(dual), self.own.upper.copy()
        options = self.block.options
        for lane in self.lanes if self.block.demand.budget_per_hour is None else ():
            new = [k for k in lane if not options[k].running]
            cheapest = min(new, key=lambda k: (price[k], k), default=lane[0])
            upper[new] = 0.0
            upper[cheapest] = most_useful(self.block.demand, options[cheapest].share)
        low, high = self.relaxed
        return replace(self.own, cost=price, upper=upper, row_lower=low, row_upper=high)

    def best_within(self, dual: Floats, room: Floats) -> Floats | None:
        """The cheapest choice at these prices for which the shared rows have room."""
        if len(self.table) < len(self.columns):
            self.table = self.stack()
            self.usage = self.tight.of(self.table)
        price, best, value = self.tight.price(self.own.cost, dual), None, inf
        here = room[self.tight.rows] + _SLACK
        fits = (self.usage <= here).all(axis=1)
        if fits.any():
            values = np.where(fits, self.table @ price, inf)
            best, value = self.table[values.argmin()], float(values.min())
        fresh = self._fresh(price, here)
        if fresh is not None and fresh @ price < value - _SLACK:
            self.add(fresh)
            return fresh
        return best

    def _fresh(self, price: Floats, room: Floats) -> Floats | None:
        """The cheapest mix that the room takes, of the few cheapest."""
        if not self.lanes:
            return None
        options = len(self.block.options)
        upper = np.minimum(self.own.upper[:options], _most(self.tight.table[:options], room))
        unit = np.where(upper >= 1, price[:options], _NEVER)
        best = np.array([unit[list(lane)].min() for lane in self.lanes])
        for mixes in self.mixes:  # the whole rate first
            value = mixes @ best
            for index in _lowest(value):
                counts = None
                if value[index] < _NEVER:
                    counts = self._fill(mixes[index], price, upper)
                if counts is not None:
                    column = self.block.complete(counts)
                    if (self.tight.of(column) <= room).all() and self.within(column):
                        return column
        return None

    def _fill(self, mix: Floats, price: Floats, upper: Floats) -> Floats | None:
        """Put a mix into its cheapest pools; None where they are too small."""
        counts = np.zeros(len(self.block.options))
        for lane, wanted in zip(self.lanes, mix, strict=True):
            left = wanted
            for k in sorted(lane, key=lambda k: (price[k], k)) if left else ():
                counts[k] = min(left, upper[k])
                left -= counts[k]
            if left > 0:
                return None
        return counts


def make_choices(
    block: Block,
    problem: Problem,
    labels: Sequence[Label],
    shared: tuple["csc_array[np.float64]", "csc_array[np.float64]"],
    targets: Sequence[float],
) -> Choices:
    """No columns yet; targets are the shares of the rate that mixes aim at."""
    rows, columns = block.rows, block.columns
    labels = labels[rows]
    own = Problem(
        cost=problem.cost[columns],
        lower=problem.lower[columns],
        upper=problem.upper[columns],
        integer=problem.integer[columns],
        matrix=csr_array(problem.matrix[rows][:, columns]),
        row_lower=problem.row_lower[rows],
        row_upper=problem.row_upper[rows],
    )
    lanes = tuple(_lanes(block, own.upper))
    return Choices(
        block=block,
        own=own,
        relaxed=_relaxed(block, own, labels),
        dense=own.matrix.toarray(),
        shared=read_usage(shared[0], columns),
        tight=read_usage(shared[1], columns),
        lanes=lanes,
        mixes=tuple(_mixes(block, lanes, target) for target in targets) if lanes else (),
    )


def _relaxed(block: Block, own: Problem, labels: Sequence[Label]) -> tuple[Floats, Floats]:
    """Bounds of its rows without those that name pools; replicas stand in for nodes."""
    low, high, demand = own.row_lower.copy(), own.row_upper.copy(), block.demand
    soft = own.upper[[c - block.first_column for c in block.lacking.values()]].any()
    for row, label in enumerate(labels):
        if label.kind in _NAME_POOLS:
            low[row], high[row] = -inf, inf
        elif label.kind == "min_replicas" and not soft:
            low[row] = max(low[row], demand.min_nodes, demand.min_zones)
    return low, high


def _lowest(values: Floats) -> list[int]:
    """Indices of the few lowest, lowest first."""
    few = min(_BEST, len(values))
    lowest = np.argpartition(values, few - 1)[:few] if few else np.zeros(0, np.int64)
    return sorted(lowest.tolist(), key=lambda k: (values[k], k))


def _most(usage: Floats, room: Floats) -> Floats:
    """Replicas of each option that the shared rows have room for, other things equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        most = np.where(usage > 0, np.floor(room / usage), inf)
    least: Floats = np.maximum(most.min(axis=1, initial=inf), 0.0)
    return least


def _lanes(block: Block, upper: Floats) -> Iterator[tuple[int, ...]]:
    """Group options by variant, and by market where the spot share matters."""
    apart = block.demand.spot_ratio < 1
    groups: dict[tuple[int, bool], list[int]] = {}
    for k, option in enumerate(block.options):
        if upper[k] > 0:
            groups.setdefault((option.variant, apart and option.spot), []).append(k)
    yield from (tuple(group) for group in groups.values())


def _mixes(block: Block, lanes: Sequence[tuple[int, ...]], target: float) -> Floats:
    """Replicas of two lanes that just reach the target, [mix, lane]; distinct."""
    share = np.array([block.options[lane[0]].share for lane in lanes])
    demand = block.demand
    goal = target if demand.rate_rps > 0 else 0.0
    spare = share if demand.survives_node_loss else np.zeros_like(share)
    least = max(demand.min_replicas, demand.min_nodes, demand.min_zones)
    found = []
    for a in range(len(lanes)):
        alone = max(ceil((goal + spare[a]) / share[a] - _SLACK), least)
        n = np.unique(np.rint(np.linspace(0, alone, min(alone + 1, _STEPS))))[:, None]
        surplus = np.maximum(spare, np.where(n > 0, spare[a], 0.0))
        rest = np.ceil((goal + surplus - n * share[a]) / share - _SLACK)
        rest = np.maximum(np.maximum(rest, least - n), 0.0)  # [counts of a, second lane]
        mix = rest[:, :, None] * np.eye(len(lanes))
        mix[:, :, a] = n
        second = np.ones((len(n), len(lanes)), np.bool_)
        second[:-1, a] = False  # alone, a must reach the target
        found.append(mix[second])
    return _distinct(np.concatenate(found))


def _distinct(rows: Floats) -> Floats:
    """Rows once each; told apart by a product with irrational weights, which sorts fast."""
    weights = np.sqrt(np.arange(2, rows.shape[1] + 2) + 0.5)
    _, first = np.unique(np.round(rows @ weights, 9), return_index=True)
    return rows[np.sort(first)]
