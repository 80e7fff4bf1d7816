"""Replicas from forecast and queue: worked examples, and what must hold for any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decide.size import (
    IN_ROOM,
    SETTLE_S,
    WORK_OFF_S,
    backlog,
    misses_slo,
    replicas_for,
    size,
)
from controller.decide.types import Reason
from tests.controller.builders import a_demand, an_observation

rates = st.floats(0.0, 500.0)
capacities = st.floats(0.1, 50.0)
counts = st.integers(1, 40)


@pytest.mark.parametrize(
    ("forecast_rps", "queued", "serving", "wanted", "reason"),
    [
        (3.9, 0.0, 1, 1, Reason.STEADY),
        (4.0, 0.0, 1, 1, Reason.STEADY),  # just full is not too much
        (4.1, 0.0, 1, 2, Reason.DEMAND_RISING),
        (20.0, 0.0, 1, 5, Reason.DEMAND_RISING),
        (3.0, 60.0, 1, 2, Reason.BACKLOG),  # 60 requests within 30 s: 2 req/s more
        (4.1, 600.0, 1, 7, Reason.DEMAND_RISING),
        (3.5, 0.0, 2, 2, Reason.STEADY),  # one would carry it, without room to spare
        (3.3, 0.0, 2, 1, Reason.DEMAND_FALLING),
        (0.0, 0.0, 3, 1, Reason.DEMAND_FALLING),
        (1.0, 90.0, 2, 2, Reason.STEADY),  # the queue keeps what it needs
    ],
)
def test_worked_examples_at_four_requests_a_second_each(
    forecast_rps: float, queued: float, serving: int, wanted: int, reason: Reason
) -> None:
    assert size(forecast_rps, queued, 4.0, serving, 30.0) == (wanted, reason)


def test_a_queue_gets_at_least_the_work_off_time_however_short_a_start_is() -> None:
    assert size(0.0, 4.0 * WORK_OFF_S, 4.0, 1, lead_s=0.1) == (1, Reason.STEADY)
    assert size(0.0, 4.2 * WORK_OFF_S, 4.0, 1, lead_s=0.1) == (2, Reason.BACKLOG)


@given(rates, rates, st.floats(0.0, 500.0), capacities, counts)
def test_more_load_never_wants_fewer_replicas(
    low_rps: float, more_rps: float, queued: float, capacity_rps: float, serving: int
) -> None:
    less, _ = size(low_rps, queued, capacity_rps, serving, 30.0)
    more, _ = size(low_rps + more_rps, queued, capacity_rps, serving, 30.0)
    assert more >= less


@given(rates, st.floats(0.0, 500.0), capacities, counts)
def test_what_is_wanted_carries_the_forecast(
    forecast_rps: float, queued: float, capacity_rps: float, serving: int
) -> None:
    wanted, _ = size(forecast_rps, queued, capacity_rps, serving, 30.0)
    assert wanted * capacity_rps >= forecast_rps * (1 - 1e-6) - 1e-6


@given(rates, capacities, counts)
def test_what_was_given_up_is_not_asked_back_by_the_same_load(
    forecast_rps: float, capacity_rps: float, serving: int
) -> None:
    wanted, reason = size(forecast_rps, 0.0, capacity_rps, serving, 30.0)
    again, _ = size(forecast_rps, 0.0, capacity_rps, wanted, 30.0)
    assert again == wanted
    if reason is Reason.DEMAND_FALLING:  # those that remain have room to spare
        assert forecast_rps <= wanted * capacity_rps * IN_ROOM * (1 + 1e-6) + 1e-6


@given(rates, capacities)
def test_at_least_one_replica_is_needed(rate_rps: float, capacity_rps: float) -> None:
    assert replicas_for(rate_rps, capacity_rps) >= 1


def test_rounding_noise_does_not_cost_a_replica() -> None:
    assert replicas_for(3 * 0.1, 0.1) == 3


def test_a_request_that_waits_for_the_next_step_is_no_backlog() -> None:
    assert backlog(a_demand(waiting=3.0), 3) == 0.0
    assert backlog(a_demand(waiting=5.0), 3) == 2.0
    assert backlog(a_demand(waiting=None), 3) == 0.0


def test_a_miss_asks_for_more_only_when_busy_and_settled() -> None:
    seen = an_observation("S", demand=a_demand(attained=0.5))
    assert misses_slo(seen, 3.0, since_rise_s=SETTLE_S + 1)
    assert not misses_slo(seen, 3.0, since_rise_s=SETTLE_S)
    assert not misses_slo(seen, 1.9, since_rise_s=SETTLE_S + 1)  # idle: load is not the cause
    for attained in (0.96, None):
        kept = an_observation("S", demand=a_demand(attained=attained))
        assert not misses_slo(kept, 3.0, since_rise_s=SETTLE_S + 1)


def test_a_miss_waits_for_a_start_that_takes_longer() -> None:
    seen = an_observation("S", demand=a_demand(attained=0.5), start_up_s=200.0)
    assert not misses_slo(seen, 3.0, since_rise_s=150.0)
    assert misses_slo(seen, 3.0, since_rise_s=201.0)
