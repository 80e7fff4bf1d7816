"""Services that share a pool: nobody takes what others need as much or more."""

from dataclasses import replace

import pytest

from controller.api import parse_service
from controller.decide import Reason, State, decide
from controller.observation import Observation
from controller.pools import Pools, read_pools
from controller.service import Bounds, Service, resolve_service, service_id
from profiler.errors import Refused
from tests.controller.builders import a_decision, a_manifest, a_service, an_observation


def named(name: str, **changes: object) -> Service:
    service = a_service(id=service_id("default", name), name=name, bounds=Bounds(1, 9), standbys=0)
    return replace(service, **changes)  # type: ignore[arg-type]


def claims(pools: Pools, service: Service, serving: int, now_s: float = 0.0) -> int:
    """Replicas that it may have of what it wants."""
    seen = an_observation("S", service=service)
    decision = a_decision(serving=serving, standby=0)
    limited = pools.limited(seen, decision, serving, now_s)
    return serving if limited is None else dict(limited.service.bounds.granted)[service.gpu]


def within(seen: Observation, granted: int) -> Observation:
    bounds = replace(seen.service.bounds, granted=((seen.service.gpu, granted),))
    return replace(seen, service=replace(seen.service, bounds=bounds))


def test_without_a_pool_nothing_is_limited() -> None:
    assert claims(Pools(), named("a"), 9) == 9
    assert claims(Pools({"H100-SXM": 1}), named("a"), 9) == 9


def test_what_is_there_is_granted_and_no_more() -> None:
    pools = Pools({"L4": 4})
    assert claims(pools, named("a"), 3) == 3
    assert claims(pools, named("b"), 9) == 2
    assert claims(pools, named("a"), 3, now_s=2.0) == 2


def test_the_higher_priority_is_served_first_and_the_lower_keeps_its_least() -> None:
    pools = Pools({"L4": 4})
    assert claims(pools, named("low"), 4) == 4
    assert claims(pools, named("high", priority=5), 4) == 3
    assert claims(pools, named("low"), 4, now_s=2.0) == 1


def test_a_service_that_is_gone_leaves_its_share() -> None:
    pools = Pools({"L4": 4})
    claims(pools, named("a"), 4)
    claims(pools, named("b"), 4)
    pools.forget(named("a").id)
    assert claims(pools, named("b"), 4, now_s=0.1) == 4


def test_grants_are_made_once_a_second() -> None:
    pools = Pools({"L4": 4})
    claims(pools, named("a"), 1)
    assert claims(pools, named("a"), 4, now_s=0.5) == 1
    assert claims(pools, named("a"), 4, now_s=1.0) == 4


def test_a_decision_within_a_grant_says_so_and_gives_up_standbys_first() -> None:
    seen = an_observation("SS", service=a_service(bounds=Bounds(2, 5), standbys=2))
    made, _ = decide(within(seen, 3), State(serving=2), 0.0)
    assert (made.serving, made.standby) == (2, 1)
    made, _ = decide(within(seen, 1), State(serving=2), 0.0)
    assert (made.serving, made.standby) == (1, 0)
    assert Reason.POOL_SHORT in made.reasons


def test_what_one_pool_does_not_grant_is_claimed_of_the_next() -> None:
    other = replace(named("a"), gpu="T4")
    service = replace(named("a", bounds=Bounds(4, 9)), fallbacks=(other,))
    pools = Pools({"L4": 2, "T4": 3})
    seen = an_observation("", service=service, worths=(("T4", 0.5),))
    made, _ = decide(seen, State(), 0.0)
    assert made.serving == 4
    seen = pools.limited(seen, made, 4, 0.0) or seen
    made, _ = decide(seen, State(), 0.0)
    assert made.on_fallbacks == (("T4", 4),)
    seen = pools.limited(seen, made, 6, 0.0) or seen
    made, _ = decide(seen, State(), 0.0)
    assert (made.serving, made.on_fallbacks) == (5, (("T4", 3),))
    assert pools.limited(seen, made, 5, 0.0) is None
    assert {Reason.FALLBACK_USED, Reason.POOL_SHORT} <= set(made.reasons)


def test_pools_are_read_from_the_command_line() -> None:
    assert claims(read_pools(["L4=2", "H100-SXM=8"]), named("a"), 9) == 2
    for bad in ("L4", "L4=", "=3", "L4=0", "L4=x"):
        with pytest.raises(Refused, match=f"--gpu-pool {bad}: give a GPU type and a count"):
            read_pools([bad])


def test_a_budget_bounds_the_count_and_must_pay_for_the_least() -> None:
    scaling = {"min": 1, "max": 9, "budgetGpus": 3}
    manifest = parse_service(a_manifest(scaling=scaling), "test")
    service = resolve_service(manifest, {})
    made, _ = decide(an_observation("SSS", service=service), State(serving=9), 0.0)
    assert made.serving == 3
    assert Reason.AT_BUDGET in made.reasons
    with pytest.raises(Refused, match=r"scaling\.budgetGpus 3: pays for 3 replicas of 1 GPUs"):
        resolve_service(parse_service(a_manifest(scaling={**scaling, "min": 4}), "test"), {})
