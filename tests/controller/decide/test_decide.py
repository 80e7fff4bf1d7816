"""The whole decision: count, reasons and actions of one observation."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.llmservice import ScalingMode
from controller.decide import (
    Admit,
    Decision,
    Drain,
    Reason,
    Remove,
    Start,
    State,
    Withdraw,
    decide,
)
from controller.decide.forecast import LEAST_KNOWN_S
from controller.decide.history import History
from controller.decide.protect import REPLACE_EVERY_S
from controller.decide.stabilise import scale_in_window_s
from controller.observation import Demand, Observation, Phase, ReplicaId, Sighting
from controller.service import Bounds
from tests.controller.builders import (
    BLIND,
    a_demand,
    a_fleet,
    a_service,
    a_sighting,
    a_state,
    an_observation,
)

WINDOW_S = scale_in_window_s(30.0, 5.0)
"""At the builders' start-up time, with samples of five seconds."""


def history(*loads: float, until_s: float = 0.0, every_s: float = 1.0, serving: int = 1) -> History:
    """One sample after the other, the last at `until_s`; loads in replicas' worth."""
    seen = History()
    for i, load in enumerate(loads):
        seen = seen.seen(load, every_s, serving, until_s - every_s * (len(loads) - 1 - i))
    return seen


def warm(seen: Observation, state: State, now_s: float) -> State:
    """The state after half a minute of the arrivals that are seen: a level, not an accident."""
    rate_rps = seen.demand.arrival_rps
    if rate_rps is None:
        return state
    load, serving = rate_rps / seen.capacity_rps, seen.count(Phase.SERVING)
    return replace(state, history=history(*[load] * 30, until_s=now_s - 1.0, serving=serving))


def first(seen: Observation, state: State, now_s: float) -> tuple[Decision, State]:
    """Decide on what has been seen for ten seconds."""
    return decide(seen, warm(seen, state, now_s), now_s)


def decided(fleet: str = "Sb", state: State | None = None, **changes: Any) -> Decision:
    return first(an_observation(fleet, **changes), state or a_state(), 1000.0)[0]


def driven(seen: Observation, state: State, seconds: int, start_s: float = 0.0) -> list[Decision]:
    """Decide each second on the same observation."""
    made, state = [], warm(seen, state, start_s)
    for second in range(seconds):
        decision, state = decide(seen, state, start_s + second)
        made.append(decision)
    return made


def test_steady_load_is_steady() -> None:
    decision = decided()
    assert (decision.serving, decision.standby, decision.actions) == (1, 1, ())
    assert decision.reasons == (Reason.STEADY,)


def test_rising_demand_raises_the_count_and_admits_the_standby_at_once() -> None:
    decision = decided(demand=a_demand(6.0))
    assert decision.serving == 2
    assert decision.reasons == (Reason.DEMAND_RISING, Reason.STANDBY_RESTORED)
    assert decision.actions == (Admit(an_observation().ids(Phase.STANDBY)[0]), Start(1))


def test_a_few_seconds_are_no_level_to_scale_by() -> None:
    seen = an_observation("SSb", demand=a_demand(100.0))
    made, state = [], a_state(2)
    for second in range(int(LEAST_KNOWN_S)):
        decision, state = decide(seen, state, float(second))
        made.append(decision.serving)
    assert made == [2] * (int(LEAST_KNOWN_S) - 1) + [5]


def test_one_scrape_of_many_seconds_is_a_level() -> None:
    demand = replace(a_demand(100.0), over_s=15.0)
    decision, _ = decide(an_observation("SSb", demand=demand), a_state(2), 0.0)
    assert decision.serving == 5


@pytest.mark.parametrize("seconds", [1, 5, 120])
def test_missing_data_holds_and_never_scales_in(seconds: int) -> None:
    """dynamo PR 14575: an outage of the signals was read as no load."""
    seen = an_observation("SSSb", demand=BLIND)
    made = driven(seen, a_state(3), seconds)
    assert {(d.serving, d.reasons, d.actions) for d in made} == {(3, (Reason.NO_DATA,), ())}


def test_an_unknown_queue_holds_though_arrivals_are_known() -> None:
    decision = decided("SSb", a_state(2), demand=a_demand(0.0, waiting=None))
    assert (decision.serving, decision.reasons) == (2, (Reason.NO_DATA,))
    assert decision.numbers.backlog_requests is None


def test_a_failure_is_mended_though_no_data_comes() -> None:
    decision = decided("FSb", a_state(2), demand=BLIND)
    assert decision.serving == 2
    assert [type(action) for action in decision.actions] == [Admit, Remove, Start]
    assert decision.reasons[:2] == (Reason.NO_DATA, Reason.REPLICA_FAILED)


def test_missing_data_holds_within_bounds_that_were_lowered() -> None:
    service = a_service(bounds=Bounds(1, 2))
    decision = decided("SSSb", a_state(3), service=service, demand=BLIND)
    assert (decision.serving, decision.reasons) == (2, (Reason.NO_DATA, Reason.AT_MAXIMUM))


def test_a_controller_that_restarts_does_not_shrink_on_its_first_scrape() -> None:
    seen = an_observation("SSSSb", demand=a_demand(1.0))
    made = driven(seen, State(serving=4), int(WINDOW_S) + 2)
    assert {d.serving for d in made[: int(WINDOW_S)]} == {4}
    assert made[0].reasons == (Reason.DEMAND_FALLING, Reason.COOLING_DOWN)
    assert made[-1].serving == 1


def test_an_outage_longer_than_the_window_is_no_reason_to_shrink_after_it() -> None:
    busy = an_observation("SSSSb", demand=a_demand(12.0))
    _, state = first(busy, a_state(4), 0.0)
    after_s = 3 * WINDOW_S
    back = replace(busy, demand=a_demand(1.0))
    decision, _ = first(back, state, after_s)
    assert (decision.serving, decision.reason) == (4, Reason.COOLING_DOWN)


def test_scale_in_withdraws_into_the_standby_that_is_missing() -> None:
    seen = an_observation("SS", demand=a_demand(1.0))
    last = driven(seen, a_state(2), int(WINDOW_S) + 2)[-1]
    assert last.serving == 1
    assert last.actions == (Withdraw(seen.ids(Phase.SERVING)[1]),)


def test_fixed_replicas_stay_whatever_the_load() -> None:
    service = a_service(bounds=Bounds(2, 2))
    for demand in (a_demand(100.0), a_demand(0.0), BLIND):
        decision = decided("SSb", a_state(2), service=service, demand=demand)
        assert (decision.serving, decision.reasons) == (2, (Reason.FIXED_REPLICAS,))
        assert decision.actions == ()


def test_fixed_replicas_keep_their_protection() -> None:
    service = a_service(bounds=Bounds(2, 2))
    decision = decided("FSb", a_state(2), service=service)
    assert [type(action) for action in decision.actions] == [Admit, Remove, Start]


def test_no_standby_is_kept_where_none_is_asked_for() -> None:
    decision = decided("Sb", service=a_service(standbys=0))
    assert (decision.serving, decision.standby) == (1, 0)
    assert decision.actions == (Remove(an_observation("Sb").ids(Phase.STANDBY)[0]),)


def test_zero_replicas_keep_no_standby_either() -> None:
    decision = decided("Sbs", service=a_service(bounds=Bounds(0, 0), standbys=2))
    assert (decision.serving, decision.standby) == (0, 0)
    assert [type(action) for action in decision.actions] == [Remove, Remove, Drain]


def test_a_service_switched_from_fixed_to_scaled_is_scaled() -> None:
    """kserve 5196: switching autoscalers got stuck."""
    fixed = an_observation("", service=a_service(bounds=Bounds(0, 0)), demand=BLIND)
    _, state = decide(fixed, State(), 0.0)
    decision, _ = decide(an_observation("", demand=BLIND), state, 1.0)
    assert decision.serving == 1
    assert decision.actions == (Start(2),)


def test_demand_beyond_the_maximum_is_told_as_such() -> None:
    decision = decided("SSSSSb", a_state(5), demand=a_demand(100.0))
    assert (decision.serving, decision.reason) == (5, Reason.AT_MAXIMUM)
    assert decision.actions == ()


def test_the_first_decision_starts_the_minimum_and_its_standbys() -> None:
    service = a_service(bounds=Bounds(2, 5))
    decision = decided("", State(), service=service, demand=BLIND)
    assert decision.actions == (Start(3),)


def ending(seen: Observation, ended: float, missed: float) -> Observation:
    return replace(seen, demand=replace(seen.demand, ended=ended, missed=missed))


class TestMissedSlo:
    """The model sees room, the requests say otherwise: it may be wrong."""

    seen = an_observation("Sb", demand=a_demand(3.0))

    def driven(self, seen: Observation, seconds: int, serving: int = 1) -> list[Decision]:
        load = 3.0 / 4.0
        past = history(*[load] * 200, until_s=-1.0, serving=serving)
        made, state = [], a_state(serving, history=past)
        for second in range(seconds):
            decision, state = decide(seen, state, float(second))
            made.append(decision)
        return made

    def test_more_are_asked_for_and_the_reason_is_told(self) -> None:
        made = self.driven(ending(self.seen, 3.0, 1.5), 120)
        assert made[0].serving == 1
        assert made[-1].serving == 2
        assert any(Reason.SLO_MISSED in decision.reasons for decision in made)
        assert made[-1].numbers.carried_ratio < 1.0
        assert made[-1].numbers.capacity_rps == 4.0 * made[-1].numbers.carried_ratio

    def test_what_keeps_the_objective_asks_for_nothing(self) -> None:
        made = self.driven(ending(self.seen, 3.0, 0.0), 120)
        assert {decision.serving for decision in made} == {1}

    def test_nothing_is_learnt_of_what_is_no_number(self) -> None:
        for ended, missed in ((float("nan"), 0.0), (3.0, float("nan")), (-3.0, -1.0), (3.0, 9.0)):
            made = self.driven(ending(self.seen, ended, missed), 60)
            assert {decision.numbers.carried_ratio for decision in made} == {1.0}

    @pytest.mark.parametrize(("waiting", "blamed"), [(60.0, False), (0.0, True)])
    def test_who_waited_in_a_queue_misses_for_the_load_that_caused_it(
        self, waiting: float, blamed: bool
    ) -> None:
        """Three more replicas came; the queue of before is worked off under a load they carry."""
        seen = ending(an_observation("SSSSb", demand=a_demand(9.0, waiting)), 9.0, 5.0)
        state = a_state(4, history=history(*[9.0 / 4.0] * 200, until_s=-1.0, serving=1))
        for second in range(240):
            decision, state = decide(seen, state, float(second))
        assert decision.numbers.carried_ratio is not None
        assert (decision.numbers.carried_ratio < 0.8) is blamed

    def test_a_few_scrapes_that_came_through_give_nothing_up(self) -> None:
        """Each tells of ten quiet seconds; of the minutes between them nobody knows."""
        seen = an_observation("SSSSb", demand=replace(a_demand(1.0), over_s=10.0))
        quiet = history(*[0.25] * 600, until_s=-600.0, serving=4)
        window_s, state = scale_in_window_s(seen.start_up_s, 10.0), a_state(4, history=quiet)
        for share in (0.0, 0.6, 1.1, 1.6):
            decision, state = decide(seen, state, share * window_s)
            assert decision.serving == 4

    def test_a_queue_that_is_gone_excuses_nothing(self) -> None:
        seen = ending(an_observation("SSSSb", demand=a_demand(9.0, 60.0)), 9.0, 5.0)
        state = a_state(4, history=history(*[9.0 / 4.0] * 200, until_s=-1.0, serving=1))
        _, queued = decide(seen, state, 0.0)
        assert queued.queued_s == 0.0
        assert decide(seen, queued, 5.0)[1].queued_s == 0.0
        unknown = replace(seen, demand=BLIND)
        assert decide(unknown, queued, 5.0)[1].queued_s == 0.0
        gone = ending(an_observation("SSSSb", demand=a_demand(9.0, 0.0)), 9.0, 5.0)
        assert decide(gone, queued, 5.0)[1].queued_s == 0.0  # older engines may still work it off
        assert decide(gone, queued, 65.0)[1].queued_s is None

    def test_an_unreachable_objective_pins_nothing_and_is_told(self) -> None:
        """dynamo PR 11624: an unreachable TTFT pinned the floor."""
        idle = an_observation("SSSSSb", demand=a_demand(3.0))
        made = self.driven(ending(idle, 3.0, 3.0), 300, serving=5)
        assert made[-1].serving == 1
        assert any(Reason.OUT_OF_REACH in decision.reasons for decision in made)


class TestModes:
    seen = an_observation("SSb", demand=a_demand(18.0))

    def in_mode(self, mode: ScalingMode, **changes: Any) -> Decision:
        service = a_service(bounds=Bounds(1, 9, mode=mode))
        return first(replace(self.seen, service=service, **changes), a_state(2), 1000.0)[0]

    def test_advice_is_published_and_nothing_is_scaled(self) -> None:
        decision = self.in_mode(ScalingMode.ADVISE)
        assert (decision.serving, decision.advised, decision.actions) == (2, 6, ())
        assert Reason.ADVISED in decision.reasons
        assert "2 serving + 1 standby, 6 advised: " in decision.message

    def test_by_hand_there_is_no_advice_either(self) -> None:
        decision = self.in_mode(ScalingMode.MANUAL)
        assert (decision.serving, decision.advised, decision.actions) == (2, None, ())
        assert decision.reasons == (Reason.MANUAL,)

    @pytest.mark.parametrize("mode", [ScalingMode.ADVISE, ScalingMode.MANUAL])
    def test_protection_goes_on(self, mode: ScalingMode) -> None:
        decision = self.in_mode(mode, sightings=a_fleet("FSb"))
        assert [type(action) for action in decision.actions] == [Admit, Remove, Start]


class TestUnfit:
    """A replica that serves and is better replaced: a new one first, one at a time."""

    def seen(self, fleet: str, unfit: str) -> Observation:
        seen = an_observation(fleet, demand=a_demand(4.0), service=a_service(standbys=0))
        sightings = tuple(replace(s, unfit=s.replica.id in unfit) for s in seen.sightings)
        return replace(seen, sightings=sightings)

    def test_its_successor_is_started_before_it_goes(self) -> None:
        before, state = first(self.seen("SS", "S0"), a_state(2), 1000.0)
        assert before.actions == (Start(1),)
        after, _ = decide(self.seen("SSb", "S0"), state, 1001.0)
        assert after.actions == (Admit(ids("b2")[0]), Drain(ids("S0")[0]))
        assert Reason.REPLICA_UNFIT in after.reasons
        assert Reason.ROLLING_OUT not in after.reasons

    def test_the_next_one_waits(self) -> None:
        _, state = first(self.seen("SS", "S0 S1"), a_state(2), 1000.0)
        gone, state = decide(self.seen("bS", "S1"), state, 1010.0)
        assert gone.actions == (Admit(ids("b0")[0]),)
        later, _ = first(self.seen("SS", "S1"), state, 1000.0 + REPLACE_EVERY_S)
        assert later.actions == (Start(1),)


def ids(*names: str) -> tuple[ReplicaId, ...]:
    return tuple(ReplicaId(name) for name in names)


def test_the_message_holds_the_numbers() -> None:
    decision = decided(demand=a_demand(6.0, waiting=21.0))
    assert decision.message == (
        "2 serving + 1 standby: demand rises above what the serving replicas carry; "
        "a new standby is started "
        "(6.90 req/s forecast over 30 s, 4.00 req/s a replica, 20 waiting)"
    )
    assert (decision.numbers.arrival_rps, decision.numbers.capacity_rps) == (6.0, 4.0)


def test_the_message_without_numbers_says_that_it_holds() -> None:
    assert decided(demand=BLIND).message == "1 serving + 1 standby: no fresh signals: holding"


class TestReplicasThatFailBeforeTheyAreReady:
    """kaito 1178: a start that cannot succeed was tried again at once, forever."""

    def test_the_next_start_waits_and_the_pause_doubles(self) -> None:
        state, pauses = a_state(1), []
        now_s = 1000.0
        for _ in range(9):
            failed = an_observation("Sf", demand=BLIND)
            failed = replace(failed, sightings=(failed.sightings[0], a_failure(now_s)))
            decision, state = decide(failed, state, now_s)
            assert decision.reasons[-1] is Reason.BACKING_OFF
            assert Start(1) not in decision.actions
            pauses.append(state.start_after_s - now_s)
            now_s = state.start_after_s
            decision, state = decide(an_observation("S", demand=BLIND), state, now_s)
            assert Start(1) in decision.actions
        assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]

    def test_one_failure_seen_twice_is_counted_once(self) -> None:
        seen = an_observation("Sf", demand=BLIND)
        _, once = decide(seen, a_state(), 1000.0)
        _, twice = decide(seen, once, 1000.5)
        assert (twice.failed_starts, twice.start_after_s) == (1, 1001.0)

    def test_a_replica_that_was_ready_all_along_clears_nothing(self) -> None:
        _, state = decide(an_observation("Sf", demand=BLIND), a_state(), 200.0)
        _, state = decide(an_observation("S", demand=BLIND), state, 200.5)
        assert state.failed_starts == 1

    def test_one_that_gets_ready_clears_it(self) -> None:
        _, state = decide(an_observation("Sf", demand=BLIND), a_state(), 100.0)
        decision, state = decide(an_observation("Sb", demand=BLIND), state, 150.0)
        assert (state.failed_starts, decision.actions) == (0, ())

    def test_a_crash_while_serving_is_replaced_without_delay(self) -> None:
        decision = decided("FSb", a_state(2), demand=BLIND)
        assert Start(1) in decision.actions

    def test_failover_goes_on_while_starts_wait(self) -> None:
        state = a_state(2, failed_starts=5, failed_s=999.0, start_after_s=2000.0)
        decision = decided("FSb", state, demand=BLIND)
        assert [type(action) for action in decision.actions] == [Admit, Remove]
        assert decision.reasons[-1] is Reason.BACKING_OFF


def a_failure(at_s: float) -> Sighting:
    return a_sighting(f"f{at_s:g}", Phase.FAILED)


# -- properties over any observation ----------------------------------------------------

demands = st.builds(
    Demand,
    st.none() | st.floats(0.0, 100.0),
    st.none() | st.floats(0.0, 500.0),
    st.none() | st.floats(0.0, 1.0),
    st.floats(0.1, 60.0),
    st.floats(0.0, 100.0),
    st.floats(0.0, 100.0),
)
bounds = st.builds(lambda low, more: Bounds(low, low + more), st.integers(0, 6), st.integers(0, 6))
observations = st.builds(
    lambda fleet, old, demand, limits, standbys, capacity_rps: an_observation(
        fleet,
        old=old,
        demand=demand,
        service=a_service(bounds=limits, standbys=standbys),
        capacity_rps=capacity_rps,
    ),
    st.text("SbspdFfW", max_size=8),
    st.text("SbspdFfW", max_size=4),
    demands,
    bounds,
    st.integers(0, 3),
    st.floats(0.2, 20.0),
)
histories = st.lists(st.floats(0.0, 100.0), max_size=30).map(
    lambda loads: history(*loads, until_s=-1.0, every_s=5.0)
)
states = st.builds(a_state, st.integers(0, 12), history=histories)


def touched(decision: Decision) -> list[str]:
    return [a.replica for a in decision.actions if not isinstance(a, Start)]


@given(observations, states)
def test_bounds_hold(seen: Observation, state: State) -> None:
    decision, after = decide(seen, state, 0.0)
    assert seen.service.bounds.low <= decision.serving <= seen.service.bounds.high
    assert after.serving == decision.serving


@given(observations, states)
def test_no_replica_is_in_two_actions_and_all_exist(seen: Observation, state: State) -> None:
    names = touched(decide(seen, state, 0.0)[0])
    assert len(names) == len(set(names))
    assert set(names) <= {s.replica.id for s in seen.sightings}


@given(observations, states)
def test_deciding_twice_is_deciding_once(seen: Observation, state: State) -> None:
    assert decide(seen, state, 0.0) == decide(seen, state, 0.0)


@given(observations, states)
def test_the_serving_count_is_reached_when_enough_are_ready(
    seen: Observation, state: State
) -> None:
    decision, _ = decide(seen, state, 0.0)
    gone = {a.replica for a in decision.actions if isinstance(a, Withdraw | Drain | Remove)}
    admitted = {a.replica for a in decision.actions if isinstance(a, Admit)}
    serving = set(seen.ids(Phase.SERVING)) - gone | admitted
    wedged = {s.replica.id for s in seen.sightings if s.wedged}
    able = set(seen.ids(Phase.SERVING, Phase.STANDBY)) - wedged
    assert len(serving) == min(decision.serving, len(able))


@given(observations, states)
def test_the_fleet_is_completed_and_never_beyond_what_was_decided(
    seen: Observation, state: State
) -> None:
    decision, _ = decide(seen, state, 0.0)
    gone = {a.replica for a in decision.actions if isinstance(a, Drain | Remove)}
    phases = (Phase.PENDING, Phase.STARTING, Phase.STANDBY, Phase.SERVING)
    left = set(seen.ids(*phases, stale=False)) - gone
    started = sum(a.count for a in decision.actions if isinstance(a, Start))
    wanted = decision.serving + decision.standby
    if Reason.BACKING_OFF in decision.reasons:
        assert (started, len(left) < wanted) == (0, True)
    else:
        assert len(left) + started == wanted


@given(observations, states)
def test_failed_and_wedged_replicas_are_always_removed(seen: Observation, state: State) -> None:
    decision, _ = decide(seen, state, 0.0)
    removed = {a.replica for a in decision.actions if isinstance(a, Remove)}
    wedged = {s.replica.id for s in seen.sightings if s.wedged}
    assert removed >= {*seen.ids(Phase.FAILED), *wedged}


@given(observations, states)
def test_only_what_never_serves_is_removed_without_draining(
    seen: Observation, state: State
) -> None:
    """kthena 1589: scaling down killed requests in flight."""
    decision, _ = decide(seen, state, 0.0)
    removed = {a.replica for a in decision.actions if isinstance(a, Remove)}
    sound = {s.replica.id for s in seen.sightings if not s.wedged}
    assert not removed & sound & set(seen.ids(Phase.SERVING))


@given(observations, states)
def test_blind_decisions_never_lower_the_count_within_bounds(
    seen: Observation, state: State
) -> None:
    decision, _ = decide(replace(seen, demand=BLIND), state, 0.0)
    if seen.service.bounds.automatic and state.serving:
        assert decision.serving >= min(state.serving, seen.service.bounds.high)


@given(observations, states)
def test_every_decision_says_why(seen: Observation, state: State) -> None:
    decision, _ = first(seen, state, 0.0)
    assert decision.reasons
    assert str(decision.serving) in decision.message
