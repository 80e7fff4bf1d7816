"""HiGHS, behind two typed calls; the only module that imports highspy.

One thread and a fixed seed: the same problem gives the same answer, unless time runs out.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import highspy
import numpy as np
from highspy._core import _Highs
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Problem:
    """Minimise cost·x, row_lower ≤ matrix·x ≤ row_upper, lower ≤ x ≤ upper, some x whole."""

    cost: Floats
    lower: Floats
    upper: Floats
    integer: NDArray[np.bool_]
    matrix: "csr_array[np.float64]"
    row_lower: Floats
    row_upper: Floats


@dataclass(frozen=True, slots=True)
class Relaxed:
    """The optimum without whole numbers."""

    objective: float
    x: Floats
    row_dual: Floats
    """Objective gained per unit of a row's bound."""


@dataclass(frozen=True, slots=True)
class Solved:
    """The best found within whole numbers, and what is proved."""

    objective: float
    bound: float
    x: Floats
    took_s: float


@dataclass(frozen=True, slots=True)
class Unsolved:
    """No point found."""

    proved: bool
    """Whether there is none; otherwise time ran out."""
    took_s: float


def relax(problem: Problem) -> Relaxed | None:
    """Solve without whole numbers; None where even that has no point."""
    return Relaxation(problem).solve(problem.lower, problem.upper)


class Relaxation:
    """A problem without whole numbers, solved again and again from where it was left."""

    def __init__(self, problem: Problem) -> None:
        self._highs = _load(problem, whole=False)
        self._columns = np.arange(problem.cost.size, dtype=np.int32)

    @property
    def took_s(self) -> float:
        """HiGHS' seconds so far."""
        return float(self._highs.getRunTime())

    def solve(self, lower: Floats, upper: Floats) -> Relaxed | None:
        """The optimum within other bounds; None where there is no point."""
        highs = self._highs
        highs.changeColsBounds(self._columns.size, self._columns, lower, upper)
        _run(highs)
        if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        solution = highs.getSolution()
        return Relaxed(
            float(highs.getInfo().objective_function_value),
            np.asarray(solution.col_value, np.float64),
            np.asarray(solution.row_dual, np.float64),
        )


_PLAIN = (
    "mip_heuristic_run_feasibility_jump",
    "mip_heuristic_run_rens",
    "mip_heuristic_run_rins",
    "mip_heuristic_run_root_reduced_cost",
    "mip_detect_symmetry",
    "mip_allow_restart",
)
"""Options that cost a problem of twenty columns five times what its tree does."""


def solve(
    problem: Problem,
    start: Floats | None,
    gap_ratio: float,
    time_limit_s: float,
    *,
    plain: bool = False,
) -> Solved | Unsolved:
    """Branch and bound from a start; whole columns come back as exact integers.

    `plain` leaves out what helps only large problems.
    """
    highs = _load(problem, whole=True)
    for option in _PLAIN if plain else ():
        highs.setOptionValue(option, False)
    highs.setOptionValue("mip_rel_gap", gap_ratio)
    highs.setOptionValue("time_limit", time_limit_s)
    if start is not None:
        solution = highspy.HighsSolution()
        solution.col_value = start.tolist()
        highs.setSolution(solution)
    _run(highs)
    info, took_s = highs.getInfo(), float(highs.getRunTime())
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        proved = highs.getModelStatus() == highspy.HighsModelStatus.kInfeasible
        return Unsolved(proved, took_s)
    x = np.asarray(highs.getSolution().col_value, np.float64)
    x[problem.integer] = np.rint(x[problem.integer])
    objective = float(info.objective_function_value)
    bound = float(info.mip_dual_bound) if problem.integer.any() else objective
    return Solved(objective, min(bound, objective), x, took_s)


def _run(highs: _Highs) -> None:
    """Run; another user of HiGHS may have set the process to more threads."""
    if highs.run() == highspy.HighsStatus.kError:
        _Highs.resetGlobalScheduler(True)
        if highs.run() == highspy.HighsStatus.kError:
            raise RuntimeError("HiGHS refused the problem")


def _load(problem: Problem, *, whole: bool) -> _Highs:
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = problem.matrix.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = problem.cost, problem.lower, problem.upper
    lp.row_lower_, lp.row_upper_ = problem.row_lower, problem.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = problem.matrix.indptr
    lp.a_matrix_.index_ = problem.matrix.indices
    lp.a_matrix_.value_ = problem.matrix.data
    if whole and problem.integer.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(i)] for i in problem.integer]
    highs = _Highs()  # the public wrapper prints a banner before it can be silenced
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("random_seed", 1)
    highs.passModel(lp)
    return highs
