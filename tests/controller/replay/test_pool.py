import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.replay.ground import Asleep
from controller.replay.opponents import ALL
from controller.replay.ours import ours
from controller.replay.outcome import Outcome
from controller.replay.policy import Policy
from controller.replay.pool import Entry, Pool, Pooled, Rule, replay_pool
from controller.replay.run import replay
from controller.replay.terms import FailedStarts, NodeLoss, Span, Terms
from profiler.errors import Refused
from profiler.layout import Layout
from profiler.trace import Trace
from tests.controller.replay.builders import (
    Scripted,
    a_trace,
    served,
    slow_served,
    some_terms,
    terms_with,
)

SOME = a_trace()


def an_entry(
    name: str = "chat",
    script: Any = 1,
    trace: Trace = SOME,
    terms: Terms | None = None,
    **changes: Any,
) -> Entry:
    """A service that follows a script: a count, or a function of the moment."""
    policy = Scripted(script if callable(script) else lambda _: script)
    entry = Entry(name, trace, slow_served(), policy, terms or some_terms())
    return replace(entry, **changes)


def in_use(outcomes: tuple[Outcome, ...], gpus: tuple[int, ...]) -> int:
    """Most GPUs at any moment between two changes."""
    lives = [(life, g) for o, g in zip(outcomes, gpus, strict=True) for life in o.lives]
    moments = sorted({life.asked_s for life, _ in lives})
    return max(
        (sum(g for life, g in lives if life.asked_s <= at < life.gone_s) for at in moments),
        default=0,
    )


def same(left: Outcome, right: Outcome) -> bool:
    """Bit for bit."""
    each = zip(
        (left.each.ttft_s, left.each.e2e_s, left.each.cut),
        (right.each.ttft_s, right.each.e2e_s, right.each.cut),
        strict=True,
    )
    return (left.lives, left.changes, left.end_s) == (
        right.lives,
        right.changes,
        right.end_s,
    ) and all(np.array_equal(a, b, equal_nan=True) for a, b in each)


@pytest.mark.parametrize("rule", [Rule.SHARE, Rule.FIRST_COME])
@pytest.mark.parametrize("which", ["ours", "KubeAi", "Hpa"])
def test_a_pool_of_one_service_is_a_replay(rule, which):
    trace = a_trace(rate_rps=40, duration_s=150)
    faults: dict[str, Any] = {
        "node_losses": (NodeLoss(70.0, 0),),
        "failed_starts": (FailedStarts(Span(20, 60), 0.5),),
        "missed_scrapes": (Span(50, 60),),
    }
    terms = terms_with(some_terms(max_replicas=6, initial=2), **faults)

    def policy() -> Policy:
        if which == "ours":
            return ours(slow_served(), terms, 5.0)
        return next(factory for factory in ALL if factory.__name__ == which)()  # type: ignore[attr-defined]

    alone = replay(trace, slow_served(), policy(), terms)
    entry = Entry("chat", trace, slow_served(), policy(), terms)
    pooled = replay_pool([entry], Pool(gpus=64, rule=rule))
    assert alone.scale_ups > 0
    assert same(pooled.services[0], alone)
    assert pooled.peak_gpus == alone.peak_replicas


scripts = st.lists(st.integers(-1, 5), min_size=1, max_size=8)
sleeping = st.one_of(
    st.none(),
    st.builds(Asleep, st.floats(0, 5), st.floats(0, 3), st.one_of(st.none(), st.integers(0, 20))),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(scripts, min_size=1, max_size=3), st.integers(1, 6), sleeping, st.sampled_from(Rule)
)
def test_no_more_gpus_are_in_use_than_there_are_and_every_request_ends_once(
    counts, gpus, asleep, rule
):
    entries = [
        an_entry(
            f"s{i}",
            lambda s, each=each: each[int(s // 5) % len(each)],
            a_trace(rate_rps=12, duration_s=40, seed=i),
            some_terms(min_replicas=0, appears_s=7.0 * i, vanishes_s=33.0 if i == 1 else math.inf),
            priority=i % 2,
        )
        for i, each in enumerate(counts)
    ]
    pooled = replay_pool(entries, Pool(gpus, asleep, rule, gpus_per_node=4))
    assert in_use(pooled.services, (1,) * len(entries)) == pooled.peak_gpus <= gpus
    for outcome in pooled.services:
        ended = int((outcome.each.judged & outcome.each.ended).sum())
        assert ended + outcome.cut + outcome.unserved == outcome.requests
        assert all(life.asked_s <= life.drained_s <= life.gone_s < np.inf for life in outcome.lives)


def test_replicas_of_several_gpus_take_as_many():
    large = replace(slow_served(), profile=served(layout=Layout(tensor=2)).profile)
    entries = [an_entry("large", 2, served=large), an_entry("small", 2)]
    pooled = replay_pool(entries, Pool(gpus=5))
    assert pooled.services[0].gpu_hours == pytest.approx(pooled.services[0].replica_s * 2 / 3600)
    assert in_use(pooled.services, (2, 1)) == pooled.peak_gpus <= 5


def test_a_standby_wakes_where_a_cold_start_would_take_its_time():
    def starts(asleep: Asleep | None) -> set[float]:
        entry = an_entry(script=lambda s: 3 if s >= 20 else 1)
        (outcome,) = replay_pool([entry], Pool(4, asleep)).services
        return {round(life.ready_s - life.asked_s, 6) for life in outcome.lives[1:]}

    assert starts(None) == {10.0}
    assert starts(Asleep(wake_s=3.0)) == {3.0}
    assert starts(Asleep(wake_s=3.0, host_copies=2)) == {3.0, 10.0}
    assert starts(Asleep(wake_s=3.0, host_copies=0)) == {10.0}


def test_a_gpu_is_free_again_once_its_replica_has_drained_and_sleeps():
    trace = Trace.of([1.0], [32], [4])
    give = an_entry("gives", lambda s: int(s < 20), trace, some_terms(min_replicas=0, until_s=40))
    take = an_entry("takes", lambda s: int(s >= 10), trace, some_terms(min_replicas=0, initial=0))
    pool = Pool(1, Asleep(wake_s=3.0, sleep_s=1.5), Rule.FIRST_COME)
    gives, takes = replay_pool([give, take], pool).services
    assert gives.lives[0].gone_s == 20
    assert takes.changes[0].at_s == 10
    assert [(life.asked_s, life.ready_s) for life in takes.lives] == [(22, 25)]


def test_first_come_serves_whoever_has_waited_longest_and_nobody_gives_way():
    def asks(at_s: float, until_s: float = math.inf) -> Any:
        return lambda s: int(at_s <= s < until_s)

    terms = some_terms(min_replicas=0, initial=0, until_s=60)
    nothing = Trace.of([], [], [])
    entries = [
        an_entry("late", asks(20), nothing, terms),
        an_entry("first", asks(5, 30), nothing, terms),
        an_entry("early", asks(15), nothing, terms),
    ]
    late, first, early = replay_pool(entries, Pool(1, rule=Rule.FIRST_COME)).services
    assert [life.asked_s for life in first.lives] == [5]
    assert [life.asked_s for life in early.lives] == [30]
    assert late.lives == ()


def test_a_lower_priority_gives_way_to_a_higher_one():
    calm, busy = a_trace(rate_rps=8, duration_s=120), a_trace(rate_rps=36, duration_s=120, seed=1)
    terms = some_terms(initial=2, max_replicas=4)

    def attained(batch: int, chat: int) -> tuple[Outcome, ...]:
        entries = [
            Entry("batch", busy, slow_served(), ours(slow_served(), terms, 5.0), terms, batch),
            Entry("chat", calm, slow_served(), ours(slow_served(), terms, 5.0), terms, chat),
        ]
        return replay_pool(entries, Pool(4, Asleep())).services

    low, _ = attained(0, 1)
    high, chat = attained(1, 0)
    assert high.attained_ratio > low.attained_ratio
    assert min(life.gone_s for life in chat.lives) < 60  # it gave a replica up


def test_a_service_that_vanishes_frees_its_gpus_and_one_that_appears_gets_them():
    leaves = an_entry("leaves", 3, terms=some_terms(initial=3, vanishes_s=30.0))
    comes = an_entry("comes", 3, terms=some_terms(initial=3, appears_s=20.0))
    pool = Pool(4, rule=Rule.FIRST_COME)
    left, came = replay_pool([leaves, comes], pool).services
    assert left.turned_away == (a_trace().arrival_s >= 30).sum()
    assert all(life.gone_s < 40 for life in left.lives)
    assert came.lives[0].asked_s == 20
    assert all(30 <= life.asked_s < 42 for life in came.lives[1:])
    assert len(came.lives) == 3
    assert came.unserved == left.unserved == 0


def test_a_service_that_vanishes_waits_for_no_room():
    keeps = an_entry("keeps", 1, terms=some_terms(until_s=100))
    asks = an_entry("asks", 1, terms=some_terms(vanishes_s=30.0))
    pooled = replay_pool([keeps, asks], Pool(1))
    assert pooled.services[1].lives == ()
    assert pooled.services[1].unserved == pooled.services[1].requests > 0


def test_a_lost_node_is_lost_for_all():
    lossy = terms_with(some_terms(initial=2), node_losses=(NodeLoss(20.0, 0),))
    entries = [an_entry("a", 2, terms=lossy), an_entry("b", 2, terms=some_terms(initial=2))]
    pooled = replay_pool(entries, Pool(8, gpus_per_node=4))
    for outcome in pooled.services:
        assert [life.gone_s for life in outcome.lives[:2]] == [20, 20]
        assert len(outcome.lives) == 4  # on the other node


def test_ours_shares_a_short_pool_by_need():
    terms = some_terms(initial=2, max_replicas=4)

    def entries(policy: Any) -> list[Entry]:
        rates = ((30.0, 8.0), (8.0, 30.0))
        return [
            Entry(f"s{i}", swapping(*pair), slow_served(), policy(), terms)
            for i, pair in enumerate(rates)
        ]

    def run(rule: Rule) -> Pooled:
        return replay_pool(
            entries(lambda: ours(slow_served(), terms, 5.0)), Pool(4, Asleep(), rule)
        )

    shared, first_come = run(Rule.SHARE), run(Rule.FIRST_COME)
    assert shared.attained_ratio > first_come.attained_ratio
    assert shared.peak_gpus <= 4


def swapping(first_rps: float, then_rps: float) -> Trace:
    first, then = a_trace(first_rps, 100.0), a_trace(then_rps, 100.0, seed=7)
    return Trace.of(
        np.concatenate([first.arrival_s, 100.0 + then.arrival_s]),
        np.concatenate([first.input_tokens, then.input_tokens]),
        np.concatenate([first.output_tokens, then.output_tokens]),
    )


def test_a_wish_that_is_no_number_changes_nothing():
    pooled = replay_pool([an_entry(script=math.nan), an_entry("b", math.inf)], Pool(4))
    assert [outcome.changes for outcome in pooled.services] == [(), ()]


def test_figures_of_the_pool():
    pooled = replay_pool([an_entry("a", 2), an_entry("b", 1)], Pool(8))
    assert pooled.peak_gpus == 3
    assert pooled.gpu_hours == pytest.approx(8 * pooled.end_s / 3600)
    assert pooled.used_gpu_hours == sum(outcome.gpu_hours for outcome in pooled.services)
    assert pooled.attained_ratio == min(o.attained_ratio for o in pooled.services)


def test_a_pool_without_requests_attains_nothing_known():
    idle = an_entry(trace=Trace.of([], [], []), terms=some_terms(until_s=20))
    assert math.isnan(replay_pool([idle], Pool(2)).attained_ratio)


@pytest.mark.parametrize("entries", [[], [an_entry(), an_entry()]])
def test_services_need_names_of_their_own(entries):
    with pytest.raises(Refused, match="name of its own"):
        replay_pool(entries, Pool(2))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Pool(0), "gpus"),
        (lambda: Pool(1, gpus_per_node=0), "gpus_per_node"),
        (lambda: Asleep(wake_s=math.nan), "wake_s"),
        (lambda: Asleep(sleep_s=-1.0), "sleep_s"),
        (lambda: Asleep(host_copies=-1), "host_copies"),
    ],
)
def test_pools_that_make_no_sense_are_refused(make, field):
    with pytest.raises(Refused, match=field):
        make()
