"""What holds for every opponent: bounds, purity, data that is missing or no data, the grids."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.replay import opponents
from controller.replay.opponents import ALL
from controller.replay.policy import Fleet, Known, Policy, Scrape, Wish
from tests.controller.replay.opponents.builders import known, sample, scrape

NAMES = [factory().name for factory in ALL]
EACH = pytest.mark.parametrize("factory", ALL, ids=NAMES)

Drawn = tuple[list[tuple[float, float, float]], list[float], list[int], int] | None
"""Replicas, seconds, tokens, a count."""

loads = st.floats(0, 300)
replica = st.tuples(loads, loads, st.floats(0, 1))
ticks = st.lists(
    st.one_of(
        st.none(),
        st.tuples(
            st.lists(replica, max_size=5),
            st.lists(st.floats(0, 30), max_size=4),
            st.lists(st.integers(1, 4000), max_size=4),
            st.integers(0, 50),
        ),
    ),
    min_size=1,
    max_size=25,
)


def _scrape(at_s: float, drawn: Drawn) -> Scrape | None:
    if drawn is None:
        return None
    shown, seconds, tokens, count = drawn
    return scrape(
        at_s,
        tuple(sample(f"r{place}", *values) for place, values in enumerate(shown)),
        arrivals=count,
        finished=len(tokens),
        prompt_tokens=sum(tokens),
        ttft_s=tuple(seconds),
        itl_s=tuple(value / 100 for value in seconds),
        input_tokens=tuple(tokens),
        output_tokens=tuple(tokens),
        gateway_waiting=count,
    )


def _run(policy: Policy, told: Known, drawn: Sequence[Drawn]) -> tuple[list[Wish], Any]:
    state, there, wishes = policy.start(told), Fleet(2, 0), []
    for place, one in enumerate(drawn):
        now_s = place * policy.interval_s
        wish, state = policy.decide(_scrape(now_s, one), there, state, now_s)
        wishes.append(wish)
        # every other tick what starts is ready
        there = Fleet(there.serving, max(wish.replicas - there.serving, 0))
        there = Fleet(wish.replicas, 0) if place % 2 or wish.replicas < there.serving else there
    return wishes, state


@EACH
@settings(max_examples=40, deadline=None)
@given(drawn=ticks, low=st.integers(0, 2), high=st.integers(2, 9))
def test_stays_within_the_bounds_and_is_pure(factory, drawn, low, high):
    told = known(min_replicas=low, max_replicas=high)
    wishes, state = _run(factory(), told, drawn)
    assert all(low <= wish.replicas <= high for wish in wishes)
    assert all(isinstance(wish.replicas, int) and wish.reason for wish in wishes)
    assert _run(factory(), told, drawn) == (wishes, state)


@EACH
def test_has_eight_to_twenty_four_settings_to_tune_over(factory):
    grid = factory.grid()
    assert 8 <= len(set(grid)) == len(grid) <= 24
    for one in grid:
        policy = factory(one)
        assert policy.interval_s > 0
        _run(policy, known(), [None, ([(5.0, 1.0, 0.5)] * 2, [0.1], [100], 3)] * 3)


@EACH
def test_settings_and_states_are_frozen_values(factory):
    policy = factory()
    assert policy.settings == type(policy.settings)()
    assert is_dataclass(policy.settings)
    hash(policy.settings)
    with pytest.raises((AttributeError, TypeError)):
        setattr(policy.settings, fields(policy.settings)[0].name, 1.0)
    _, state = _run(policy, known(), [([(5.0, 1.0, 0.5)] * 2, [0.1], [100], 3)] * 4)
    with pytest.raises((AttributeError, TypeError)):
        state.asked = 3


@EACH
def test_a_lost_replica_is_replaced_whatever_else_is_known(factory):
    policy = factory()
    state = policy.start(known())
    wish, state = policy.decide(None, Fleet(4, 0), state, 0.0)
    asked = wish.replicas
    wish, _ = policy.decide(None, Fleet(3, 0), state, policy.interval_s)
    assert wish.replicas == asked


@EACH
@pytest.mark.parametrize("bad", [float("nan"), -1.0, float("inf")])
def test_survives_values_that_are_none(factory, bad):
    policy, told = factory(), known()
    state = policy.start(told)
    good = scrape(0.0, (sample("r0", 20.0), sample("r1", 20.0)))
    garbled = tuple(sample(f"r{n}", bad, bad, bad) for n in range(2))
    for place in range(8):
        now_s = place * policy.interval_s
        seen = replace(good, at_s=now_s)
        if place % 2:
            seen = scrape(now_s, garbled, ttft_s=(bad,), itl_s=(bad,), arrivals=2)
        wish, state = policy.decide(seen, Fleet(2, 0), state, now_s)
        assert 1 <= wish.replicas <= told.max_replicas


MONOTONE = [
    "hpa",
    "knative-kpa",
    "aibrix-kpa",
    "aibrix-apa",
    "slo-aware",
    "ray-serve-llm",
    "kubeai",
]


@pytest.mark.parametrize("factory", [one for one in ALL if one().name in MONOTONE])
@settings(max_examples=60, deadline=None)
@given(load=loads, more=loads, count=st.integers(1, 6))
def test_more_load_never_asks_for_fewer(factory, load, more, count):
    def asked(value: float) -> int:
        policy: Policy = factory()
        seen = scrape(
            0.0,
            tuple(sample(f"r{n}", value, 0.0, min(value / 600, 1.0)) for n in range(count)),
            ttft_s=(value / 100,),
        )
        state, now_s = policy.start(known()), 0.0
        for now_s in (0.0, policy.interval_s):
            seen = replace(seen, at_s=now_s)
            wish, state = policy.decide(seen, Fleet(count, 0), state, now_s)
        return wish.replicas

    assert asked(load + more) >= asked(load)


def test_names_differ_and_the_face_is_sorted():
    assert len(set(NAMES)) == len(NAMES) == 13
    # capitals first, as elsewhere in this repository's faces
    assert list(opponents.__all__) == sorted(opponents.__all__)
    assert all(hasattr(opponents, name) for name in opponents.__all__)


def test_defaults_are_the_peers():
    by_name: dict[str, Any] = {factory().name: factory() for factory in ALL}
    told = {
        "hpa": ("sync_period_s", 15.0),
        "knative-kpa": ("stable_window_s", 60.0),
        "aibrix-kpa": ("scale_down_cooldown_window_s", 300.0),
        "aibrix-apa": ("up_fluctuation_tolerance", 0.1),
        "wva-v1": ("kv_spare_trigger", 0.10),
        "wva-v2": ("scale_up_threshold", 0.85),
        "slo-aware": ("threshold_up", 0.55),
        "dynamo-throughput": ("throughput_adjustment_interval_s", 180.0),
        "dynamo-load": ("load_scaling_down_sensitivity", 80.0),
        "ray-serve": ("target_ongoing_requests", 2.0),
        "ray-serve-llm": ("ttft_target_s", 2.0),
        "kubeai": ("time_window_s", 600.0),
        "enova": ("pending_threshold", 50.0),
    }
    assert {name: getattr(by_name[name].settings, field) for name, (field, _) in told.items()} == {
        name: value for name, (_, value) in told.items()
    }


def test_no_opponent_keeps_a_standby():
    """Without load none asks for more than there is."""
    for factory, count in product(ALL, (1, 3)):
        policy = factory()
        state, there = policy.start(known()), Fleet(count, 0)
        for place in range(40):
            now_s = place * policy.interval_s
            idle = tuple(sample(f"r{n}") for n in range(there.serving))
            wish, state = policy.decide(scrape(now_s, idle), there, state, now_s)
            assert wish.replicas <= count
            there = Fleet(wish.replicas, 0)
