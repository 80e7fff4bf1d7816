"""Solve in the order that matters: nothing missing if possible, else the least, then money.

Where everything can be met, one run minimises cost with missing columns at zero. Otherwise
priorities are served from the highest down, each with what the higher ones leave missing held
at its least, and cost is minimised last. Lexicographic rather than weighted: no price then
makes a low priority worth more than a high one, and no large number spoils the arithmetic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recommender.allocation.generate import FULL, PARTIAL, Generated, Wish, generate
from recommender.allocation.model import Model
from recommender.allocation.solver import Floats, Problem, Solved, Unsolved, solve
from recommender.allocation.values import Effort

_NOTHING = 1e-6
"""Missing this little, in weighed shares, is rounding."""
_TRACE = 1e-6
"""Weight of money while what is missing is minimised: it only chooses among equals."""
_LEAST_S = 0.1
"""A run shorter than this would not even read the problem."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Replica counts, and what is proved about them."""

    x: Floats
    bound_per_hour: float
    violation_gap_ratio: float
    priced: Problem
    """The last problem, which minimised money."""
    short: Problem | None
    """The problem of the highest priority that cannot be met in full."""


@dataclass(slots=True)
class Purse:
    """HiGHS' seconds left."""

    left_s: float


@dataclass(frozen=True, slots=True)
class Part:
    """One run's part in the whole."""

    purse: Purse
    runs: int
    """This run and those to come, which share what is left."""
    wish: Wish

    @property
    def limit_s(self) -> float:
        """Never less than a run needs."""
        return max(self.purse.left_s / self.runs, _LEAST_S)


def make_plan(model: Model, seeds: Sequence[Floats], effort: Effort, purse: Purse) -> Plan:
    """Find replica counts within every row of the model; nothing placed is a point too."""
    elastic = model.violation > 0
    problem = model.problem
    strict = replace(problem, upper=np.where(elastic, 0.0, problem.upper))
    part = Part(purse, 2, Wish(effort.gap_ratio, purse.left_s, FULL, tuple(seeds)))
    answer = _run(model, strict, part)
    if isinstance(answer, Solved):
        return Plan(answer.x, answer.bound, 0.0, strict, None)
    return _least_missing(model, seeds, effort, purse)


def _least_missing(model: Model, seeds: Sequence[Floats], effort: Effort, purse: Purse) -> Plan:
    x = nothing_placed(model)
    problem, short, worst = model.problem, None, 0.0
    priorities = list(model.violation_rows)
    for done, priority in enumerate(priorities):
        stage = _stage(model, problem, priority)
        weights = _violation(model, priority)
        runs = len(priorities) + 1 - done
        wish = Wish(
            effort.gap_ratio, purse.left_s / runs, PARTIAL, (x, *seeds), x, _misses_nothing(weights)
        )
        answer = _run(model, stage, Part(purse, runs, wish))
        assert isinstance(answer, Solved), "a fallback was given"  # noqa: S101
        x = answer.x
        missing = float(weights @ x)
        if missing > _NOTHING:
            short = short or stage
            least = answer.bound - (answer.objective - missing)
            worst = max(worst, gap_ratio(missing, least))
        problem = _hold(model, problem, priority, missing)
    wish = Wish(effort.gap_ratio, purse.left_s, PARTIAL, (x, *seeds), x)
    answer = _run(model, problem, Part(purse, 1, wish))
    assert isinstance(answer, Solved), "a fallback was given"  # noqa: S101
    return Plan(answer.x, answer.bound, worst, problem, short)


def _misses_nothing(weights: Floats) -> Callable[[Floats], bool]:
    return lambda x: float(weights @ x) <= _NOTHING


def nothing_placed(model: Model) -> Floats:
    """The point where all is missing."""
    x = np.zeros(model.problem.cost.size)
    for block in model.blocks:
        x[block.columns] = block.complete(np.zeros(len(block.options)))
    return x


def gap_ratio(value: float, bound: float) -> float:
    """Distance of a value from the bound below it, of the value."""
    return max(0.0, (value - bound) / value) if value > 1e-9 else 0.0


def _violation(model: Model, priority: int) -> Floats:
    """What a unit of each column leaves missing of one priority."""
    weights = np.zeros_like(model.violation)
    for block in model.blocks:
        if block.demand.priority == priority:
            weights[block.columns] = model.violation[block.columns]
    return weights


def _stage(model: Model, problem: Problem, priority: int) -> Problem:
    """Minimise what one priority misses, all but regardless of money; lower ones hold nothing."""
    upper = problem.upper.copy()
    for block in model.blocks:
        if block.demand.priority < priority:
            upper[block.first_column : block.first_column + len(block.options)] = 0.0
    cost = _violation(model, priority) + _TRACE * model.problem.cost
    return replace(problem, cost=cost, upper=upper)


def _hold(model: Model, problem: Problem, priority: int, missing: float) -> Problem:
    """Let a priority miss no more than the least found."""
    if missing > _NOTHING:
        row_upper = problem.row_upper.copy()
        row_upper[model.violation_rows[priority]] = missing * (1 + _NOTHING) + _NOTHING
        return replace(problem, row_upper=row_upper)
    upper = problem.upper.copy()
    for block in model.blocks:
        if block.demand.priority == priority:
            columns = block.columns
            upper[columns] = np.where(model.violation[columns] > 0, 0.0, upper[columns])
    return replace(problem, upper=upper)


def _run(model: Model, problem: Problem, part: Part) -> Solved | Unsolved:
    """Generate where the problem is large; branch and bound for what is then unproved."""
    found, wish = Generated(point=part.wish.fallback), part.wish
    if model.large:
        found = generate(model, problem, wish)
        part.purse.left_s -= found.took_s
        if found.point is None:
            return Unsolved(False, found.took_s)  # search without a start would find none either
        if found.near(wish.gap_ratio) or wish.perfect(found.point):
            return Solved(found.objective, max(found.bound, 0.0), found.point, found.took_s)
    answer = solve(problem, found.point, wish.gap_ratio, part.limit_s)
    part.purse.left_s -= answer.took_s
    if isinstance(answer, Solved):
        proved = found.bound if model.large else answer.bound  # see `block.How.one_a_node`
        return replace(answer, bound=min(max(proved, 0.0), answer.objective))
    if found.point is None:
        return answer
    return Solved(float(problem.cost @ found.point), max(found.bound, 0.0), found.point, 0.0)
