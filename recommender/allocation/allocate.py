"""Allocate GPUs to services: the least missing, then the least money, then few changes.

Called by the controller's coordinating tick and by `whaleflux plan`. Pure: values in, value
out; HiGHS' own time limit is the only clock. Counts by pool come from `stages`, nodes from
`packing`; where a pool's counts do not find nodes (spread), the pool is split into single
nodes and solved again, which is exact, as long as the problem stays small enough to be worth
it. What is still open then is filled by `topup`. All figures are read off the placements.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from recommender.allocation.audit import Holding, holding
from recommender.allocation.binding import explain_binding
from recommender.allocation.block import TIE_PER_GPU_HOUR
from recommender.allocation.checks import check, check_terms
from recommender.allocation.model import Model, Running, Terms, as_running, write_model
from recommender.allocation.packing import Packing, pack
from recommender.allocation.pools import Pool, make_pools, split_pools
from recommender.allocation.shortfall import explain_shortfalls
from recommender.allocation.solver import Floats
from recommender.allocation.stages import Plan, Purse, gap_ratio, make_plan
from recommender.allocation.topup import top_up
from recommender.allocation.values import Allocation, Demand, Effort, Market, Node, Placement

_ROUNDS = 4
_TICK_GAP_RATIO = 0.02
"""Where something runs: the last percent would cost dozens of replicas moved for it."""


def allocate(
    demands: Sequence[Demand],
    nodes: Sequence[Node],
    *,
    running: Sequence[Placement] = (),
    budget_per_hour: float | None = None,
    change_cost_per_hour: float = 0.1,
    effort: Effort | None = None,
) -> Allocation:
    """Place all demands on the nodes.

    `running` is what runs now: replicas there start nothing. Unknown nodes (lost), services
    and variants in it are let go. `budget_per_hour` is for on-demand and spot GPUs.
    `change_cost_per_hour` is the price of one started replica; stopping one is free, or a
    surplus on reserved GPUs would never end. Its default is two dear GPUs that load weights
    for a minute, spread over the hour.

    Raises `Refused` for values that make no sense; a demand that cannot be met is a
    shortfall that says why.
    """
    effort = effort or (Effort(gap_ratio=_TICK_GAP_RATIO) if running else Effort())
    check(demands, nodes)
    check_terms(budget_per_hour, change_cost_per_hour, effort)
    terms, runs = Terms(budget_per_hour, change_cost_per_hour), _known(running, nodes)
    model, plan, packing = _settle(demands, make_pools(nodes), runs, terms, effort)
    top_up(model, packing, budget_per_hour)
    return _summary(model, plan, packing, runs, terms)


def _known(running: Sequence[Placement], nodes: Sequence[Node]) -> Counter[tuple[str, str, str]]:
    names = {node.name for node in nodes}
    return as_running([p for p in running if p.node in names and p.replicas > 0])


def _settle(
    demands: Sequence[Demand],
    pools: tuple[Pool, ...],
    runs: Running,
    terms: Terms,
    effort: Effort,
) -> tuple[Model, Plan, Packing]:
    """Solve and pack; split pools that do not pack and do it again."""
    purse = Purse(effort.time_limit_s)
    for turn in range(_ROUNDS):
        model = write_model(demands, pools, runs, terms)
        plan = make_plan(model, _seeds(model, runs), effort, purse)
        packing = pack(model, plan.x, runs)
        troubled = {p for p in packing.troubled() if len(pools[p].nodes) > 1}
        if not troubled or model.large or turn == _ROUNDS - 1 or purse.left_s <= 0:
            break
        pools = split_pools(pools, troubled)
    return model, plan, packing


def _seeds(model: Model, runs: Running) -> tuple[Floats, ...]:
    """What runs, as a point of the problem; limits it exceeds are for the solver to mind."""
    if not runs:
        return ()
    x = model.problem.lower.copy()
    for block in model.blocks:
        counts = [min(option.running, option.most) for option in block.options]
        first = block.first_column
        x[first : first + len(counts)] = counts
    return (x,)


def _summary(model: Model, plan: Plan, packing: Packing, runs: Running, terms: Terms) -> Allocation:
    nodes = {node.name: node for pool in model.pools for node in pool.nodes}
    placed = packing.placed()
    held = [holding(d, placed[i], nodes) for i, d in enumerate(model.demands)]
    now = Counter(
        {
            (demand.service, demand.variants[variant].name, node): replicas
            for index, demand in enumerate(model.demands)
            for (variant, node), replicas in placed[index].items()
        }
    )
    started, stopped = (now - Counter(runs)).total(), (Counter(runs) - now).total()
    objective = _objective(held, started * terms.change_cost_per_hour)
    bound = min(plan.bound_per_hour, objective)
    return Allocation(
        placements=tuple(Placement(*key, replicas) for key, replicas in sorted(now.items())),
        cost_per_hour=sum(h.cost_per_hour for h in held),
        reserved_cost_per_hour=_reserved(nodes.values()),
        objective_per_hour=objective,
        bound_per_hour=bound,
        gap_ratio=gap_ratio(objective, bound),
        violation_gap_ratio=plan.violation_gap_ratio,
        shortfalls=explain_shortfalls(model, packing, held, terms),
        binding=explain_binding(model, plan, packing, held),
        moved=started + stopped,
    )


def _objective(held: Sequence[Holding], starts_per_hour: float) -> float:
    money = sum(h.cost_per_hour + h.gpus * TIE_PER_GPU_HOUR for h in held)
    return money + starts_per_hour


def _reserved(nodes: Iterable[Node]) -> float:
    return sum(
        node.gpus * node.price_per_gpu_hour for node in nodes if node.market is Market.RESERVED
    )
