"""What is known of a service: demand, start-up time, attainment, wedged engines, capacity."""

from dataclasses import replace

import pytest

from controller.capacity_book import CapacityBook, Lengths
from controller.observation import Observation, Phase, Replica, ReplicaId
from controller.observe import Observer
from controller.watched import ATTAINMENT_WINDOW_S, STALE_AFTER_S
from monitor import Reading
from monitor.detectors.wedged import WEDGED_AFTER_S
from profiler.slo import Slo
from profiler.surface import CapacitySurface
from tests.controller.builders import (
    a_histogram,
    a_reading,
    a_replica,
    a_service,
    some_signals,
)

R1, R2 = ReplicaId("r1"), ReplicaId("r2")
SERVING = (a_replica("r1"),)
BOTH = (a_replica("r1"), a_replica("r2"))


def observed(replicas: tuple[Replica, ...], *scrapes: dict[ReplicaId, Reading]) -> Observation:
    """Scrape once a second from 0 s on, and observe after the last."""
    observer = Observer(a_service())
    for second, readings in enumerate(scrapes):
        observer.read(readings, float(second))
    return observer.observe(replicas, float(len(scrapes) - 1))


def test_arrivals_are_those_that_ended_and_what_the_queue_grew_by() -> None:
    seen = observed(
        SERVING,
        {R1: a_reading(0.0, finished=10, waiting=1.0)},
        {R1: a_reading(1.0, finished=13, waiting=3.0, running=2.0)},
    )
    assert (seen.demand.arrival_rps, seen.demand.waiting) == (7.0, 3.0)


def test_demand_is_summed_over_replicas() -> None:
    seen = observed(
        BOTH,
        {R1: a_reading(0.0), R2: a_reading(0.0)},
        {R1: a_reading(1.0, finished=3, waiting=1.0), R2: a_reading(1.0, finished=2, waiting=4.0)},
    )
    assert (seen.demand.arrival_rps, seen.demand.waiting) == (10.0, 5.0)


def test_arrivals_count_once_a_scrape_while_the_queue_stays_known() -> None:
    observer = Observer(a_service())
    observer.read({R1: a_reading(0.0)}, 0.0)
    observer.read({R1: a_reading(1.0, finished=4, waiting=2.0)}, 1.0)
    first = observer.observe(SERVING, 1.0).demand
    again = observer.observe(SERVING, 1.5).demand
    assert (first.arrival_rps, again.arrival_rps) == (6.0, None)
    assert first.waiting == again.waiting == 2.0
    assert observer.arrival_rps == 6.0  # for people it stays


@pytest.mark.parametrize(
    "second",
    [
        {R1: a_reading(1.0, finished=3)},  # silent
        {R1: a_reading(1.0, finished=3), R2: Reading(None, 1.0, "no answer")},
        {R1: a_reading(1.0, finished=3), R2: a_reading(1.0, waiting=None)},
        {R1: a_reading(1.0, finished=3), R2: a_reading(1.0, requests_finished={"stop": -1.0})},
    ],
)
def test_a_serving_replica_without_a_comparable_reading_makes_demand_unknown(
    second: dict[ReplicaId, Reading],
) -> None:
    first = {R1: a_reading(0.0)}
    seen = observed(BOTH, first, second)
    assert (seen.demand.arrival_rps, seen.demand.waiting) == (None, None)


def test_a_reading_that_grew_old_is_no_reading() -> None:
    observer = Observer(a_service())
    observer.read({R1: a_reading(0.0)}, 0.0)
    observer.read({R1: a_reading(1.0, finished=4)}, 1.0)
    fresh = observer.observe(SERVING, 1.0 + STALE_AFTER_S)
    old = observer.observe(SERVING, 1.1 + STALE_AFTER_S)
    assert (fresh.demand.waiting, old.demand.waiting) == (0.0, None)
    assert (fresh.sightings[0].load is None, old.sightings[0].load) == (False, None)


def test_who_is_read_less_often_may_be_older() -> None:
    observer = Observer(a_service())
    observer.every(10.0)
    observer.read({R1: a_reading(0.0)}, 0.0)
    observer.read({R1: a_reading(10.0, finished=4)}, 10.0)
    assert observer.observe(SERVING, 35.0).demand.waiting == 0.0
    assert observer.observe(SERVING, 35.1).demand.waiting is None


def test_one_failed_scrape_does_not_hide_a_fresh_reading() -> None:
    """aibrix 617: one pod's metrics error blocked everything."""
    seen = observed(
        SERVING,
        {R1: a_reading(0.0)},
        {R1: a_reading(1.0, finished=4)},
        {R1: Reading(None, 2.0, "timeout")},
    )
    assert seen.demand.waiting == 0.0
    assert seen.sightings[0].load is not None


def test_a_restarted_engine_makes_arrivals_unknown() -> None:
    first = {R1: a_reading(0.0, finished=100)}
    second = {R1: a_reading(1.0, finished=3)}
    assert observed(SERVING, first, second).demand.arrival_rps is None


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.STARTING, Phase.STANDBY, Phase.FAILED])
def test_a_replica_that_does_not_serve_need_not_be_read(phase: Phase) -> None:
    replicas = (a_replica("r1"), a_replica("r2", phase))
    seen = observed(replicas, {R1: a_reading(0.0)}, {R1: a_reading(1.0, finished=4)})
    assert seen.demand.arrival_rps == 4.0


def test_a_draining_replica_still_counts_what_it_finishes() -> None:
    replicas = (a_replica("r1"), a_replica("r2", Phase.DRAINING))
    seen = observed(
        replicas,
        {R1: a_reading(0.0), R2: a_reading(0.0, running=3.0)},
        {R1: a_reading(1.0, finished=4), R2: a_reading(1.0, running=1.0, finished=2)},
    )
    assert seen.demand.arrival_rps == 4.0  # what it finished came earlier


@pytest.mark.parametrize("replicas", [(), (a_replica("r1", Phase.STANDBY),)])
def test_where_nothing_serves_demand_is_not_known(replicas: tuple[Replica, ...]) -> None:
    scrapes = [{r.id: a_reading(t, finished=t) for r in replicas} for t in (0.0, 1.0)]
    assert observed(replicas, *scrapes).demand.arrival_rps is None


# -- start-up ---------------------------------------------------------------------------


def test_start_up_is_the_profiles_until_a_start_was_seen() -> None:
    observer = Observer(a_service())
    coming = a_replica("r1", Phase.STARTING, created_s=10.0)
    assert observer.observe((coming,), 11.0).start_up_s == 30.0
    ready = replace(coming, phase=Phase.STANDBY, ready_s=22.0)
    assert observer.observe((ready,), 22.0).start_up_s == 12.0
    assert observer.observe((ready,), 99.0).start_up_s == 12.0


def test_start_up_is_the_median_of_the_last_starts() -> None:
    observer = Observer(a_service())
    for number, took_s in enumerate((5.0, 500.0, 6.0, 7.0, 8.0, 9.0, 10.0)):
        coming = a_replica(f"r{number}", Phase.PENDING, created_s=0.0)
        observer.observe((coming,), 0.0)
        observer.observe((replace(coming, phase=Phase.STANDBY, ready_s=took_s),), took_s)
    assert observer.start_up_s == 8.0


def test_a_replica_found_ready_tells_nothing_of_its_start() -> None:
    """After a restart of the controller `ready_s` may be when a probe last recovered."""
    observer = Observer(a_service())
    found = a_replica("r1", created_s=0.0, ready_s=7200.0)
    assert observer.observe((found,), 7201.0).start_up_s == 30.0
    flapping = replace(found, phase=Phase.STARTING, ready_s=None)
    observer.observe((flapping,), 8000.0)
    assert observer.observe((replace(found, ready_s=8001.0),), 8001.0).start_up_s == 30.0


# -- attainment -------------------------------------------------------------------------


def test_attainment_is_merged_over_replicas_by_their_requests() -> None:
    seen = observed(
        BOTH,
        {R1: a_reading(0.0), R2: a_reading(0.0)},
        {R1: a_reading(1.0, finished=30, good=30), R2: a_reading(1.0, finished=10, good=0)},
    )
    assert seen.demand.attained_ratio == pytest.approx(0.75)


def test_attainment_is_unknown_when_no_request_ended() -> None:
    first, second = {R1: a_reading(0.0, finished=5)}, {R1: a_reading(1.0, finished=5)}
    assert observed(SERVING, first, second).demand.attained_ratio is None


def test_attainment_forgets_what_ended_before_its_window() -> None:
    observer = Observer(a_service())
    late_s = ATTAINMENT_WINDOW_S + 10.0
    observer.read({R1: a_reading(0.0)}, 0.0)
    observer.read({R1: a_reading(9.9, finished=10, good=0)}, 9.9)
    observer.read({R1: a_reading(15.0, finished=10, good=0)}, 15.0)
    grown = some_signals(finished=20, ttft=a_histogram([2.0] * 10 + [0.5] * 10))
    observer.read({R1: Reading(grown, late_s)}, late_s)
    assert observer.observe(SERVING, late_s).demand.attained_ratio == 1.0


def test_a_replica_that_fell_silent_has_no_share_after_the_window() -> None:
    observer = Observer(a_service())
    observer.read({R1: a_reading(0.0)}, 0.0)
    observer.read({R1: a_reading(1.0, finished=10, good=0)}, 1.0)
    assert observer.observe(SERVING, 1.0).demand.attained_ratio == 0.0
    assert observer.observe(SERVING, 2.0 + ATTAINMENT_WINDOW_S).demand.attained_ratio is None


def test_latency_is_the_worst_replicas_at_the_percentile() -> None:
    observer = Observer(a_service())
    observer.read({R1: a_reading(0.0), R2: a_reading(0.0)}, 0.0)
    assert observer.latency(0.95) == (None, None)
    observer.read({R1: a_reading(1.0, finished=10), R2: a_reading(1.0, finished=10, good=0)}, 1.0)
    ttft_s, itl_s = observer.latency(0.95)
    assert ttft_s == 1.0  # the last finite bound: the least it can be
    assert itl_s is not None
    assert itl_s <= 0.05


# -- wedged engines ---------------------------------------------------------------------


def stuck(seconds: float, **signals: float) -> Observation:
    observer = Observer(a_service())
    at_s = 0.0
    while at_s <= seconds:
        observer.read({R1: a_reading(at_s, **signals)}, at_s)
        seen = observer.observe(SERVING, at_s)
        at_s += 1.0
    return seen


def test_an_engine_that_holds_requests_and_makes_no_tokens_is_wedged() -> None:
    """vllm 36960: /health answers 200 with a dead engine."""
    assert not stuck(WEDGED_AFTER_S, running=2.0).sightings[0].wedged
    assert stuck(WEDGED_AFTER_S + 2, running=2.0).sightings[0].wedged
    assert stuck(WEDGED_AFTER_S + 2, waiting=1.0).sightings[0].wedged


def test_an_idle_engine_is_never_wedged() -> None:
    assert not stuck(10 * WEDGED_AFTER_S).sightings[0].wedged


def test_an_engine_that_makes_tokens_again_is_not_wedged() -> None:
    observer = Observer(a_service())
    for second in range(int(WEDGED_AFTER_S) + 3):
        observer.read({R1: a_reading(float(second), running=1.0)}, float(second))
        observer.observe(SERVING, float(second))
    assert observer.observe(SERVING, WEDGED_AFTER_S + 2).sightings[0].wedged
    at_s = WEDGED_AFTER_S + 3
    observer.read({R1: a_reading(at_s, running=1.0, tokens=1.0)}, at_s)
    assert not observer.observe(SERVING, at_s).sightings[0].wedged


# -- capacity ---------------------------------------------------------------------------


def lengths(at_s: float, count: int, prompt: float, answer: float) -> Reading:
    return a_reading(
        at_s,
        finished=count,
        prompt_length=a_histogram([prompt] * count, bounds=(1e3, 1e5)),
        generation_length=a_histogram([answer] * count, bounds=(1e3, 1e5)),
    )


def rate_rps(
    book: CapacityBook, prompt: float, answer: float, cv: float = 1.0, serving: int = 1
) -> float:
    """For many requests of these lengths."""
    return book.rate_rps(Lengths(1e6, prompt, answer), cv, serving)


def test_planned_lengths_carry_what_was_planned() -> None:
    assert rate_rps(CapacityBook(a_service()), 128.0, 32.0) == pytest.approx(4.0, rel=0.05)


def test_longer_requests_carry_less() -> None:
    book = CapacityBook(a_service())
    rates = [rate_rps(book, prompt, 200.0) for prompt in (250.0, 500.0, 1000.0, 2000.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.3 * rates[-1]


def test_a_handful_of_requests_says_little() -> None:
    book = CapacityBook(a_service())
    few = book.rate_rps(Lengths(2.0, 2000.0, 200.0), 1.0)
    assert rate_rps(book, 2000.0, 200.0) < 0.7 * few


def test_bursts_cost_capacity_and_are_shared_out_over_the_replicas_that_serve() -> None:
    book = CapacityBook(a_service())
    assert rate_rps(book, 1000.0, 200.0, cv=3.0) < rate_rps(book, 1000.0, 200.0, cv=1.0)
    shared = rate_rps(book, 1000.0, 200.0, cv=3.0, serving=9)
    assert shared > rate_rps(book, 1000.0, 200.0, cv=3.0)


def test_a_surface_in_the_profile_answers_where_it_reaches() -> None:
    service = a_service()
    surface = CapacitySurface(
        service.configuration, service.slo, input_tokens=(100.0, 1600.0),
        output_tokens=(50.0, 800.0), cv=(1.0,), rates_rps=(8.0, 4.0, 4.0, 2.0),
    )  # fmt: skip
    book = CapacityBook(replace(service, profile=replace(service.profile, capacity=(surface,))))
    assert rate_rps(book, 400.0, 200.0) == pytest.approx(4.0, rel=0.01)
    beyond = rate_rps(book, 50.0, 200.0)
    assert beyond == rate_rps(CapacityBook(service), 50.0, 200.0)


@pytest.mark.parametrize("known", [None, Lengths(0.0, 100.0, 100.0)])
def test_the_book_gives_the_plan_while_lengths_are_unknown(known: Lengths | None) -> None:
    assert CapacityBook(a_service()).rate_rps(known) == 4.0


def test_lengths_that_miss_the_objective_even_idle_are_scaled_by_their_tokens() -> None:
    book = CapacityBook(a_service(slo=Slo(ttft_s=0.04)))
    # a prefill of 4,000 tokens takes longer than that
    assert rate_rps(book, 4000.0, 100.0) == pytest.approx(4.0 * 160 / 4100, rel=0.01)


def test_lengths_that_the_cache_cannot_hold_leave_the_plan() -> None:
    assert rate_rps(CapacityBook(a_service()), 5e6, 100.0) == 4.0


def test_a_surge_of_other_lengths_counts_at_once_and_a_handful_does_not() -> None:
    def after(came: int) -> float:
        """Capacity after half a minute of 1,000 long prompts and 10 s of so many short ones."""
        observer, long = Observer(a_service()), [2000.0] * 1000
        for at_s, prompts in ((0.0, []), (30.0, long), (40.0, [*long, *[200.0] * came])):
            page = a_reading(
                at_s,
                finished=len(prompts),
                prompt_length=a_histogram(prompts, bounds=(1e3, 1e5)),
                generation_length=a_histogram([100.0] * len(prompts), bounds=(1e3, 1e5)),
            )
            observer.read({R1: page}, at_s)
        return observer.observe(SERVING, 40.0).capacity_rps

    assert after(1200) > 1.4 * after(0)
    assert after(200) < 1.2 * after(0)


def test_the_lengths_seen_lately_decide_the_capacity() -> None:
    observer = Observer(a_service())
    observer.read({R1: lengths(0.0, 0, 0, 0)}, 0.0)
    assert observer.observe(SERVING, 0.0).capacity_rps == 4.0
    observer.read({R1: lengths(1.0, 500, 2000, 300)}, 1.0)
    assert observer.observe(SERVING, 1.0).capacity_rps < 2.0


def test_what_ended_between_two_scrapes_is_judged_once() -> None:
    observer = Observer(a_service())
    observer.read({R1: a_reading(0.0)}, 0.0)
    observer.observe(SERVING, 0.0)
    observer.read({R1: a_reading(1.0, finished=10.0, good=7.0)}, 1.0)
    demand = observer.observe(SERVING, 1.0).demand
    assert (demand.ended, demand.over_s) == (10.0, 1.0)
    assert demand.missed == pytest.approx(3.0)
    again = observer.observe(SERVING, 1.5).demand
    assert (again.ended, again.missed) == (0.0, 0.0)


def test_readings_are_thinned_and_rates_are_of_the_last_two() -> None:
    observer = Observer(a_service())
    for second in range(120):
        observer.read({R1: a_reading(float(second), finished=2.0 * second)}, float(second))
        observer.observe(SERVING, float(second))
    assert observer.arrival_rps == pytest.approx(2.0)
    assert len(observer._watched[R1].readings) <= ATTAINMENT_WINDOW_S / 5.0 + 4


def probed_observer(**page: float) -> Observation:
    """A probe at 9.9 s; the page of 10 s shows it, with what `page` adds."""
    observer = Observer(a_service())
    for second in range(9, 12):
        if second == 10:
            observer.probing(R1, 9.9)
        seen = {"finished": float(second >= 10), **page} if second >= 10 else {}
        observer.read({R1: a_reading(float(second), **seen)}, float(second))
        if second == 10:
            observed = observer.observe(SERVING, 10.0)
    return observed


def test_our_own_probe_is_no_request() -> None:
    assert probed_observer().demand.arrival_rps == 0.0
    (sighting,) = probed_observer(finished=0.0, running=1.0).sightings
    assert sighting.load is not None
    assert sighting.load.running == 0.0


def test_requests_beside_a_probe_are_counted() -> None:
    assert probed_observer(finished=3.0).demand.arrival_rps == 2.0
    (sighting,) = probed_observer(running=2.0).sightings
    assert sighting.load is not None
    assert sighting.load.running == 1.0
