"""Column generation: a near-best point for the model, and a bound on any point.

Rounded-up replicas of a hundred services make the whole problem hard for branch and bound
(minutes to 1 %), yet only pools and budgets couple the demands. So a master problem chooses
one whole column a demand within the pools; its duals price the pools; at those prices each
demand alone is a small problem that HiGHS solves to proof. By Lagrangian duality the sum of
what HiGHS proves for them, less the pools' rent, undercuts every allocation: far nearer than
the relaxation of the whole, which cuts replicas into pieces.

Each column is checked against its demand's own rows, chosen ones together against the shared
rows. Where the gap is still too wide, branch and bound goes on from the point.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, hstack, vstack

from recommender.allocation.columns import Choices, make_choices
from recommender.allocation.improve import Choosing, begin, search
from recommender.allocation.model import Model
from recommender.allocation.solver import (
    Floats,
    Problem,
    Relaxed,
    Solved,
    relax,
    solve,
)

FULL = (1.0,)
PARTIAL = (1.0, 0.8, 0.5, 0.2)
"""Shares of the rate that guesses aim at where not all can be carried."""

_SCALES = (0.0, 0.6, 0.9, 1.1, 1.5)
"""First guesses of pools' prices, by those of the relaxation: too cheap up to too dear."""
_ROUNDS = 3
"""Rounds of guessed columns before any are proved best."""
_PROOFS = 3
"""Rounds in which each demand is solved to proof, at most."""
_SEARCHES = 8
"""Neighbourhoods searched for one bound, at most."""
_FAR = 1e-3
"""A demand whose best column is this share of all cost above its bound is solved exactly,
spread and all; guesses of two variants in the cheapest pools miss it."""
_EXACT_S = 0.2
_REPOOL_S = 0.3
_WHOLE = 1e-6
_SKIP = 1e4
"""Cost, in dearest columns, of leaving a demand without a column; no point may."""


@dataclass(slots=True)
class Generated:
    """What came of it; the better, the longer."""

    point: Floats | None = None
    """Within every row; None where none was found."""
    objective: float = inf
    bound: float = -inf
    took_s: float = 0.0
    """HiGHS' own seconds."""

    def near(self, gap_ratio: float) -> bool:
        """Whether the point is proved good enough."""
        far = self.objective - self.bound
        return self.point is not None and far <= gap_ratio * abs(self.objective) + 1e-6


@dataclass(frozen=True, slots=True)
class Task:
    """What is solved: the model's problem, with the costs and bounds of a stage."""

    model: Model
    problem: Problem
    rows: NDArray[np.int64]
    """Shared ones."""
    shared: "csc_array[np.float64]"
    tight: NDArray[np.int64]
    """Of the shared rows, those that remain when levels are put into the rows they bound."""
    choices: tuple[Choices, ...]
    kept: tuple[Floats | None, ...]
    """Cheapest columns near the seeds."""

    @property
    def loose(self) -> slice:
        """Columns that belong to no demand; they come last."""
        return slice(self.model.blocks[-1].last_column, self.problem.cost.size)


@dataclass(frozen=True, slots=True)
class Wish:
    """What `generate` aims at."""

    gap_ratio: float
    """A point this near to its bound is good enough."""
    limit_s: float
    """HiGHS' seconds after which no further step begins."""
    targets: tuple[float, ...] = FULL
    seeds: tuple[Floats, ...] = ()
    """Points to choose from too; they need not be within the rows."""
    fallback: Floats | None = None
    """A point within the rows."""
    perfect: Callable[[Floats], bool] = lambda _: False
    """Whether a point cannot be bettered, whatever its bound."""


def generate(model: Model, problem: Problem, wish: Wish) -> Generated:
    """Find a point and a bound; stops when good enough, or when more rounds do not help."""
    found = Generated()
    if wish.fallback is not None:
        found.point, found.objective = wish.fallback, float(problem.cost @ wish.fallback)
    relaxed = relax(problem)
    if relaxed is None:
        return found
    task = _task(model, problem, wish)
    dual = _guess(task, relaxed)
    if len(wish.targets) > 1:  # something is missing: perhaps not of this priority
        _choose(task, replace(wish, perfect=lambda _: True), found)
        if found.point is not None and wish.perfect(found.point):
            return found
    master = _converge(task, dual, wish, found)
    if master is not None and master.x[-len(task.choices) :].max() <= _WHOLE:
        _choose(task, wish, found)  # otherwise not even in pieces does each find a place
    return found


def _converge(task: Task, dual: Floats, wish: Wish, found: Generated) -> Relaxed | None:
    """Prove and add columns by turns, until the master is near the bound; its relaxation."""
    master: Relaxed | None = None
    for _ in range(_PROOFS):
        _prove(task, dual, found)
        for _ in range(2):
            master = relax(_master(task))
            if master is None:
                return None
            dual = master.row_dual[: len(task.rows)]
            for choice in task.choices:
                choice.add_cheapest(dual)
        least = found.bound if master is None else master.objective
        near = least - found.bound < wish.gap_ratio / 3 * abs(least)
        if near or found.took_s > wish.limit_s / 2:
            break
    return master


def _task(model: Model, problem: Problem, wish: Wish) -> Task:
    rows = model.shared_rows
    shared = csc_array(problem.matrix[rows])
    tight, without = _without_levels(model, problem, rows)
    choices = tuple(
        make_choices(block, problem, model.labels, (shared, without), wish.targets)
        for block in model.blocks
    )
    kept = tuple(_kept(choice, wish.seeds) for choice in choices)
    for choice in choices:
        choice.add_counts(np.zeros(len(choice.block.options)))
    return Task(model, problem, rows, shared, tight, choices, kept)


def _kept(choice: Choices, seeds: Sequence[Floats]) -> Floats | None:
    """Learn the seeds' columns; the cheapest of those."""
    first, options = choice.block.first_column, len(choice.block.options)
    for seed in seeds:
        choice.add_seed(seed[first : first + options].copy())
    return min(choice.columns, key=lambda column: float(column @ choice.own.cost), default=None)


def _without_levels(
    model: Model, problem: Problem, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], "csc_array[np.float64]"]:
    """Shared rows that are upper bounds, with each level replaced by what defines it."""
    shared = csr_array(problem.matrix[rows])
    last = model.blocks[-1].last_column
    equal = np.flatnonzero(problem.row_lower[rows] == problem.row_upper[rows])
    tight = np.flatnonzero(problem.row_lower[rows] != problem.row_upper[rows])
    loose = shared[:, last:]
    levels = loose[tight] @ loose[equal].T  # 1 × -1 where a row holds a level
    return tight, csc_array(shared[tight] - levels @ shared[equal])


def _guess(task: Task, relaxed: Relaxed) -> Floats:
    """Fill the master with guesses; its duals."""
    first = dual = relaxed.row_dual[task.rows]
    for scale in _SCALES:
        for choice in task.choices:
            choice.add_cheapest(scale * first)
    for _ in range(_ROUNDS):
        dual = _dual(task, relax(_master(task)), dual)
        for choice in task.choices:
            choice.add_cheapest(dual)
            choice.add_cheapest(0.5 * (first + dual))
    return _dual(task, relax(_master(task)), dual)


def _dual(task: Task, master: Relaxed | None, otherwise: Floats) -> Floats:
    return otherwise if master is None else master.row_dual[: len(task.rows)]


def _prove(task: Task, dual: Floats, found: Generated) -> None:
    """Raise the bound to what these prices prove; keep each demand's best column."""
    low, high = task.problem.row_lower[task.rows], task.problem.row_upper[task.rows]
    side = np.where(dual > 0, low, high)
    dual = np.where(np.isfinite(side), dual, 0.0)
    total = float(dual @ np.where(np.isfinite(side), side, 0.0))
    price = task.problem.cost[task.loose] - task.shared[:, task.loose].T @ dual
    total += float(np.minimum(price * task.problem.upper[task.loose], 0.0).sum())
    bounds = []
    for choice in task.choices:
        answer = solve(choice.own_problem(dual), None, 1e-3, 1.0, plain=True)
        found.took_s += answer.took_s
        if not isinstance(answer, Solved):
            return
        bounds.append(answer.bound)
        choice.add_counts(answer.x[: len(choice.block.options)])
    total += sum(bounds)
    found.bound = max(found.bound, total)
    for choice, bound in zip(task.choices, bounds, strict=True):
        if choice.beyond(bound, dual) > _FAR * abs(total):
            answer = solve(choice.exact_problem(dual), None, 1e-3, _EXACT_S, plain=True)
            found.took_s += answer.took_s
            if isinstance(answer, Solved):
                choice.add_counts(answer.x[: len(choice.block.options)])


def _choose(task: Task, wish: Wish, found: Generated) -> None:
    """Turn the master's relaxation into whole choices; keep a better point.

    What runs comes first: if that is good enough, it stays.
    """
    relaxed = relax(_master(task))
    if relaxed is None:
        return
    dual = relaxed.row_dual[task.tight]
    first = [
        choice.columns[k] if len(choice.columns) and share[k] > 0.5 else None
        for choice, share in _shares(task, relaxed.x)
        for k in [int(share.argmax()) if share.size else 0]
    ]
    for begun in (task.kept, first) if wish.seeds else (first,):
        now = _begin(task, begun, dual, found)
        if now.whole:
            _keep(task, _repool(task, _point(task, now), found), found)
        if not found.near(wish.gap_ratio):
            _search(task, now, wish, found)
        if found.near(wish.gap_ratio):
            break


def _begin(task: Task, first: Sequence[Floats | None], dual: Floats, found: Generated) -> Choosing:
    room = task.problem.row_upper[task.rows][task.tight]
    now, best = Choosing(task.choices, [None] * len(first), room.copy(), dual), found.point
    begin(now, first, [] if best is None else [best[c.block.columns] for c in task.choices])
    return now


def _search(task: Task, now: Choosing, wish: Wish, found: Generated) -> None:
    """Better the best point by searching neighbourhoods, for as long as it is worth it."""
    for turn in range(_SEARCHES):
        if found.point is not None:
            if found.near(0.9 * wish.gap_ratio) or wish.perfect(found.point):
                break
            now.set_all([found.point[choice.block.columns] for choice in task.choices])
        search(now, turn)
        if now.whole:
            _keep(task, _repool(task, _point(task, now), found), found)
        if found.took_s + now.took_s > wish.limit_s:
            break
    found.took_s += now.took_s


def _shares(task: Task, x: Floats) -> Iterator[tuple[Choices, Floats]]:
    """Each demand's columns as the master shares them out."""
    at = task.problem.cost[task.loose].size
    for choice in task.choices:
        yield choice, x[at : at + len(choice.columns)]
        at += len(choice.columns)


def _point(task: Task, now: Choosing) -> Floats:
    """Put choices together; levels follow from them."""
    x = np.zeros(task.problem.cost.size)
    for choice, column in zip(task.choices, now.chosen, strict=True):
        x[choice.block.columns] = column
    equal = np.setdiff1d(np.arange(len(task.rows)), task.tight)
    held = task.shared[equal]
    x[task.loose] = np.asarray(held[:, task.loose].T @ -np.asarray(held @ x))
    return x


def _repool(task: Task, x: Floats, found: Generated) -> Floats:
    """Move replicas to the best pools, with each demand's variants as they are.

    All demands at once, and little work for HiGHS: rates are settled, a transport remains.
    """
    problem, rows, counts = task.problem, [], []
    upper = problem.upper.copy()
    for block in task.model.blocks:
        by_variant: dict[int, list[int]] = {}
        for k, option in enumerate(block.options):
            by_variant.setdefault(option.variant, []).append(block.first_column + k)
        for columns in by_variant.values():
            count = float(x[columns].sum())
            if count:
                rows.append(columns)
                counts.append(count)
            else:
                upper[columns] = 0.0
    if not rows:
        return x
    index = np.concatenate([np.full(len(columns), r) for r, columns in enumerate(rows)])
    held = csr_array((np.ones(index.size), (index, np.concatenate(rows))), (len(rows), x.size))
    held_problem = replace(
        problem,
        upper=upper,
        matrix=csr_array(vstack([problem.matrix, held])),
        row_lower=np.concatenate([problem.row_lower, counts]),
        row_upper=np.concatenate([problem.row_upper, counts]),
    )
    answer = solve(held_problem, x, 1e-4, _REPOOL_S, plain=True)
    found.took_s += answer.took_s
    return answer.x if isinstance(answer, Solved) else x


def _keep(task: Task, x: Floats, found: Generated) -> None:
    if task.problem.cost @ x < found.objective:
        found.point, found.objective = x, float(task.problem.cost @ x)


def _master(task: Task) -> Problem:
    """Choose one column a demand, or skip it at a price, within the shared rows."""
    problem, loose, demands = task.problem, task.loose, len(task.choices)
    stacks = [choice.stack() for choice in task.choices]
    cost = [s @ c.own.cost for s, c in zip(stacks, task.choices, strict=True)]
    owner = np.repeat(np.arange(demands), [len(stack) for stack in stacks])
    many, free = owner.size, problem.cost[loose].size
    ones = csr_array((np.ones(many), (owner, np.arange(many))), shape=(demands, many))
    usage = _usage(task, stacks)
    top = hstack([task.shared[:, loose], usage, csr_array((len(task.rows), demands))])
    bottom = hstack([csr_array((demands, free)), ones, csr_array(np.eye(demands))])
    skip = _SKIP * max(float(problem.cost.max(initial=0.0)), 1e-3)
    return Problem(
        cost=np.concatenate([problem.cost[loose], *cost, np.full(demands, skip)]),
        lower=np.zeros(free + many + demands),
        upper=np.concatenate([problem.upper[loose], np.ones(many + demands)]),
        integer=np.concatenate([problem.integer[loose], np.ones(many + demands, np.bool_)]),
        matrix=csr_array(vstack([top, bottom])),
        row_lower=np.concatenate([problem.row_lower[task.rows], np.ones(demands)]),
        row_upper=np.concatenate([problem.row_upper[task.rows], np.ones(demands)]),
    )


def _usage(task: Task, stacks: Sequence[Floats]) -> "csr_array[np.float64]":
    """What every column uses of the shared rows, [shared rows, columns]."""
    rows, columns, values, first = [], [], [], 0
    for choice, stack in zip(task.choices, stacks, strict=True):
        used = choice.shared.of(stack)
        column, row = np.nonzero(used)
        rows.append(choice.shared.rows[row])
        columns.append(column + first)
        values.append(used[column, row])
        first += len(stack)
    places = (np.concatenate(rows), np.concatenate(columns))
    return csr_array((np.concatenate(values), places), shape=(len(task.rows), first))
