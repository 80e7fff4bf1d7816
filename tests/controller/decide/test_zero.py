"""To none and back: only what is known to be quiet goes to sleep, and a request wakes it."""

from dataclasses import replace

from controller.decide import Decision, Drain, Reason, Start, State, decide
from controller.observation import Load, Observation
from controller.service import Bounds
from tests.controller.builders import BLIND, a_demand, a_service, a_state, an_observation

AFTER_S = 100.0


def observed(fleet: str, *, running: float = 0.0, **demand: float) -> Observation:
    service = a_service(bounds=Bounds(1, 5, zero_after_s=AFTER_S), standbys=0)
    told = replace(a_demand(0.0), **{"held": 0.0, **demand})
    seen = an_observation(fleet, service=service, demand=told)
    load = Load(running, 0.0, 0.0, 10.0)
    sightings = tuple(replace(s, load=load if s.load else None) for s in seen.sightings)
    return replace(seen, sightings=sightings)


def over(seen: Observation, seconds: int, state: State, from_s: float = 0.0) -> Decision:
    for second in range(seconds):
        decision, state = decide(seen, state, from_s + second)
    return decision


def test_a_service_that_nobody_asks_goes_to_sleep() -> None:
    seen = observed("S")
    assert over(seen, int(AFTER_S), a_state(1)).serving == 1
    last = over(seen, int(AFTER_S) + 2, a_state(1))
    assert (last.serving, last.reason) == (0, Reason.IDLE)
    assert [type(action) for action in last.actions] == [Drain]


def test_it_stays_asleep_while_nobody_asks() -> None:
    asleep = over(observed(""), 500, a_state(0, busy_s=-1000.0))
    assert (asleep.serving, asleep.standby, asleep.actions) == (0, 0, ())


def test_a_request_at_the_router_wakes_it() -> None:
    decision, state = decide(observed("", held=2.0), a_state(0, busy_s=-1000.0), 0.0)
    assert (decision.serving, decision.actions) == (1, (Start(1),))
    assert decision.reasons[0] is Reason.WOKEN
    # the request may give up meanwhile: the start goes on
    waiting, state = decide(observed("s"), state, 1.0)
    assert (waiting.serving, waiting.actions) == (1, ())


def test_what_is_not_known_is_not_idle() -> None:
    blind = replace(observed("S"), demand=BLIND)
    assert over(blind, 300, a_state(1)).serving == 1


def test_a_long_answer_under_way_is_not_idle() -> None:
    assert over(observed("S", running=1.0), 300, a_state(1)).serving == 1


def test_requests_that_come_are_not_idle() -> None:
    assert over(observed("S", arrival_rps=0.01), 300, a_state(1)).serving == 1


def test_a_service_without_the_wish_keeps_its_minimum() -> None:
    service = a_service(bounds=Bounds(1, 5), standbys=0)
    assert over(replace(observed("S"), service=service), 300, a_state(1)).serving == 1


def test_a_standby_that_was_still_starting_does_not_wake_it() -> None:
    decision, _ = decide(observed("ds"), a_state(0, busy_s=-1000.0), 0.0)
    assert (decision.serving, decision.reason) == (0, Reason.IDLE)


def test_a_first_start_may_take_longer_than_the_idle_time() -> None:
    assert over(observed("s"), 500, State()).serving == 1
