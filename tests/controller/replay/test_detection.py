"""The detector finds in a replay what is wrong there, and nothing else."""

import math
from dataclasses import dataclass, field, replace
from functools import cache

import pytest

from controller.detect import expectation_of
from controller.replay.detection import fleet_reading
from controller.replay.ours import service_of
from controller.replay.policy import Fleet, Known, Scrape, Wish
from controller.replay.run import replay
from controller.replay.terms import Garbled, NodeLoss, SlowReplica, Span, Terms
from monitor.detectors.reading import Expectation, FleetReading
from monitor.detectors.watch import Watch
from monitor.findings import Finding, Kind
from tests.controller.replay.builders import (
    a_trace,
    played,
    scrapes_of,
    served,
    some_terms,
    terms_with,
)

REPLICAS = 3


@cache
def expected(terms: Terms) -> Expectation:
    return replace(expectation_of(service_of(served(), terms)), scrape_s=terms.scrape_s)


@dataclass
class Watching:
    """Wants so many replicas, and keeps what the detector finds."""

    terms: Terms
    interval_s: float = 5.0
    name: str = "watching"
    found: list[tuple[float, Finding]] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)
    reading: FleetReading | None = None

    def start(self, known: Known) -> None: ...

    def decide(
        self, scrape: Scrape | None, fleet: Fleet, state: None, now_s: float
    ) -> tuple[Wish, None]:
        self.reading = fleet_reading(scrape, fleet, served().limits, self.reading)
        self.watch, findings = self.watch.seen(self.reading, expected(self.terms), now_s)
        self.found += [(now_s, finding) for finding in findings]
        return Wish(REPLICAS), None

    def told(self) -> set[tuple[Kind, str]]:
        return {(finding.kind, finding.subject) for _, finding in self.found}


def watched(terms: Terms, rate_rps: float = 90.0) -> Watching:
    policy = Watching(terms)
    replay(a_trace(rate_rps, duration_s=300.0), served(), policy, terms)
    return policy


@pytest.mark.parametrize("factor", [1.3, 2.0])
@pytest.mark.parametrize("rate_rps", [30.0, 90.0])
def test_a_slow_replica_is_found_and_only_that_one(factor: float, rate_rps: float) -> None:
    slow = SlowReplica(1, factor, Span(120.0, 300.0))
    policy = watched(terms_with(some_terms(initial=REPLICAS), slow_replicas=(slow,)), rate_rps)
    assert policy.told() == {(Kind.DEGRADED_REPLICA, "r1")}
    first_s = policy.found[0][0]
    assert 120 < first_s <= 120 + 60


def test_sound_replicas_are_left_alone() -> None:
    assert watched(some_terms(initial=REPLICAS)).found == []


def test_what_is_lost_with_its_node_is_gone_and_not_silent() -> None:
    terms = terms_with(
        some_terms(initial=REPLICAS, replicas_per_node=1), node_losses=(NodeLoss(100.0, 1),)
    )
    assert watched(terms, rate_rps=60.0).told() == set()


def test_nonsense_is_missing_data() -> None:
    garbled = Garbled(math.nan, Span(100.0, 200.0))
    policy = watched(terms_with(some_terms(initial=REPLICAS), garbled=(garbled,)))
    assert {kind for kind, _ in policy.told()} == {Kind.MISSING_DATA}


def test_scrapes_that_fail_are_missing_data() -> None:
    policy = watched(terms_with(some_terms(initial=REPLICAS), missed_scrapes=(Span(100, 200),)))
    assert policy.told() == {(Kind.MISSING_DATA, "")}


def test_a_replicas_counts_add_up_to_the_scrapes() -> None:
    trace = a_trace(rate_rps=60)
    _, policy = played(trace, 2, some_terms(initial=2, until_s=100.0))
    last = max(scrapes_of(policy).items())[1]
    counts = [replica.counts for replica in last.replicas]
    told = [c for c in counts if c is not None]
    assert len(told) == 2
    assert sum(c.finished for c in told) == len(trace)
    assert sum(c.prompt_tokens for c in told) == trace.input_tokens.sum()
    assert sum(c.generation_tokens for c in told) == trace.output_tokens.sum()
    assert sum(c.gaps for c in told) == (trace.output_tokens - 1).sum()
