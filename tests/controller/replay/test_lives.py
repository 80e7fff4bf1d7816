"""Starts, drains and deaths take the time they take, and are paid for."""

import numpy as np
import pytest

from controller.replay.terms import FailedStarts, LongStarts, NodeLoss, SlowReplica, Span
from profiler.trace import Trace
from tests.controller.replay.builders import (
    a_trace,
    played,
    scrapes_of,
    served,
    some_terms,
    terms_with,
)


def at(*moments: float, output: int = 10) -> Trace:
    return Trace.of(moments, [32] * len(moments), [output] * len(moments))


def test_a_start_is_paid_from_the_asking_and_serves_after_the_start_up():
    outcome, policy = played(a_trace(), lambda s: 2 if s >= 20 else 1, some_terms())
    first, second = outcome.lives
    assert (first.asked_s, first.ready_s) == (0, 0)
    assert (second.asked_s, second.ready_s) == (20, 30)
    fleets = {now_s: (f.serving, f.starting) for now_s, _, f in policy.shown}
    assert (fleets[20], fleets[25], fleets[30]) == ((1, 0), (1, 1), (2, 0))
    assert outcome.scale_ups == 1
    assert outcome.changes[0].reason == "scripted"


def test_a_draining_replica_finishes_what_it_holds_and_gets_nothing_new():
    trace = at(4.9, 4.95, 5.05, 5.1, output=200)
    outcome, _ = played(trace, lambda s: 2 if s < 5 else 1, some_terms(initial=2))
    assert outcome.cut == outcome.unserved == 0
    drained = outcome.lives[1]
    assert drained.drained_s == 5
    assert drained.gone_s == pytest.approx(trace.arrival_s[1] + outcome.each.e2e_s[1])
    assert outcome.scale_downs == 1


def test_starts_are_given_up_before_what_serves_and_the_youngest_first():
    outcome, _ = played(a_trace(), lambda s: 3 if s == 5 else 1, some_terms())
    assert [life.gone_s for life in outcome.lives[1:]] == [10, 10]
    assert all(life.ready_s == np.inf for life in outcome.lives[1:])
    assert outcome.lives[0].gone_s > 50


def test_requests_wait_at_the_gateway_until_somebody_serves():
    terms = some_terms(initial=0, min_replicas=0)
    outcome, policy = played(at(1, 2, 3), lambda s: 1 if s >= 5 else 0, terms)
    assert outcome.unserved == 0
    assert (outcome.each.ttft_s > 12 - np.array([0, 1, 2])).all()
    scrape = scrapes_of(policy)[5.0]
    assert scrape.gateway_waiting == 3
    assert scrape.replicas == ()


def test_who_is_never_served_is_missed():
    terms = some_terms(initial=0, min_replicas=0, patience_s=20)
    outcome, _ = played(at(1, 2, 3), 0, terms)
    assert (outcome.attained_ratio, outcome.unserved, outcome.replica_s) == (0, 3, 0)
    assert outcome.longest_outage_s == 2
    assert outcome.ttft_s.p50 == np.inf


def test_a_lost_node_cuts_what_has_begun_and_the_rest_is_sent_again():
    trace = Trace.of([1.0] + [1.5] * 40, [32] * 41, [300] * 41)
    terms = terms_with(
        some_terms(initial=2, replicas_per_node=1, until_s=20.0), node_losses=(NodeLoss(3.0, 0),)
    )
    outcome, policy = played(trace, 2, terms)
    assert outcome.cut == 16  # the batch; who waited in the queue had no token yet
    assert outcome.unserved == 0
    assert (outcome.each.ttft_s[outcome.each.ended] > 0).all()
    assert outcome.lives[0].gone_s == 3
    assert [life.asked_s for life in outcome.lives] == [0, 0, 5]
    assert {now_s: f.serving for now_s, _, f in policy.shown}[5.0] == 1


def test_what_was_sent_again_is_judged_by_when_it_came():
    terms = terms_with(
        some_terms(replicas_per_node=1, until_s=20.0), node_losses=(NodeLoss(1.005, 0),)
    )
    outcome, _ = played(at(1.0), 1, terms)
    assert outcome.cut == 0
    assert outcome.each.ttft_s[0] == pytest.approx(15 + 0.0132 - 1.0, abs=0.05)  # 5 s tick + start


def test_a_slow_replica_is_slow_while_it_is():
    trace = at(1, 12, 30)
    terms = terms_with(slow_replicas=(SlowReplica(0, 3.0, Span(10, 20)),))
    outcome, _ = played(trace, 1, terms)
    ttft_s = outcome.each.ttft_s
    assert ttft_s[1] == pytest.approx(3 * ttft_s[0])
    assert ttft_s[2] == pytest.approx(ttft_s[0])


def test_starts_take_longer_and_fail():
    terms = terms_with(
        long_starts=(LongStarts(2.0, Span(0, 8)),), failed_starts=(FailedStarts(Span(8, 12)),)
    )
    outcome, _ = played(a_trace(), lambda s: 1 + (s >= 5) + (s >= 10), terms)
    long, failed, again = outcome.lives[1], outcome.lives[2], outcome.lives[3]
    assert (long.asked_s, long.ready_s) == (5, 25)
    assert (failed.asked_s, failed.ready_s, failed.gone_s) == (10, np.inf, 20)
    assert again.asked_s == 20


def test_at_one_moment_deaths_come_before_readiness_and_both_before_scrape_tick_and_requests():
    terms = terms_with(some_terms(replicas_per_node=1), node_losses=(NodeLoss(15.0, 0),))
    trace = at(1, 15.0)
    outcome, policy = played(trace, lambda s: 2 if s >= 5 else 1, terms)
    _, scrape, fleet = next(each for each in policy.shown if each[0] == 15.0)
    assert scrape is not None
    assert scrape.at_s == 15.0
    assert [r.name for r in scrape.replicas] == ["r1"]
    assert (fleet.serving, fleet.starting) == (1, 0)
    assert scrape.arrivals == 0  # the request of 15 s comes after
    assert outcome.attained == 2


def test_bounds_hold():
    outcome, _ = played(a_trace(), lambda s: 99 if s < 30 else -5, some_terms(max_replicas=3))
    assert outcome.peak_replicas == 3
    assert outcome.changes[-1].after == 1


def test_figures_of_gpus_and_means():
    outcome, _ = played(a_trace(), 2, some_terms(initial=2))
    assert outcome.gpu_hours == pytest.approx(outcome.replica_s * served().gpus / 3600)
    assert outcome.mean_replicas == pytest.approx(2, abs=0.05)
    assert outcome.series.serving == pytest.approx([2.0])
