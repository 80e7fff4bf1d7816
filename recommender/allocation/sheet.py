"""A linear problem while it is being written: columns, rows, and what each row is about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np
from scipy.sparse import csr_array

from recommender.allocation.solver import Problem

Terms = Iterable[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Label:
    """What a row is about."""

    kind: str
    """A field's name, or what a pool lacks."""
    of: int = -1
    """Pool or priority, by kind; a demand's rows are found by its block."""
    unit: int = 1
    """GPUs in what a pool's row counts."""


@dataclass(slots=True)
class Sheet:
    """Grows by columns and rows; `problem` freezes it."""

    cost: list[float] = field(default_factory=list)
    """Money, starts and tie-breaks."""
    violation: list[float] = field(default_factory=list)
    """What a unit of this column leaves missing; see `model`."""
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    indices: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def column(
        self, upper: float = inf, *, cost: float = 0, violation: float = 0, integer: bool = False
    ) -> int:
        """Add a column from 0 up to `upper`; its index."""
        self.cost.append(cost)
        self.violation.append(violation)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.cost) - 1

    def row(self, label: Label, terms: Terms, *, low: float = -inf, high: float = inf) -> None:
        """Add a row; an index that occurs twice is summed."""
        for index, value in terms:
            self.indices.append(index)
            self.values.append(value)
        self.starts.append(len(self.indices))
        self.labels.append(label)
        self.low.append(low)
        self.high.append(high)

    @property
    def rows(self) -> int:
        """Rows so far."""
        return len(self.labels)

    @property
    def columns(self) -> int:
        """Columns so far."""
        return len(self.cost)

    def problem(self) -> Problem:
        """Freeze, minimising cost."""
        shape = (self.rows, self.columns)
        matrix = csr_array(
            (np.array(self.values, np.float64), _ints(self.indices), _ints(self.starts)), shape
        )
        matrix.sum_duplicates()
        return Problem(
            cost=np.array(self.cost, np.float64),
            lower=np.zeros(self.columns),
            upper=np.array(self.upper, np.float64),
            integer=np.array(self.integer, np.bool_),
            matrix=matrix,
            row_lower=np.array(self.low, np.float64),
            row_upper=np.array(self.high, np.float64),
        )


def _ints(values: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    return np.array(values, np.int32)
