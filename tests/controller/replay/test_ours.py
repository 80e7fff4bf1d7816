"""Our policy in a replay decides as the live loop does of the same observations."""

from controller.decide import State, decide
from controller.observation import Observation, Phase
from controller.replay.ours import Memory, Ours, ours, service_of
from controller.replay.policy import Fleet, ReplicaSample, Scrape, Wish
from controller.replay.run import replay
from controller.replay.terms import FailedStarts, NodeLoss, Span
from controller.service import Service
from tests.controller.replay.builders import a_trace, slow_served, some_terms, terms_with


class Recorded(Ours):
    """Keeps every observation and what came of it."""

    def __init__(self, service: Service, interval_s: float) -> None:
        super().__init__(service, interval_s)
        self.seen: list[tuple[Observation, float]] = []
        self.wishes: list[Wish] = []

    def observe(
        self, scrape: Scrape | None, fleet: Fleet, memory: Memory, now_s: float
    ) -> tuple[Observation, Memory]:
        seen, after = super().observe(scrape, fleet, memory, now_s)
        self.seen.append((seen, now_s))
        return seen, after

    def decide(
        self, scrape: Scrape | None, fleet: Fleet, state: Memory, now_s: float
    ) -> tuple[Wish, Memory]:
        wish, after = super().decide(scrape, fleet, state, now_s)
        self.wishes.append(wish)
        return wish, after


def test_the_same_observations_give_the_same_decisions_as_the_loop_s_own_calls():
    terms = terms_with(
        some_terms(scrape_s=1.0, replicas_per_node=1),
        node_losses=(NodeLoss(70.0, 0),),
        failed_starts=(FailedStarts(Span(20, 40)),),
        missed_scrapes=(Span(50, 60),),
    )
    policy = Recorded(service_of(slow_served(), terms), 1.0)
    outcome = replay(a_trace(rate_rps=40, duration_s=150), slow_served(), policy, terms)
    assert outcome.scale_ups > 0
    state, told = State(), []
    for seen, now_s in policy.seen:
        decision, state = decide(seen, state, now_s)
        told.append(decision.message)
    assert told == [wish.reason for wish in policy.wishes]


def test_it_follows_the_load_up_and_down():
    trace, terms = a_trace(rate_rps=40, duration_s=200), some_terms(until_s=500.0)
    outcome = replay(trace, slow_served(), ours(slow_served(), terms, 5.0), terms)
    assert outcome.peak_replicas >= 3
    assert outcome.changes[-1].after == 1
    assert "demand" in outcome.changes[-1].reason


def test_scrapes_of_fifteen_seconds_are_enough_to_decide_on():
    trace, terms = a_trace(rate_rps=40, duration_s=200), some_terms(scrape_s=15.0)
    outcome = replay(trace, slow_served(), ours(slow_served(), terms), terms)
    assert outcome.peak_replicas >= 3


def test_it_holds_while_scrapes_are_missed():
    terms = terms_with(missed_scrapes=(Span(0, 1e9),))
    outcome = replay(a_trace(rate_rps=40), slow_served(), ours(slow_served(), terms, 5.0), terms)
    assert outcome.changes == ()


def shown(*, replicas: int = 1, at_s: float = 5.0, waiting: float = 0.0) -> Scrape:
    samples = tuple(ReplicaSample(f"r{i}", 1.0, waiting, 0.1) for i in range(replicas))
    return Scrape(at_s, 5.0, samples, 10, 0, 0, 0, (0.1,), (), (), (), ())


def watching() -> tuple[Ours, Memory]:
    policy = ours(slow_served(), some_terms(), 5.0)
    return policy, policy.start(slow_served().known(some_terms()))


def test_a_replica_that_is_missing_has_failed():
    policy, memory = watching()
    _, memory = policy.observe(shown(replicas=2), Fleet(2, 0), memory, 5.0)
    seen, memory = policy.observe(shown(at_s=10.0), Fleet(1, 0), memory, 10.0)
    (failed,) = (s.replica for s in seen.sightings if s.replica.phase is Phase.FAILED)
    assert failed.ready_s is not None
    seen, _ = policy.observe(shown(at_s=15.0), Fleet(1, 0), memory, 15.0)
    assert seen.count(Phase.FAILED) == 0


def test_a_start_that_is_missing_failed_before_it_was_ready():
    policy, memory = watching()
    _, memory = policy.observe(shown(), Fleet(1, 1), memory, 5.0)
    seen, _ = policy.observe(shown(at_s=10.0), Fleet(1, 0), memory, 10.0)
    (failed,) = (s.replica for s in seen.sightings if s.replica.phase is Phase.FAILED)
    assert failed.ready_s is None


def test_starts_are_timed():
    policy, memory = watching()
    _, memory = policy.observe(shown(), Fleet(1, 1), memory, 5.0)
    seen, _ = policy.observe(shown(replicas=2, at_s=30.0), Fleet(2, 0), memory, 30.0)
    assert seen.start_up_s == 25.0


def test_arrivals_count_once_per_scrape_and_a_silent_replica_leaves_demand_unknown():
    policy, memory = watching()
    _, memory = policy.observe(None, Fleet(2, 0), memory, 0.0)
    seen, memory = policy.observe(shown(replicas=2), Fleet(2, 0), memory, 5.0)
    assert seen.demand.arrival_rps == 2.0
    seen, memory = policy.observe(shown(replicas=2), Fleet(2, 0), memory, 6.0)
    assert seen.demand.arrival_rps is None
    assert seen.demand.waiting == 0.0
    seen, _ = policy.observe(shown(replicas=1, at_s=10.0), Fleet(2, 0), memory, 10.0)
    assert seen.demand.waiting is None


def test_standbys_are_none_for_the_terms_are_equal():
    policy, _ = watching()
    assert policy.service.standbys == 0
