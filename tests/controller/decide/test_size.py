"""Replicas from forecast and queue: worked examples, and what must hold for any."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decide.carried import PLACES, Carried, place_of
from controller.decide.size import (
    IN_ROOM,
    WORK_OFF_S,
    Need,
    backlog,
    in_room,
    replicas_for,
    size,
    work_off,
)
from controller.decide.types import Reason
from tests.controller.builders import a_demand

loads = st.floats(0.0, 500.0)
queues = st.floats(0.0, 100.0)
ratios = st.floats(0.6, 3.0)
counts = st.integers(1, 40)


def sized(need: Need, serving: int) -> tuple[int, Reason]:
    return size(need, serving, need.replicas(need.room))


def a_need(load: float, queue: float = 0.0, carried: float = 1.0, **changes: Any) -> Need:
    """One load is certain, and a replica that has more than it carries misses all."""
    places = np.arange(PLACES)
    missed = tuple(float(place > place_of(carried)) for place in places)
    known = Carried(ratio=carried, missed_ratios=missed)
    return Need((load,), load, queue, known, allowed=0.01, **changes)


@pytest.mark.parametrize(
    ("forecast", "queue", "serving", "wanted", "reason"),
    [
        (0.98, 0.0, 1, 1, Reason.STEADY),
        (1.0, 0.0, 1, 1, Reason.STEADY),  # just full is not too much
        (1.02, 0.0, 1, 2, Reason.DEMAND_RISING),
        (5.0, 0.0, 1, 5, Reason.DEMAND_RISING),
        (0.75, 0.5, 1, 2, Reason.BACKLOG),
        (1.02, 5.0, 1, 7, Reason.DEMAND_RISING),
        (0.85, 0.0, 2, 2, Reason.STEADY),  # one would carry it, without room to spare
        (0.79, 0.0, 2, 1, Reason.DEMAND_FALLING),
        (0.0, 0.0, 3, 1, Reason.DEMAND_FALLING),
        (0.25, 0.75, 2, 2, Reason.STEADY),  # the queue keeps what it needs
    ],
)
def test_worked_examples_in_replicas_worth(
    forecast: float, queue: float, serving: int, wanted: int, reason: Reason
) -> None:
    assert sized(a_need(forecast, queue), serving) == (wanted, reason)


def test_what_a_replica_was_seen_to_carry_counts() -> None:
    assert sized(a_need(3.0, carried=1.5), 4) == (3, Reason.DEMAND_FALLING)
    assert sized(a_need(3.0, carried=0.75, before=0.75), 3) == (4, Reason.DEMAND_RISING)


def test_more_because_less_is_carried_than_was_thought_is_a_missed_objective() -> None:
    assert sized(a_need(3.0, carried=0.75, before=1.0), 3) == (4, Reason.SLO_MISSED)


def test_a_queue_is_worked_off_in_a_start_but_never_faster_than_that() -> None:
    assert work_off(120.0, 4.0, lead_s=30.0) == pytest.approx(1.0)
    assert work_off(4.0 * WORK_OFF_S, 4.0, lead_s=0.1) == pytest.approx(1.0)


@given(loads, loads, queues, ratios, counts)
def test_more_load_never_wants_fewer_replicas(
    low: float, more: float, queue: float, carried: float, serving: int
) -> None:
    less, _ = sized(a_need(low, queue, carried), serving)
    greater, _ = sized(a_need(low + more, queue, carried), serving)
    assert greater >= less


@given(loads, queues, ratios, counts)
def test_what_is_wanted_carries_the_forecast(
    forecast: float, queue: float, carried: float, serving: int
) -> None:
    wanted, _ = sized(a_need(forecast, queue, carried), serving)
    assert wanted * carried >= forecast * (1 - 1e-6) - 1e-6


@given(loads, ratios, counts)
def test_what_was_given_up_is_not_asked_back_by_the_same_load(
    forecast: float, carried: float, serving: int
) -> None:
    need = a_need(forecast, 0.0, carried)
    wanted, reason = sized(need, serving)
    again, _ = sized(need, wanted)
    assert again == wanted
    if reason is Reason.DEMAND_FALLING:  # those that remain have room to spare
        assert forecast <= wanted * carried * IN_ROOM * (1 + 1e-6) + 1e-6


def test_peaks_are_prepared_for_as_far_as_the_objective_asks() -> None:
    """A tenth of the time twice as much comes, which is 18 % of the requests: too much for one."""
    need = Need((1.0,) * 36 + (2.0,) * 4, 1.0, 0.0, Carried(), allowed=0.01)
    assert sized(need, 1) == (2, Reason.DEMAND_RISING)
    assert sized(replace(need, allowed=0.1), 1) == (1, Reason.STEADY)


def test_a_rise_that_is_under_way_is_prepared_for_whatever_came_before() -> None:
    assert sized(Need((1.0,) * 40, 4.0, 0.0, Carried(), allowed=0.01), 1)[0] == 4


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=40), queues)
def test_no_more_is_wanted_than_the_highest_load_takes(may_come: list[float], queue: float) -> None:
    need = Need(tuple(sorted(may_come)), 0.0, queue, Carried(), allowed=0.01)
    assert sized(need, 1)[0] <= replicas_for(max(may_come) + queue, 1.0)


@given(loads, ratios)
def test_at_least_one_replica_is_needed(load: float, carried: float) -> None:
    assert replicas_for(load, carried) >= 1


def test_rounding_noise_does_not_cost_a_replica() -> None:
    assert replicas_for(3 * 0.1, 0.1) == 3


def test_a_request_that_waits_for_the_next_step_is_no_backlog() -> None:
    assert backlog(a_demand(waiting=3.0), 3) == 0.0
    assert backlog(a_demand(waiting=5.0), 3) == 2.0
    assert backlog(a_demand(waiting=None), 3) == 0.0


@pytest.mark.parametrize(
    ("spent_ratio", "room"), [(0.0, 1.0), (0.1, 1.0), (0.3, 0.9), (0.5, IN_ROOM), (3.0, IN_ROOM)]
)
def test_who_hardly_misses_may_be_filled_further(spent_ratio: float, room: float) -> None:
    assert in_room(spent_ratio) == pytest.approx(room)
    need = a_need(2.85, room=room)
    assert sized(need, 4)[0] == (3 if room > 0.95 else 4)
