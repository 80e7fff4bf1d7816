"""A scrape tells what happened since the one before, once, and nothing that has not."""

import math

import numpy as np
import pytest

from controller.replay.terms import Garbled, Span
from profiler.trace import Trace
from tests.controller.replay.builders import (
    a_trace,
    played,
    scrapes_of,
    served,
    some_terms,
    terms_with,
)


@pytest.mark.parametrize("silent_ratio", [0.0, 0.4])
def test_told_together_they_are_what_happened(silent_ratio):
    trace = a_trace(rate_rps=60)
    terms = terms_with(some_terms(initial=2, until_s=100.0), silent_ratio=silent_ratio)
    outcome, policy = played(trace, 2, terms)
    told = scrapes_of(policy).values()
    if silent_ratio == 0.0:
        assert sum(s.arrivals for s in told) == len(trace)
        assert sum(s.finished for s in told) == len(trace)
        assert sum(s.prompt_tokens for s in told) == trace.input_tokens.sum()
        assert sum(s.generation_tokens for s in told) == trace.output_tokens.sum()
    ttfts = [t for s in told for t in s.ttft_s]
    assert np.isin(ttfts, outcome.each.ttft_s).all()
    assert len(ttfts) <= len(trace)  # never told twice


def test_a_first_token_is_told_before_its_request_has_finished():
    trace = Trace.of([1.0, 30.0], [32, 32], [2000, 1])
    _, policy = played(trace, 1, some_terms())
    scrape = scrapes_of(policy)[5.0]
    assert len(scrape.ttft_s) == 1
    assert (scrape.finished, scrape.replicas[0].running) == (0, 1)
    assert 390 <= scrape.generation_tokens <= 400  # one each 10 ms
    assert 0 < scrape.replicas[0].kv_usage_ratio < 0.1


def test_what_happens_after_the_scrape_is_not_in_it():
    """A step runs over the scrape; its token is the next scrape's."""
    trace = Trace.of([4.995, 30.0], [32, 32], [1, 1])
    _, policy = played(trace, 1, some_terms())
    assert scrapes_of(policy)[5.0].ttft_s == ()
    assert len(scrapes_of(policy)[10.0].ttft_s) == 1


def test_a_missed_scrape_shows_none_and_the_next_counts_both_intervals():
    terms = terms_with(missed_scrapes=(Span(14, 16),))
    _, policy = played(a_trace(), 1, terms)
    assert [scrape for now_s, scrape, _ in policy.shown if now_s == 15.0] == [None]
    shown = scrapes_of(policy)
    assert (shown[20.0].since_s, shown[10.0].since_s) == (10.0, 5.0)
    assert shown[20.0].arrivals > 1.3 * shown[10.0].arrivals


def test_before_the_first_scrape_there_is_none():
    _, policy = played(a_trace(), 1, some_terms(scrape_s=12.0))
    assert [scrape for now_s, scrape, _ in policy.shown if now_s < 12] == [None] * 3


def test_nonsense_is_shown_as_it_is():
    terms = terms_with(garbled=(Garbled(math.nan, Span(4, 6)), Garbled(-1.0, Span(9, 11))))
    _, policy = played(a_trace(), 1, terms)
    shown = scrapes_of(policy)
    assert math.isnan(shown[5.0].replicas[0].running)
    assert shown[10.0].replicas[0].waiting == -1.0


def test_what_was_shown_as_nonsense_is_told_once_pages_are_sound_again():
    trace, terms = a_trace(), some_terms()
    sound = scrapes_of(played(trace, 1, terms)[1])
    garbled = terms_with(terms, garbled=(Garbled(math.nan, Span(9, 16)),))
    shown = scrapes_of(played(trace, 1, garbled)[1])
    for column in ("ttft_s", "itl_s", "e2e_s"):
        assert all(math.isnan(v) for v in getattr(shown[15.0], column))
        whole = [v for at_s in (10.0, 15.0, 20.0) for v in getattr(sound[at_s], column)]
        assert getattr(shown[20.0], column) == tuple(whole)
        assert getattr(shown[25.0], column) == getattr(sound[25.0], column)
    assert shown[20.0].arrivals == sum(sound[at_s].arrivals for at_s in (10.0, 15.0, 20.0))
    assert [shown[at_s].since_s for at_s in (15.0, 20.0, 25.0)] == [10.0, 15.0, 5.0]


def test_a_queue_is_seen():
    trace = Trace.of([4.0] * 200, [64] * 200, [100] * 200)
    outcome, policy = played(trace, 1, some_terms(until_s=20.0))
    scrape = scrapes_of(policy)[5.0]
    assert scrape.running == 16
    assert scrape.waiting == 184
    assert outcome.series.queue[0] > 0
    assert served().limits.max_num_seqs == 16
