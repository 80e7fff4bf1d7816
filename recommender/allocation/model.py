"""The whole problem: every demand's block, and the pools and budget they share.

Exact but for one thing: which node of a pool a replica lies on. Counts of nodes, zones and
the share lost with a node are what the pool allows, so the problem is a relaxation whose
bound holds for real nodes; `packing` then finds the nodes, and where it cannot, `allocate`
splits the pool into single nodes, for which nothing is relaxed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recommender.allocation.block import Block, How, Option, most_useful, write_block
from recommender.allocation.pools import Pool, divide_each_other, level_rows, maximal_patterns
from recommender.allocation.sheet import Label, Sheet
from recommender.allocation.solver import Floats, Problem
from recommender.allocation.values import Demand, Placement

LARGE = 300
"""Options (whole columns) beyond which branch and bound needs the help of `generate`, and
pools are not split into nodes."""
_MOST_PATTERNS = 200

Running = Mapping[tuple[str, str, str], int]
"""Replicas by service, variant and node."""
Count = tuple[int, int, int]
"""Demand, variant and pool, by index."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What money says."""

    budget_per_hour: float | None
    change_cost_per_hour: float


@dataclass(frozen=True, slots=True)
class Model:
    """The problem and how to read it."""

    demands: tuple[Demand, ...]
    pools: tuple[Pool, ...]
    problem: Problem
    violation: Floats
    """By column."""
    labels: tuple[Label, ...]
    """By row."""
    blocks: tuple[Block, ...]
    large: bool
    violation_rows: Mapping[int, int]
    """Row of what is missing, by priority."""
    patterns: Mapping[int, tuple[tuple[int, int, tuple[int, ...]], ...]]
    """Column, domain size and slot sizes, by pool; where sizes do not divide each other."""

    @property
    def shared_rows(self) -> NDArray[np.int64]:
        """Rows that more than one demand may touch."""
        own = np.zeros(len(self.labels), np.bool_)
        for block in self.blocks:
            own[block.rows] = True
        return np.flatnonzero(~own)

    def counts(self, x: Floats) -> Counter[Count]:
        """Replicas in a solution."""
        found: Counter[Count] = Counter()
        for index, block in enumerate(self.blocks):
            for k, option in enumerate(block.options):
                replicas = round(float(x[block.first_column + k]))
                if replicas:
                    found[index, option.variant, option.pool] = replicas
        return found


def as_running(running: Sequence[Placement]) -> Counter[tuple[str, str, str]]:
    """Sum what runs by service, variant and node."""
    found: Counter[tuple[str, str, str]] = Counter()
    for placement in running:
        found[placement.service, placement.variant, placement.node] += placement.replicas
    return found


def write_model(
    demands: Sequence[Demand], pools: tuple[Pool, ...], running: Running, terms: Terms
) -> Model:
    """Write every block, then what they share."""
    sheet = Sheet()
    of_node = {node.name: index for index, pool in enumerate(pools) for node in pool.nodes}
    runs: Counter[tuple[str, str, int]] = Counter()
    for (service, variant, node), replicas in running.items():
        if node in of_node:
            runs[service, variant, of_node[node]] += replicas
    options = [tuple(_options(demand, pools, runs)) for demand in demands]
    large = sum(map(len, options)) > LARGE
    how = How(terms.change_cost_per_hour, one_a_node=large)
    blocks = [
        write_block(sheet, demand, mine, pools, how)
        for demand, mine in zip(demands, options, strict=True)
    ]
    patterns = {}
    for index in range(len(pools)):
        patterns[index] = _write_pool(sheet, index, pools[index], blocks, exact=not large)
    if terms.budget_per_hour is not None:
        spent = [(b.first_column + k, o.money) for b in blocks for k, o in enumerate(b.options)]
        sheet.row(Label("budget"), [s for s in spent if s[1]], high=terms.budget_per_hour)
    violation_rows = _violation_rows(sheet, blocks)
    return Model(
        demands=tuple(demands),
        pools=pools,
        problem=sheet.problem(),
        violation=np.array(sheet.violation, np.float64),
        labels=tuple(sheet.labels),
        blocks=tuple(blocks),
        large=large,
        violation_rows=violation_rows,
        patterns=patterns,
    )


def _options(
    demand: Demand, pools: tuple[Pool, ...], runs: Mapping[tuple[str, str, int], int]
) -> list[Option]:
    unit_rps = demand.rate_rps or max(variant.rate_rps for variant in demand.variants)
    found = []
    for v, variant in enumerate(demand.variants):
        share = variant.rate_rps / unit_rps
        for p, pool in enumerate(pools):
            slots = pool.slots(variant.gpus) if pool.gpu == variant.gpu else 0
            if slots == 0 or (pool.spot and demand.spot_ratio == 0):
                continue
            running = runs.get((demand.service, variant.name, p), 0)
            most = min(slots, most_useful(demand, share))
            money = variant.gpus * pool.marginal_per_gpu_hour
            found.append(Option(v, p, variant.gpus, share, money, pool.spot, most, running))
    return found


def _write_pool(
    sheet: Sheet, index: int, pool: Pool, blocks: Sequence[Block], *, exact: bool
) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """Write what fits into a pool; its pattern columns, if it needs any."""
    inside = [
        (block, block.first_column + k, option.gpus)
        for block in blocks
        for k, option in enumerate(block.options)
        if option.pool == index
    ]
    sizes = sorted({gpus for _, _, gpus in inside}, reverse=True)
    if exact and not divide_each_other(sizes):
        patterns = {d: maximal_patterns(d, sizes) for d in pool.domains}
        if sum(map(len, patterns.values())) <= _MOST_PATTERNS:
            return _write_patterns(sheet, index, pool, [(c, g) for _, c, g in inside], patterns)
    for size, slots in level_rows(pool, sizes):
        terms = [(column, float(gpus // size)) for _, column, gpus in inside if gpus >= size]
        sheet.row(Label("gpus", index, size), terms, high=slots)
    _write_touched(sheet, index, pool, inside)
    return ()


def _write_touched(
    sheet: Sheet, index: int, pool: Pool, inside: Sequence[tuple[Block, int, int]]
) -> None:
    """A node that carries a small replica for spread has a slot less for large ones."""
    sizes = sorted({gpus for _, _, gpus in inside})
    spread = {id(b): (b, b.touches[index]) for b, _, _ in inside if index in b.touches}
    for size in sizes[1:]:
        if any(domain % size for domain in pool.domains):
            continue
        small = [
            (block, touched)
            for block, touched in spread.values()
            if any(b is block and gpus < size for b, _, gpus in inside)
        ]
        if not small:
            continue
        slots = pool.slots(size)
        level = sheet.column(slots)
        terms = [(column, float(gpus // size)) for _, column, gpus in inside if gpus >= size]
        sheet.row(Label("level", index), [*terms, (level, -1.0)], low=0.0, high=0.0)
        for block, touched in small:
            large = [(c, -1.0) for b, c, gpus in inside if b is block and gpus >= size]
            sheet.row(Label("spread", index), [(level, 1.0), (touched, 1.0), *large], high=slots)


def _write_patterns(
    sheet: Sheet,
    index: int,
    pool: Pool,
    inside: Sequence[tuple[int, int]],
    patterns: Mapping[int, Sequence[tuple[int, ...]]],
) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """Count domains by how they are filled; each size finds the slots they hold."""
    sizes = sorted({gpus for _, gpus in inside}, reverse=True)
    found = []
    for domain, ways in patterns.items():
        columns = [sheet.column(pool.domains[domain], integer=True) for _ in ways]
        full = Label("gpus", index, domain)
        sheet.row(full, [(c, 1.0) for c in columns], high=pool.domains[domain])
        for column, way in zip(columns, ways, strict=True):
            slots = tuple(s for s, n in zip(sizes, way, strict=True) for _ in range(n))
            found.append((column, domain, slots))
    for size in sizes:
        held = [(column, -float(slots.count(size))) for column, _, slots in found]
        terms = [(column, 1.0) for column, gpus in inside if gpus == size]
        sheet.row(Label("slots", index), [*terms, *held], high=0.0)
    return tuple(found)


def _violation_rows(sheet: Sheet, blocks: Sequence[Block]) -> dict[int, int]:
    """One open row a priority; `allocate` closes it once the least is known."""
    found = {}
    for priority in sorted({block.demand.priority for block in blocks}, reverse=True):
        terms = [
            (column, sheet.violation[column])
            for block in blocks
            if block.demand.priority == priority
            for column in range(block.first_column, block.last_column)
            if sheet.violation[column]
        ]
        found[priority] = sheet.rows
        sheet.row(Label("priority", priority), terms)
    return found
