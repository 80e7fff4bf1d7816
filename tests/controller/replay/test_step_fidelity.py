"""A fleet of one is the twin; a fleet of several is as many twins."""

import numpy as np
import pytest

from controller.replay.static import constant
from controller.replay.terms import Routing, SlowReplica, Span
from profiler.trace import Hashes, Trace
from profiler.twin import simulate
from tests.controller.replay.builders import a_trace, played, served, some_terms, terms_with


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scrape_s", [0.7, 15.0])
def test_one_replica_is_the_twin_bit_for_bit(seed, scrape_s):
    trace, which = a_trace(rate_rps=70, seed=seed), served()
    outcome = constant(trace, which, 1, some_terms(scrape_s=scrape_s))
    timings = simulate(trace, which.cost, which.limits)
    assert np.array_equal(outcome.each.ttft_s, timings.ttft_s)
    assert np.array_equal(outcome.each.e2e_s, timings.e2e_s)
    assert np.array_equal(outcome.each.itl_s, timings.itl_s, equal_nan=True)
    assert outcome.attained == timings.attained(which.slo).sum()


def test_in_turn_each_replica_serves_its_rank_of_the_trace():
    trace, which = a_trace(), served()
    outcome = constant(trace, which, 3, some_terms())
    for rank in range(3):
        timings = simulate(trace.rank(rank, 3), which.cost, which.limits)
        assert np.array_equal(outcome.each.e2e_s[rank::3], timings.e2e_s)


def test_the_least_loaded_gets_the_next():
    """Who is slow holds more, so that fewer are sent there."""
    trace, slow = a_trace(rate_rps=100), (SlowReplica(0, 5.0, Span(0, 1e9)),)
    in_turn = constant(trace, served(), 3, terms_with(slow_replicas=slow))
    terms = some_terms(routing=Routing.LEAST_LOADED, look_s=0.1)
    least = constant(trace, served(), 3, terms_with(terms, slow_replicas=slow))
    assert in_turn.attained_ratio < 0.7
    assert least.attained_ratio > 0.85


def test_prefix_caches_are_each_replica_s_own():
    ids = Hashes.of([[7, 8]] * 4, 32)
    trace = Trace.of([0, 5, 10, 15], [64] * 4, [2] * 4, hashes=ids)
    alone = constant(trace, served(), 1, some_terms())
    shared = constant(trace, served(), 2, some_terms())
    assert alone.each.ttft_s[1] < alone.each.ttft_s[0]
    assert shared.each.ttft_s[1] == pytest.approx(shared.each.ttft_s[0])
    assert shared.each.ttft_s[2] < shared.each.ttft_s[0]


def test_twice_is_the_same():
    terms = some_terms()
    first, _ = played(a_trace(), lambda now_s: 1 + (now_s // 10) % 3, terms)
    again, _ = played(a_trace(), lambda now_s: 1 + (now_s // 10) % 3, terms)
    assert first.replica_s == again.replica_s
    assert first.changes == again.changes
    assert np.array_equal(first.each.e2e_s, again.each.e2e_s)
