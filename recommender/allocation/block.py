"""One demand as columns and rows of the problem.

Whole columns: replicas of a variant in a pool. What is missing is a column too, so that a
point always exists; `allocate` forbids or prices those columns. Rates are shares of the
demand's rate. Each constraint is a function that writes its columns and rows and says how the
columns follow from replica counts, which lets `start` complete a guess.

What a demand leaves missing is weighed so (nothing served at all: 1.7 to 2.25):

- the share of the rate not carried, each further tenth weighing more (`_SEGMENTS`): equals
  share a shortage rather than one going without, whatever their size in requests or GPUs;
- a quarter for the share not carried once the worst node is lost, where survival is asked;
- a tenth each for the share of replicas, nodes and zones missing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil, inf

import numpy as np

from recommender.allocation.pools import Pool
from recommender.allocation.sheet import Label, Sheet
from recommender.allocation.solver import Floats
from recommender.allocation.values import Demand

SEGMENTS = ((0.5, 1.0), (0.4, 2.0), (0.1, 4.0))
"""(width, weight) of the missing share of a rate, from the first missing request on."""
LOSS_WEIGHT = 0.25
SPREAD_WEIGHT = 0.1
TIE_PER_GPU_HOUR = 1e-4
"""Between equal prices, fewer GPUs; not reported as cost."""

_TRACE = 1e-6
"""Weight of what another column weighs already, so that it counts as missing at all."""

Completer = Callable[[Floats, Floats], None]
"""From replica counts, by option, to this constraint's columns, in the block's own numbering."""


@dataclass(frozen=True, slots=True)
class Option:
    """One variant in one pool."""

    variant: int
    pool: int
    gpus: int
    share: float
    """Of the demand's rate that one replica carries."""
    money: float
    """Marginal cost of one replica an hour."""
    spot: bool
    most: int
    running: int


@dataclass(frozen=True, slots=True)
class How:
    """How all blocks are written."""

    change_cost_per_hour: float
    """Of one started replica."""
    one_a_node: bool
    """Where a node's loss must be survived, plan no two replicas for one node. Not always
    best, but packing then succeeds in pools too large to be split into nodes."""


@dataclass(slots=True)
class Block:
    """Where one demand's columns and rows lie; options come first among the columns."""

    demand: Demand
    options: tuple[Option, ...]
    first_column: int
    first_row: int
    last_column: int = 0
    last_row: int = 0
    completers: list[Completer] = field(default_factory=list)
    touches: dict[int, int] = field(default_factory=dict)
    """Column that counts the nodes carrying it, by pool."""
    lacking: dict[str, int] = field(default_factory=dict)
    """Column of what is missing, by the field that asks for it."""

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.first_column, self.last_column)

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.first_row, self.last_row)

    def complete(self, counts: Floats) -> Floats:
        """All its columns from replica counts by option."""
        out = np.zeros(self.last_column - self.first_column)
        out[: counts.size] = counts
        for completer in self.completers:
            completer(counts, out)
        return out

    def in_pool(self) -> dict[int, list[int]]:
        """Options by pool, in the block's own numbering."""
        found: dict[int, list[int]] = {}
        for index, option in enumerate(self.options):
            found.setdefault(option.pool, []).append(index)
        return found


def write_block(
    sheet: Sheet, demand: Demand, options: tuple[Option, ...], pools: tuple[Pool, ...], how: How
) -> Block:
    """Write one demand."""
    block = Block(demand, options, sheet.columns, sheet.rows)
    for option in options:
        start = 0.0 if option.running else how.change_cost_per_hour
        cost = option.money + option.gpus * TIE_PER_GPU_HOUR + start
        sheet.column(option.most, cost=cost, integer=True)
    _rate(sheet, block)
    _replicas(sheet, block)
    _spot(sheet, block)
    _budget(sheet, block)
    _nodes(sheet, block, pools, how)
    _zones(sheet, block, pools)
    _survival(sheet, block, pools)
    _starts(sheet, block, how.change_cost_per_hour)
    block.last_column, block.last_row = sheet.columns, sheet.rows
    return block


def most_useful(demand: Demand, share: float) -> int:
    """Replicas of one kind beyond which more never help."""
    needed = ceil(1 / share) if demand.rate_rps > 0 else 0
    if demand.survives_node_loss:
        needed *= 2  # all on two nodes, either of which may go
    zones = demand.min_zones if demand.min_zones > 1 else 0
    most = max(needed, demand.min_replicas, _least_nodes(demand), zones)
    return most if demand.max_replicas is None else min(most, demand.max_replicas)


def idle(demand: Demand) -> bool:
    """Whether nothing is asked (scaled to zero): then there is nothing to spread."""
    return demand.rate_rps == 0 and demand.min_replicas == 0


def _least_nodes(demand: Demand) -> int:
    if idle(demand):
        return 0
    survival = 2 if demand.survives_node_loss and demand.rate_rps > 0 else 1
    least = max(demand.min_nodes, survival)
    return least if least > 1 else 0


def _rate(sheet: Sheet, block: Block) -> None:
    if block.demand.rate_rps == 0:
        return
    first = sheet.columns
    for width, weight in SEGMENTS:
        sheet.column(width, violation=weight)
    sheet.row(
        Label("rate_rps"),
        [*_shares(block), *((first + k, 1.0) for k in range(len(SEGMENTS)))],
        low=1.0,
    )
    shares, at = _share_vector(block), first - block.first_column

    def complete(counts: Floats, out: Floats) -> None:
        missing = 1.0 - float(counts @ shares)
        for k, (width, _) in enumerate(SEGMENTS):
            out[at + k] = min(max(missing, 0.0), width)
            missing -= width

    block.completers.append(complete)


def _replicas(sheet: Sheet, block: Block) -> None:
    least, most = block.demand.min_replicas, block.demand.max_replicas
    ones = [(block.first_column + k, 1.0) for k in range(len(block.options))]
    if most is not None:
        sheet.row(Label("max_replicas"), ones, high=most)
    if least > 0:
        lacking = sheet.column(least, violation=SPREAD_WEIGHT / least)
        sheet.row(Label("min_replicas"), [*ones, (lacking, 1.0)], low=least)
        at = lacking - block.first_column

        def complete(counts: Floats, out: Floats) -> None:
            out[at] = max(0.0, least - float(counts.sum()))

        block.completers.append(complete)


def _spot(sheet: Sheet, block: Block) -> None:
    ratio = block.demand.spot_ratio
    if ratio < 1 and any(option.spot for option in block.options):
        terms = [
            (block.first_column + k, option.share * (option.spot - ratio))
            for k, option in enumerate(block.options)
        ]
        sheet.row(Label("spot_ratio"), terms, high=0.0)


def _budget(sheet: Sheet, block: Block) -> None:
    budget = block.demand.budget_per_hour
    if budget is not None:
        terms = [(block.first_column + k, o.money) for k, o in enumerate(block.options) if o.money]
        sheet.row(Label("budget_per_hour"), terms, high=budget)


def _nodes(sheet: Sheet, block: Block, pools: tuple[Pool, ...], how: How) -> None:
    """Count nodes by pool, no more than replicas there; packing makes the count true."""
    asked, least = block.demand.min_nodes, _least_nodes(block.demand)
    if least == 0:
        return
    base, apart = block.first_column, how.one_a_node and block.demand.survives_node_loss
    for pool, options in block.in_pool().items():
        touched = block.touches[pool] = sheet.column(len(pools[pool].nodes))
        terms = [(touched, 1.0), *((base + k, -1.0) for k in options)]
        sheet.row(Label("min_nodes"), terms, high=0.0, low=0.0 if apart else -inf)
    block.lacking["min_nodes"] = sheet.columns
    everywhere = [(column, 1.0) for column in block.touches.values()]
    lacking = sheet.column(least, violation=SPREAD_WEIGHT / asked if asked > 1 else _TRACE)
    sheet.row(Label("min_nodes"), [*everywhere, (lacking, 1.0)], low=least)
    inside, at = block.in_pool(), lacking - base

    def complete(counts: Floats, out: Floats) -> None:
        wanted = float(least)
        for pool, column in block.touches.items():
            replicas = float(counts[inside[pool]].sum())
            here = replicas if apart else min(wanted, float(len(pools[pool].nodes)), replicas)
            out[column - base] = here
            wanted -= here
        out[at] = max(wanted, 0.0)

    block.completers.append(complete)


def _zones(sheet: Sheet, block: Block, pools: tuple[Pool, ...]) -> None:
    """Match replicas of a pool to zones, each zone counted once."""
    least = block.demand.min_zones
    if least <= 1 or idle(block.demand):
        return
    base, inside = block.first_column, block.in_pool()
    pairs = {(p, z): sheet.column(1.0) for p in inside for z in pools[p].zones}
    for pool, options in inside.items():
        here = [(column, 1.0) for (p, _), column in pairs.items() if p == pool]
        terms = [*here, *((base + k, -1.0) for k in options)]
        sheet.row(Label("min_zones"), terms, high=0.0)
    for zone in sorted({zone for _, zone in pairs}):
        terms = [(column, 1.0) for (_, z), column in pairs.items() if z == zone]
        sheet.row(Label("min_zones"), terms, high=1.0)
    lacking = sheet.column(least, violation=SPREAD_WEIGHT / least)
    block.lacking["min_zones"] = lacking
    sheet.row(Label("min_zones"), [*((c, 1.0) for c in pairs.values()), (lacking, 1.0)], low=least)
    at = lacking - base

    def complete(counts: Floats, out: Floats) -> None:
        left = {pool: float(counts[options].sum()) for pool, options in inside.items()}
        taken: set[str] = set()
        for pool, zone in sorted(pairs, key=lambda pair: (len(pools[pair[0]].zones), pair)):
            if left[pool] >= 1 and zone not in taken and len(taken) < least:
                left[pool] -= 1
                taken.add(zone)
                out[pairs[pool, zone] - base] = 1.0
        out[at] = least - len(taken)

    block.completers.append(complete)


def _survival(sheet: Sheet, block: Block, pools: tuple[Pool, ...]) -> None:
    """Keep the surplus at the largest share on one node: one replica, or a pool's mean."""
    if not block.demand.survives_node_loss or block.demand.rate_rps == 0:
        return
    base, inside = block.first_column, block.in_pool()
    largest, lost = sheet.column(), sheet.column(1.0, violation=LOSS_WEIGHT)
    block.lacking["survives_node_loss"] = lost
    terms = [*_shares(block), (largest, -1.0), (lost, 1.0)]
    sheet.row(Label("survives_node_loss"), terms, low=1.0)
    used = _used(sheet, block, largest)
    for pool, options in inside.items():
        mean = [(base + k, -block.options[k].share) for k in options]
        nodes = float(len(pools[pool].nodes))
        sheet.row(Label("mean_of_nodes"), [(largest, nodes), *mean], low=0.0)
    shares = _share_vector(block)

    def complete(counts: Floats, out: Floats) -> None:
        most = max((block.options[k].share for k in np.flatnonzero(counts)), default=0.0)
        for pool, options in inside.items():
            most = max(most, float(counts[options] @ shares[options]) / len(pools[pool].nodes))
        for variant, column in used.items():
            chosen = [k for k, o in enumerate(block.options) if o.variant == variant]
            out[column - base] = float(counts[chosen].sum() > 0)
        out[largest - base] = most
        out[lost - base] = min(max(0.0, 1.0 + most - float(counts @ shares)), 1.0)

    block.completers.append(complete)


def _used(sheet: Sheet, block: Block, largest: int) -> dict[int, int]:
    """Columns that are 1 where a variant is used; one replica of it may then be lost."""
    used: dict[int, int] = {}
    for variant in sorted({option.variant for option in block.options}):
        mine = [(block.first_column + k, o) for k, o in enumerate(block.options)
                if o.variant == variant]  # fmt: skip
        used[variant] = sheet.column(1.0, integer=True)
        top = float(max(sum(o.most for _, o in mine), 1))
        label = Label("survives_node_loss")
        sheet.row(label, [*((c, 1.0) for c, _ in mine), (used[variant], -top)], high=0.0)
        sheet.row(label, [(largest, 1.0), (used[variant], -mine[0][1].share)], low=0.0)
    return used


def _starts(sheet: Sheet, block: Block, change: float) -> None:
    """Price replicas beyond those running; where none runs, the price is in the column."""
    for k, option in enumerate(block.options):
        if option.running and change > 0:
            started = sheet.column(option.most, cost=change)
            terms = [(block.first_column + k, 1.0), (started, -1.0)]
            sheet.row(Label("running"), terms, high=option.running)
            block.completers.append(_beyond(k, option.running, started - block.first_column))


def _beyond(index: int, running: int, at: int) -> Completer:
    def complete(counts: Floats, out: Floats) -> None:
        out[at] = max(0.0, float(counts[index]) - running)

    return complete


def _share_vector(block: Block) -> Floats:
    return np.array([option.share for option in block.options], np.float64)


def _shares(block: Block) -> Iterable[tuple[int, float]]:
    return ((block.first_column + k, o.share) for k, o in enumerate(block.options))
