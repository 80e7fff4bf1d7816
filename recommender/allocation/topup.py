"""Fill what packing or the clock left open: one replica at a time, where it helps most.

Called by `allocate` after packing, on real nodes. Takes only free GPUs and never breaks a
limit, so it can but lower what is missing. Usually there is nothing to do.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from recommender.allocation.audit import holding, violation, within_own_limits
from recommender.allocation.model import Model
from recommender.allocation.packing import Bin, Packing, Piece
from recommender.allocation.values import Demand, Node

_WORTH = 1e-6


def top_up(model: Model, packing: Packing, budget_per_hour: float | None) -> None:
    """Serve demands that miss something, the most important first."""
    nodes = {node.name: node for pool in model.pools for node in pool.nodes}
    placed = packing.placed()
    left = float("inf")
    if budget_per_hour is not None:
        held = [holding(d, placed[i], nodes) for i, d in enumerate(model.demands)]
        left = budget_per_hour - sum(h.cost_per_hour for h in held)
    order = sorted(range(len(model.demands)), key=lambda i: (-model.demands[i].priority, i))
    for index in order:
        while (found := _best(model, packing, (index, placed[index]), nodes, left)) is not None:
            piece, bin_ = found
            packing.put(piece, bin_)
            placed[index][piece.variant, bin_.node.name] += 1
            left -= piece.gpus * bin_.node.marginal_per_gpu_hour


def _best(
    model: Model,
    packing: Packing,
    mine: tuple[int, Counter[tuple[int, str]]],
    nodes: Mapping[str, Node],
    left_per_hour: float,
) -> tuple[Piece, Bin] | None:
    """The replica that lowers most of what is missing per unit of money and GPUs."""
    index, placed = mine
    demand = model.demands[index]
    before = violation(demand, holding(demand, placed, nodes))
    if before <= _WORTH:
        return None
    best, found = 0.0, None
    for piece, bin_ in _rooms(model, packing, index, demand):
        price = piece.gpus * bin_.node.marginal_per_gpu_hour
        trial = placed.copy()
        trial[piece.variant, bin_.node.name] += 1
        held = holding(demand, trial, nodes)
        if price > left_per_hour + 1e-9 or not within_own_limits(demand, held):
            continue
        gain = (before - violation(demand, held)) / (price + 0.01 * piece.gpus)
        if gain > best + _WORTH:
            best, found = gain, (piece, bin_)
    return found


def _rooms(
    model: Model, packing: Packing, index: int, demand: Demand
) -> Iterator[tuple[Piece, Bin]]:
    """Each variant with one domain of each node that has room for it."""
    unit_rps = demand.rate_rps or max(v.rate_rps for v in demand.variants)
    for v, variant in enumerate(demand.variants):
        for pool, bins in packing.bins.items():
            if model.pools[pool].gpu != variant.gpu:
                continue
            piece = Piece(index, v, pool, variant.gpus, variant.rate_rps / unit_rps)
            roomy = {b.node.name: b for b in reversed(bins) if b.free >= variant.gpus}
            yield from ((piece, bin_) for bin_ in roomy.values())
