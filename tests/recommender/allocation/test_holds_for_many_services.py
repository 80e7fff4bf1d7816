"""The path through column generation, at a size that takes a second."""

from dataclasses import replace

import numpy as np
import pytest

from recommender.allocation import Allocation, Demand, Effort, Market, Node, Variant, allocate
from tests.recommender.allocation.builders import changed, check_limits, check_met

PATIENT = Effort(gap_ratio=0.02, time_limit_s=60.0)


def cluster() -> list[Node]:
    return [
        Node(f"{gpu}-{market}-{k}", gpu, 8, "ab"[k % 2], market, price)
        for gpu, base in (("H100", 3.0), ("A100", 1.8))
        for market, price in ((Market.RESERVED, base / 2), (Market.ON_DEMAND, base),
                              (Market.SPOT, base / 3))
        for k in range(6)
    ]  # fmt: skip


def services(count: int, load: float = 1.0) -> list[Demand]:
    rng = np.random.default_rng(5)
    demands = []
    for k in range(count):
        unit = rng.uniform(2.0, 9.0)
        kinds = tuple(
            Variant(f"{gpu}x{n}", gpu, n, float(unit * speed * n**0.9 * rng.uniform(0.9, 1.1)))
            for gpu, speed in (("H100", 1.8), ("A100", 1.0))
            for n in (1, 2, 4, 8)
        )
        demands.append(
            Demand(
                f"s{k:02d}", float(unit * rng.uniform(3.0, 14.0) * load), kinds,
                priority=k % 2,
                min_nodes=2 if k % 9 == 0 else 1,
                min_zones=2 if k % 9 == 1 else 1,
                survives_node_loss=k % 9 == 2,
                spot_ratio=(1.0, 0.3, 0.0)[k % 3],
            )
        )  # fmt: skip
    return demands


@pytest.fixture(scope="module")
def usual() -> Allocation:
    return allocate(services(36), cluster(), effort=PATIENT)


def test_every_demand_is_met_near_the_bound(usual: Allocation) -> None:
    check_limits(usual, services(36), cluster())
    assert usual.shortfalls == ()
    for demand in services(36):
        check_met(usual, demand, cluster())
    assert usual.gap_ratio <= 0.03


def test_the_same_question_has_the_same_answer(usual: Allocation) -> None:
    assert allocate(services(36), cluster(), effort=PATIENT) == usual


def test_nothing_changes_when_nothing_did(usual: Allocation) -> None:
    again = allocate(services(36), cluster(), running=usual.placements, effort=PATIENT)
    assert again.moved == 0


def test_few_change_when_one_wants_a_little_more(usual: Allocation) -> None:
    more = services(36)
    more[20] = replace(more[20], rate_rps=1.1 * more[20].rate_rps)
    after = allocate(more, cluster(), running=usual.placements, effort=PATIENT)
    check_limits(after, more, cluster())
    mine = changed(usual.placements, after.placements)
    assert len(mine) <= len(more) // 4
    assert mine.total() <= usual.moved // 8


def test_a_shortage_falls_on_the_lower_priority() -> None:
    demands = services(36, load=1.6)
    answer = allocate(demands, cluster(), effort=PATIENT)
    check_limits(answer, demands, cluster())
    priority = {d.service: d.priority for d in demands}
    assert answer.shortfalls
    assert {priority[s.service] for s in answer.shortfalls} == {0}
    assert all(s.because for s in answer.shortfalls)


def _odd(kinds: tuple[Variant, ...]) -> tuple[Variant, ...]:
    return tuple(replace(v, gpus=(1, 3, 5, 8)[k % 4]) for k, v in enumerate(kinds))


def test_odd_sizes_never_overfill_a_node() -> None:
    demands = [replace(d, variants=_odd(d.variants)) for d in services(30)]
    answer = allocate(demands, cluster(), effort=PATIENT)
    check_limits(answer, demands, cluster())
    assert answer.placements
