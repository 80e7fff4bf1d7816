"""Who may share a GPU: memory for all, objectives kept, no difference who is named first."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.hardware import GIB, Gpu, find_gpu
from profiler.layout import Layout
from profiler.memory import EngineMemory
from profiler.slo import Slo
from recommender.sharing import Sharing, Tenant, partners, share
from recommender.sharing.footprint import PROCESS_BYTES
from tests.recommender.builders import a_cost, a_profile, a_slo, a_workload


def a_gpu(memory_gib: float = 8.0) -> Gpu:
    return replace(find_gpu("L4"), name="mine", memory_bytes=memory_gib * GIB)


def a_tenant(name: str = "a", rate_rps: float = 2.0, **changes: Any) -> Tenant:
    fields: dict[str, Any] = {
        "name": name,
        "profile": a_profile(cost=a_cost(step_overhead_s=2e-3, kv_token_s=1e-7)),
        "configuration": Configuration(max_num_seqs=16, max_num_batched_tokens=512),
        "workload": replace(a_workload(), rate_rps=rate_rps),
        "slo": a_slo(),
    }
    return Tenant(**{**fields, **changes})


def with_memory(tenant: Tenant, **gib: float) -> Tenant:
    memory = replace(tenant.profile.memory, **{f"{k}_bytes": v * GIB for k, v in gib.items()})
    return replace(tenant, profile=replace(tenant.profile, memory=memory))


def test_two_small_services_share_and_each_is_somewhat_slower() -> None:
    found = share([a_tenant("a"), a_tenant("b")], a_gpu())
    assert found.fits
    assert found.allowed
    assert "all keep their objectives" in found.because
    for one in found.interference:
        assert 1.0 < one.slowdown_ratio < 2.0
        assert one.together.itl_s > one.alone.itl_s
        assert one.attained_ratio >= 0.95


def test_equals_get_equal_shares() -> None:
    found = share([a_tenant("a"), a_tenant("b")], a_gpu())
    first, second = found.interference
    assert first.slowdown_ratio == second.slowdown_ratio
    assert found.gpu_memory_utilization[0] == found.gpu_memory_utilization[1]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(0.0, 12.0), min_size=1, max_size=3),
    st.floats(6.0, 16.0),
    st.floats(0.1, 3.0),
)
def test_memory_is_never_more_than_the_card_nor_less_than_an_engine_needs(
    rates: list[float], card_gib: float, weights_gib: float
) -> None:
    tenants = [with_memory(a_tenant(f"s{i}", rate), weights=weights_gib, total=card_gib)
               for i, rate in enumerate(rates)]  # fmt: skip
    found = share(tenants, a_gpu(card_gib))
    assert len(found.memory_bytes) == len(tenants)
    if not found.fits:
        assert not found.allowed
        return
    assert sum(found.memory_bytes) <= card_gib * GIB * (1 + 1e-9)
    for tenant, utilization in zip(tenants, found.gpu_memory_utilization, strict=True):
        configured = replace(tenant.configuration, gpu_memory_utilization=utilization)
        tenant.profile.limits(configured)  # the engine would start


@settings(max_examples=10, deadline=None)
@given(st.floats(0.0, 20.0), st.floats(0.0, 20.0), st.floats(0.25, 4.0))
def test_the_order_of_tenants_makes_no_difference(a: float, b: float, speed: float) -> None:
    faster = a_profile(cost=a_cost(speed, step_overhead_s=1e-3))
    pair = [a_tenant("a", a), a_tenant("b", b, profile=faster)]
    there, back = share(pair, a_gpu()), share(pair[::-1], a_gpu())
    assert (there.fits, there.allowed) == (back.fits, back.allowed)
    assert there.interference == back.interference[::-1]
    assert there.memory_bytes == back.memory_bytes[::-1]


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 8.0), st.floats(0.1, 8.0))
def test_more_load_beside_me_never_makes_me_faster(little: float, more: float) -> None:
    def mine(rate_rps: float) -> float:
        found = share([a_tenant("me"), a_tenant("other", rate_rps)], a_gpu())
        return found.interference[0].together.itl_s

    # 3 %: shares settle to 1 %, and quantiles of a few hundred requests jump
    assert mine(little) <= mine(little + more) * 1.03


def test_a_neighbour_without_traffic_changes_nothing() -> None:
    found = share([a_tenant("me"), a_tenant("idle", 0.0)], a_gpu())
    me, idle = found.interference
    assert me.slowdown_ratio == 1.0
    assert me.together == me.alone
    assert idle.slowdown_ratio > 1.0
    assert found.allowed


def test_alone_a_tenant_has_the_card_but_for_its_process() -> None:
    found = share([a_tenant()], a_gpu())
    assert found.allowed
    assert found.slowdown_ratio == 1.0
    assert found.memory_bytes[0] == pytest.approx(8 * GIB, rel=0.001)
    assert found.gpu_memory_utilization[0] == pytest.approx(1 - PROCESS_BYTES / 8 / GIB, abs=1e-3)


def test_what_does_not_fit_says_who_needs_what() -> None:
    found = share([a_tenant("a"), a_tenant("b"), a_tenant("c")], a_gpu())
    assert not found.fits
    assert not found.allowed
    assert "a 2.8 GiB and b 2.8 GiB and c 2.8 GiB do not fit" in found.because
    assert found.gpu_memory_utilization == ()
    assert found.interference == ()


def test_a_long_context_needs_its_room_even_where_requests_are_short() -> None:
    long = a_profile(max_model_len=60_000)
    found = share([a_tenant("a", profile=long), a_tenant("b")], a_gpu())
    assert not found.fits
    short = Configuration(max_num_seqs=16, max_num_batched_tokens=512, max_model_len=4096)
    assert share([a_tenant("a", profile=long, configuration=short), a_tenant("b")], a_gpu()).fits


def test_spare_memory_goes_to_whoever_needs_it() -> None:
    busy, calm = a_tenant("busy", 40.0), a_tenant("calm", 0.5)
    found = share([busy, calm], a_gpu())
    assert found.fits
    assert found.memory_bytes[0] >= found.memory_bytes[1]


def test_a_flood_is_refused_naming_whom_and_that_it_is_too_much_alone() -> None:
    found = share([a_tenant("a"), a_tenant("flood", 1e5)], a_gpu())
    assert not found.allowed
    assert "flood misses it even alone" in found.because


def test_a_tight_objective_is_missed_beside_another_only() -> None:
    tight = a_tenant("tight", 0.5, slo=Slo(itl_s=0.0145))
    found = share([tight, a_tenant("other", 8.0)], a_gpu())
    assert not found.allowed
    assert "tight misses it beside the others" in found.because
    assert share([tight], a_gpu()).allowed


def test_a_replica_of_several_gpus_does_not_share() -> None:
    two = a_profile(layout=Layout(tensor=2))
    configuration = Configuration(2, max_num_seqs=16, max_num_batched_tokens=512)
    found = share([a_tenant("wide", profile=two, configuration=configuration), a_tenant()], a_gpu())
    assert not found.allowed
    assert "spans 2 GPUs" in found.because


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(Refused, match="at least one"):
        share([], a_gpu())
    with pytest.raises(Refused, match="profile is for mine"):
        share([a_tenant()], find_gpu("H200"))
    with pytest.raises(Refused, match="bounds nothing"):
        share([a_tenant(slo=Slo())], a_gpu())


def test_memory_of_a_card_smaller_than_the_profile_says_counts() -> None:
    big = a_profile(memory=EngineMemory(80 * GIB, 1 * GIB, 1e5, 0.0, 65536.0))
    found = share([a_tenant("a", profile=big), a_tenant("b", profile=big)], a_gpu(8.0))
    assert sum(found.memory_bytes) <= 8 * GIB


def allowed_names(tenants: list[Tenant]) -> list[tuple[str, str]]:
    return [pair.names for pair in partners(tenants, a_gpu())]


def test_partners_come_with_the_least_slowdown_first() -> None:
    tenants = [a_tenant("calm", 0.1), a_tenant("busy", 6.0), a_tenant("some", 1.0)]
    found = partners(tenants, a_gpu())
    ratios = [pair.sharing.slowdown_ratio for pair in found]
    assert len(found) == 3
    assert ratios == sorted(ratios)
    assert found[0].names == ("calm", "some")


def test_partners_are_those_that_share_allows() -> None:
    tenants = [
        a_tenant("a", 1.0),
        a_tenant("flood", 1e5),
        a_tenant("tight", 1.0, slo=Slo(itl_s=0.0145)),
        with_memory(a_tenant("large", 1.0), weights=5.0),
        with_memory(a_tenant("too large", 1.0), weights=50.0),
        a_tenant("b", 4.0),
    ]
    found = set(allowed_names(tenants))

    def verdict(i: int, j: int) -> Sharing:
        return share([tenants[i], tenants[j]], a_gpu())

    for i, first in enumerate(tenants):
        for j in range(i + 1, len(tenants)):
            names = (first.name, tenants[j].name)
            assert (names in found) == verdict(i, j).allowed, names
    assert ("a", "b") in found


def test_nobody_has_no_partners() -> None:
    assert partners([], a_gpu()) == ()
    assert partners([a_tenant()], a_gpu()) == ()
