"""What holds whatever a policy wants and whatever goes wrong."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.replay.bound import bound
from controller.replay.static import constant
from controller.replay.terms import (
    FailedStarts,
    Faults,
    LongStarts,
    NodeLoss,
    Routing,
    SlowReplica,
    Span,
    Terms,
)
from tests.controller.replay.builders import a_trace, played, slow_served, some_terms

spans = st.tuples(st.floats(0, 60), st.floats(0, 60)).map(lambda pair: Span(min(pair), max(pair)))
faults = st.builds(
    Faults,
    node_losses=st.lists(st.builds(NodeLoss, st.floats(0, 60), st.integers(0, 2)), max_size=2).map(
        tuple
    ),
    slow_replicas=st.lists(
        st.builds(SlowReplica, st.integers(0, 3), st.floats(0.5, 4), spans), max_size=1
    ).map(tuple),
    long_starts=st.lists(st.builds(LongStarts, st.floats(0.5, 3), spans), max_size=1).map(tuple),
    failed_starts=st.lists(st.builds(FailedStarts, spans, st.floats(0, 1)), max_size=1).map(tuple),
    missed_ratio=st.floats(0, 0.5),
    silent_ratio=st.floats(0, 0.5),
)
all_terms = st.builds(
    Terms,
    start_up_s=st.floats(0, 20),
    scrape_s=st.sampled_from([1.0, 5.0, 7.3]),
    initial=st.integers(0, 4),
    min_replicas=st.just(0),
    max_replicas=st.just(5),
    routing=st.sampled_from(Routing),
    replicas_per_node=st.integers(1, 3),
    appears_s=st.sampled_from([0.0, 12.0]),
    vanishes_s=st.sampled_from([float("inf"), 45.0]),
    patience_s=st.sampled_from([0.0, 30.0]),
    faults=faults,
)
scripts = st.lists(st.integers(-1, 7), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(all_terms, scripts, st.integers(0, 5))
def test_every_request_ends_once_and_every_second_is_paid_once(terms, counts, seed):
    trace = a_trace(rate_rps=12, duration_s=60, seed=seed)
    outcome, _ = played(trace, lambda s: counts[int(s // 5) % len(counts)], terms, slow_served())
    each = outcome.each
    assert outcome.requests + outcome.turned_away == len(trace)
    assert not (each.cut & each.ended).any()
    assert not (each.attained & ~each.ended).any()
    served = int((each.judged & each.ended).sum())
    assert served + outcome.cut + outcome.unserved == outcome.requests
    assert outcome.replica_s == sum(life.gone_s - life.asked_s for life in outcome.lives)
    assert all(life.asked_s <= life.drained_s <= life.gone_s < np.inf for life in outcome.lives)
    assert outcome.series.arrivals.sum() == outcome.requests
    assert (each.ttft_s[each.ended] > 0).all()


@settings(max_examples=25, deadline=None)
@given(all_terms, scripts, st.integers(0, 5))
def test_nobody_passes_the_bound(terms, counts, seed):
    trace = a_trace(rate_rps=12, duration_s=60, seed=seed)
    outcome, _ = played(trace, lambda s: counts[int(s // 5) % len(counts)], terms, slow_served())
    if outcome.requests:
        least = bound(trace, slow_served(), terms, outcome.attained_ratio)
        assert least.replica_s <= outcome.replica_s + 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.floats(5, 60), st.integers(0, 5))
def test_more_replicas_never_attain_less_by_more_than_noise(replicas, rate_rps, seed):
    trace = a_trace(rate_rps=rate_rps, duration_s=30, seed=seed)
    fewer = constant(trace, slow_served(), replicas, some_terms())
    more = constant(trace, slow_served(), replicas + 1, some_terms())
    assert more.attained_ratio >= fewer.attained_ratio - 0.02
