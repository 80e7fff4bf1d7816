"""Who may sleep beside whom, and who must sleep for it to wake."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.hardware import GIB
from profiler.layout import Layout
from profiler.memory import EngineMemory
from recommender.sharing import Tenant, may_sleep
from recommender.sharing.footprint import asleep_bytes, awake_bytes
from tests.recommender.builders import a_profile, a_slo, a_workload


def a_tenant(name: str, utilization: float = 0.4, priority: int = 0, **profile: Any) -> Tenant:
    card = {"memory": EngineMemory(80 * GIB, 16 * GIB, 1e5, 0.13 * GIB, 65536.0)}
    configuration = Configuration(
        tensor_parallel_size=profile.get("layout", Layout()).tensor,
        gpu_memory_utilization=utilization,
    )
    own = a_profile(**{**card, "wake_up_s": 0.1, **profile})
    return Tenant(name, own, configuration, a_workload(), a_slo(), priority)


PLENTY = 1024 * GIB


def test_who_fits_beside_awake_sleeps_and_wakes_as_it_likes() -> None:
    found = may_sleep(a_tenant("a"), a_tenant("b"), PLENTY)
    assert found.allowed
    assert found.asleep_first is None
    assert found.host_bytes == 16 * GIB
    assert found.because.startswith("a wakes beside it, in 1.2 s")


def test_where_only_one_can_be_awake_the_lower_priority_sleeps_first() -> None:
    standby = a_tenant("standby", 0.9, priority=10)
    found = may_sleep(standby, a_tenant("batch", 0.9), PLENTY)
    assert found.allowed
    assert found.asleep_first == "batch"
    assert found.host_bytes == 32 * GIB  # both copies: what woke keeps its own
    assert "wakes once batch sleeps" in found.because


@pytest.mark.parametrize("priority", [0, 5])
def test_nobody_is_displaced_by_an_equal_or_a_lower_one(priority: int) -> None:
    found = may_sleep(a_tenant("a", 0.9), a_tenant("b", 0.9, priority=priority), PLENTY)
    assert not found.allowed
    assert "b, and that does not give way" in found.because


def test_even_asleep_it_needs_room_and_the_mend_is_right() -> None:
    found = may_sleep(a_tenant("a", 0.9, priority=1), a_tenant("b", 0.97), PLENTY)
    assert not found.allowed
    assert "set its gpu_memory_utilization to 0.947 or less" in found.because
    assert may_sleep(a_tenant("a", 0.9, priority=1), a_tenant("b", 0.947), PLENTY).allowed


def test_awake_it_needs_room_beside_the_residue_of_the_other() -> None:
    found = may_sleep(a_tenant("a", 0.97, priority=1), a_tenant("b", 0.9), PLENTY)
    assert not found.allowed
    assert "a does not fit beside b even asleep" in found.because
    assert "0.947" in found.because


def test_the_host_must_hold_the_weights() -> None:
    found = may_sleep(a_tenant("a"), a_tenant("b"), 15 * GIB)
    assert not found.allowed
    assert "host memory: the weights of a take 16.0 GiB, 15.0 are free" in found.because


def test_weights_of_all_gpus_of_a_replica_count() -> None:
    wide = a_tenant("wide", layout=Layout(tensor=4))
    assert may_sleep(wide, a_tenant("b"), PLENTY).host_bytes == 64 * GIB


def test_waking_takes_the_copy_of_the_weights_and_a_fixed_part() -> None:
    new = may_sleep(a_tenant("a", gpu="H100-SXM"), a_tenant("b", gpu="H100-SXM"), PLENTY)
    old = may_sleep(a_tenant("a", gpu="A100-80GB"), a_tenant("b", gpu="A100-80GB"), PLENTY)
    assert new.wake_up_s == pytest.approx(0.5 + 16 * GIB / 55e9)
    assert old.wake_up_s == pytest.approx(0.5 + 16 * GIB / 24.8e9)


def test_a_profile_that_says_longer_is_believed() -> None:
    assert may_sleep(a_tenant("a", wake_up_s=9.0), a_tenant("b"), PLENTY).wake_up_s == 9.0


def test_replicas_of_different_gpus_cannot_sleep_for_each_other() -> None:
    with pytest.raises(Refused, match="same GPU"):
        may_sleep(a_tenant("a", gpu="H200"), a_tenant("b", gpu="B200"), PLENTY)


@given(
    st.floats(0.05, 1.0), st.floats(0.05, 1.0), st.integers(0, 2), st.integers(0, 2),
    st.floats(0, 64),
)  # fmt: skip
def test_what_is_allowed_fits_at_every_moment(
    mine: float, other: float, priority: int, its: int, host_gib: float
) -> None:
    a, b = a_tenant("a", mine, priority), a_tenant("b", other, its)
    found = may_sleep(a, b, host_gib * GIB)
    assert found.resident_bytes == asleep_bytes(a) < awake_bytes(a) + GIB * 2
    if found.allowed:
        assert found.resident_bytes + awake_bytes(b) <= 80 * GIB
        beside = awake_bytes(b) if found.asleep_first is None else asleep_bytes(b)
        assert awake_bytes(a) + beside <= 80 * GIB
        assert found.host_bytes <= host_gib * GIB
