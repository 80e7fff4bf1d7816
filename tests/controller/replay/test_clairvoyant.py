"""The bound, the shares it is made of, and the schedule beside it."""

import numpy as np
import pytest

from controller.replay.bound import bound
from controller.replay.clairvoyant import Schedule, clairvoyant
from controller.replay.ours import ours
from controller.replay.run import replay
from controller.replay.work import least_work
from profiler.errors import Refused
from profiler.slo import Slo
from profiler.step_cost import NO_WINDOW
from profiler.trace import Hashes, Trace
from profiler.twin import Simulation
from tests.controller.replay.builders import a_trace, played, served, slow_served, some_terms
from tests.recommender.builders import a_cost


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"step_overhead_s": 0.003, "sequence_s": 2e-4, "token_link_s": 1e-5},
        {"kv_token_s": 1e-6, "prefill_pair_s": 1e-7, "prefill_kv_s": 1e-7, "mixed_kv_ratio": 1.6},
        {"kv_window_token_s": 1e-6, "prefill_window_pair_s": 1e-7, "window_tokens": 48},
    ],
)
def test_no_engine_is_busy_for_less_than_the_least_work(seed, changes):
    which = served(cost=a_cost(**{"window_tokens": NO_WINDOW, **changes}))
    trace = a_trace(rate_rps=200, duration_s=20, seed=seed)
    engine = Simulation(which.cost, which.limits)
    engine.feed(trace)
    engine.run()
    work = least_work(trace, which, some_terms())
    least_s = float((work.prefill_s + work.decode_s).sum())
    assert least_s <= engine.usage.busy_s
    assert least_s > 0.5 * engine.usage.busy_s  # a full engine is not far from it


def test_what_was_seen_before_need_not_be_computed():
    ids = Hashes.of([[1, 2], [1, 2], [3, 4]], 32)
    trace = Trace.of([0, 1, 2], [64] * 3, [1] * 3, hashes=ids)
    first, again, other = least_work(trace, served(), some_terms()).prefill_s
    assert again < first
    assert other == first


def test_more_requests_attained_cost_no_less():
    trace, terms = a_trace(rate_rps=40), some_terms(min_replicas=0)
    bounds = [bound(trace, slow_served(), terms, share).replica_s for share in (0, 0.5, 0.9, 1)]
    assert bounds[0] == 0
    assert bounds == sorted(bounds)


def test_a_burst_costs_a_start_or_a_replica_that_waits_for_it():
    came_s = np.sort(np.concatenate([np.arange(0, 200, 1.0), np.full(150, 100.0)]))
    burst = Trace.of(came_s, [200] * 350, [24] * 350)
    cheap = bound(burst, slow_served(), some_terms(min_replicas=0, start_up_s=0.0), 1.0)
    dear = bound(burst, slow_served(), some_terms(min_replicas=0, start_up_s=30.0), 1.0)
    assert dear.replica_s > cheap.replica_s + 30


def test_the_minimum_is_paid_whatever_comes():
    trace = Trace.of([0.0, 100.0], [32, 32], [2, 2])
    assert bound(trace, served(), some_terms(min_replicas=2), 1.0).replica_s == 200


def test_without_deadlines_the_work_remains():
    lenient = served(Slo(ttft_s=30.0))
    found = bound(a_trace(), lenient, some_terms(min_replicas=0), 1.0)
    assert found.replica_s >= 0.9 * found.work_s


def test_a_share_that_is_none_is_refused():
    with pytest.raises(Refused, match="attained_ratio"):
        bound(a_trace(), served(), some_terms(), 1.5)


def test_the_schedule_lies_between_the_bound_and_what_does_not_know_the_future():
    trace, terms = a_trace(rate_rps=40, duration_s=120), some_terms()
    found = clairvoyant(trace, slow_served(), terms, 0.98, trials=20)
    mine = replay(trace, slow_served(), ours(slow_served(), terms, 5.0), terms)
    assert found.reached
    assert found.outcome.attained_ratio >= 0.98
    assert found.bound.replica_s <= found.outcome.replica_s
    assert found.slack_ratio < 1
    assert found.outcome.replica_s < mine.replica_s or mine.attained_ratio < 0.98


def test_a_share_that_nobody_reaches_gives_the_best_that_was_found():
    impossible = served(Slo(ttft_s=0.001, itl_s=0.05))
    found = clairvoyant(a_trace(), impossible, some_terms(), 0.9, trials=0)
    assert not found.reached


def test_a_schedule_starts_replicas_in_time():
    schedule = Schedule((1, 1, 1, 2, 1, 1), slot_s=10.0)
    outcome = replay(a_trace(), served(), schedule, some_terms())
    late = outcome.lives[1]
    assert (late.asked_s, late.ready_s, late.drained_s) == (20, 30, 40)
    assert played(a_trace(), 1, some_terms())[0].scale_ups == 0
