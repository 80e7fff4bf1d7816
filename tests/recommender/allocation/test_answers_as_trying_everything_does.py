from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.allocation import Demand, Market, Node, Placement, Variant, allocate
from recommender.allocation import model as model_module
from tests.recommender.allocation.builders import EXACT, check_limits, check_met
from tests.recommender.allocation.naive import Key, best, missing

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[Demand], list[Node], list[Placement], float | None]:
    """Up to two demands on two nodes of up to four GPUs, or one on three."""
    services = draw(st.integers(1, 2))
    cluster = [
        Node(
            f"n{k}",
            draw(st.sampled_from(("A", "A", "B"))),
            draw(st.sampled_from((2, 4, 4, 3))),
            draw(st.sampled_from("xy")),
            draw(st.sampled_from(tuple(Market))),
            draw(st.sampled_from((0.0, 1.0, 2.5))),
            draw(st.sampled_from((2, 8))),
        )
        for k in range(2 if services == 2 else draw(st.integers(1, 3)))
    ]
    demands = [draw(demand(f"s{k}")) for k in range(services)]
    counts = st.integers(1, 2)
    running = [
        Placement(d.service, draw(st.sampled_from(d.variants)).name, n.name, draw(counts))
        for d in demands
        for n in cluster
        if draw(st.booleans())
    ]
    budget = draw(st.sampled_from((None, None, 3.0, 6.0)))
    return demands, cluster, running, budget


@st.composite
def demand(draw: st.DrawFn, service: str) -> Demand:
    kinds = draw(
        st.lists(
            st.tuples(st.sampled_from("AB"), st.sampled_from((1, 2, 3, 4))),
            min_size=1, max_size=2, unique=True,
        )
    )  # fmt: skip
    most = draw(st.sampled_from((None, None, 2, 3)))
    return Demand(
        service,
        draw(st.sampled_from((0.0, 7.0, 13.0, 29.0))),
        tuple(Variant(f"{g}{n}", g, n, 6.0 * n + draw(st.integers(0, 2))) for g, n in kinds),
        priority=draw(st.integers(0, 1)),
        min_replicas=draw(st.integers(0, 2)),
        max_replicas=most,
        min_nodes=draw(st.integers(1, 2)),
        min_zones=draw(st.integers(1, 2)),
        survives_node_loss=draw(st.booleans()),
        spot_ratio=draw(st.sampled_from((0.0, 0.5, 1.0))),
        budget_per_hour=draw(st.sampled_from((None, None, 4.0))),
    )


def as_keys(demands: list[Demand], cluster: list[Node], placed: list[Placement]) -> Counter[Key]:
    services = {d.service: i for i, d in enumerate(demands)}
    names = {(d.service, v.name): k for d in demands for k, v in enumerate(d.variants)}
    at = {n.name: k for k, n in enumerate(cluster)}
    found: Counter[Key] = Counter()
    for p in placed:
        found[services[p.service], names[p.service, p.variant], at[p.node]] += p.replicas
    return found


@SETTINGS
@given(instances())
def test_what_is_missing_and_what_it_costs_are_least(
    instance: tuple[list[Demand], list[Node], list[Placement], float | None],
) -> None:
    demands, cluster, running, budget = instance
    answer = allocate(
        demands, cluster, running=running, budget_per_hour=budget,
        change_cost_per_hour=0.25, effort=EXACT,
    )  # fmt: skip
    check_limits(answer, demands, cluster)
    runs = as_keys(demands, cluster, running)
    misses, value = best(demands, cluster, runs, budget, 0.25)
    way = as_keys(demands, cluster, list(answer.placements))
    for priority, least in misses.items():
        mine = sum(
            missing(way, i, d, cluster) for i, d in enumerate(demands) if d.priority == priority
        )
        assert mine == pytest.approx(least, abs=1e-4)
    assert answer.objective_per_hour == pytest.approx(value, abs=1e-4)
    short = {s.service for s in answer.shortfalls}
    for i, d in enumerate(demands):
        assert (missing(way, i, d, cluster) > 1e-5) == (d.service in short)
        if d.service not in short:
            check_met(answer, d, cluster)


@SETTINGS
@given(instances())
def test_the_bound_of_column_generation_undercuts_every_placement(
    instance: tuple[list[Demand], list[Node], list[Placement], float | None],
) -> None:
    demands, cluster, running, budget = instance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "LARGE", -1)
        answer = allocate(
            demands, cluster, running=running, budget_per_hour=budget,
            change_cost_per_hour=0.25, effort=EXACT,
        )  # fmt: skip
    check_limits(answer, demands, cluster)
    misses, value = best(demands, cluster, as_keys(demands, cluster, running), budget, 0.25)
    if not answer.shortfalls:
        assert not any(misses.values())
        assert answer.bound_per_hour <= value + 1e-6
        assert answer.objective_per_hour >= value - 1e-4
