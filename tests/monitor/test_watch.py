"""What holds for every detector: nonsense does no harm, memory is bounded, values stay values."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.detectors.expected import Lengths, Windows, expected_gap_s
from monitor.detectors.gate import Gate, Suspicion
from monitor.detectors.reading import FleetReading, ReplicaReading
from monitor.detectors.watch import Watch
from monitor.findings import Finding, Kind, Severity
from monitor.signals import EngineSignals
from profiler.trace import Lengths as TraceLengths
from profiler.trace import poisson
from profiler.twin import Simulation
from tests.monitor.fleets import Fleet, an_expectation
from tests.recommender.builders import a_cost, some_limits

NUMBERS = [
    f.name for f in fields(EngineSignals) if "float" in str(f.type) and "Mapping" not in str(f.type)
]
nonsense = st.sampled_from([None, math.nan, -1.0, math.inf, 0.0])


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.sampled_from(NUMBERS), nonsense), min_size=2, max_size=6))
def test_nonsense_does_no_harm(pages: list[dict[str, Any]]) -> None:
    """No exception, no finding that is not a number, and the sound replicas stay sound."""
    fleet = Fleet.of(3)
    fleet.watched(60.0)
    for changes in pages:
        fleet.replicas[0].changes = changes
        for finding in fleet.look():
            assert finding.subject in {"", "r0"}
            assert all(math.isfinite(shown.value) for shown in finding.evidence)
            assert 0 <= finding.confidence_ratio <= 1
    fleet.replicas[0].changes = {}
    fleet.watched(600.0)
    assert fleet.found == ()


def test_memory_is_that_of_the_replicas_there_are() -> None:
    fleet = Fleet.of(4)
    for round_ in range(50):
        for place, replica in enumerate(fleet.replicas):
            replica.id, replica.last = f"r{round_}-{place}", None
            replica.answers = place != 0
        fleet.watched(30.0)
        assert len(fleet.watch.tracks) == 4
        assert len(fleet.watch.gate.held) <= 8


def test_a_page_that_was_seen_counts_once() -> None:
    """A look without new pages changes no evidence."""
    fleet = Fleet.of(2)
    fleet.watched(60.0)
    tracks = fleet.watch.tracks
    reading = FleetReading(tuple(r.last for r in fleet.replicas if r.last is not None))
    again, found = fleet.watch.seen(reading, fleet.expected, fleet.now_s + 1.0)
    assert found == ()
    assert again.trend == fleet.watch.trend
    assert {k: replace(t, fresh=True) for k, t in again.tracks.items()} == {
        k: replace(t, fresh=True) for k, t in tracks.items()
    }


def test_the_same_look_twice_gives_the_same() -> None:
    fleet = Fleet.of(2)
    fleet.watched(45.0)
    before, reading = fleet.watch, fleet_reading(fleet)
    first = before.seen(reading, fleet.expected, fleet.now_s + 5.0)
    assert before.seen(reading, fleet.expected, fleet.now_s + 5.0) == first


def fleet_reading(fleet: Fleet) -> FleetReading:
    return FleetReading(tuple(r.reading(fleet.now_s + 5.0, 5.0) for r in fleet.replicas))


def test_a_restarted_engine_is_judged_anew() -> None:
    fleet = Fleet.of(2)
    fleet.watched(60.0)
    replica = fleet.replicas[0]
    replica.done = replica.gaps_s = replica.within = 0.0
    replica.prompt_tokens = replica.answer_tokens = 0.0
    assert fleet.watched(60.0) == ()


def test_a_service_without_replicas_is_found_nothing_of() -> None:
    watch, found = Watch().seen(FleetReading(()), an_expectation(), 1.0)
    assert (found, watch.wants_canary) == ((), ())
    unready = ReplicaReading("r0", True, None, None, None)
    assert watch.seen(FleetReading((unready,)), an_expectation(), 2.0)[1] == ()


def a_finding(since_s: float) -> Finding:
    return Finding(Kind.OVERLOAD, "QueueGrows", "", Severity.WARNING, 0.8, since_s, (), "too much")


def test_a_suspicion_passes_once_it_held_and_ends_once_it_is_gone() -> None:
    gate = Gate()
    told: dict[float, tuple[Finding, ...]] = {}
    for now_s in (0.0, 10.0, 30.0, 45.0, 70.0):
        suspicions = [Suspicion(a_finding(now_s), 20.0)] if now_s <= 30 else []
        gate, told[now_s] = gate.passed(suspicions, now_s, linger_s=20.0)
    assert told[10.0] == ()
    assert [finding.since_s for finding in told[30.0]] == [0.0]
    assert len(told[45.0]) == 1  # a scrape may be missed
    assert told[70.0] == ()
    assert gate.held == {}


@pytest.mark.parametrize(
    ("rate_rps", "prompt", "answer"),
    [(1.0, 64, 16), (10.0, 64, 16), (60.0, 64, 16), (1.0, 400, 60), (12.0, 400, 60), (6.0, 900, 8)],
)
def test_the_expected_gap_is_the_twins(rate_rps: float, prompt: int, answer: int) -> None:
    """Within the detector's allowance; short answers behind long prompts are off by a fifth."""
    limits, lengths = some_limits(max_num_seqs=64), TraceLengths.fixed(prompt, answer)
    twin = Simulation(a_cost(), limits)
    twin.feed(poisson(rate_rps, 120.0, lengths, np.random.default_rng(0)))
    done = twin.run().finished
    gaps = float((done.output_tokens - 1).sum())
    gaps_s = float((done.last_token_s - done.first_token_s).sum())
    told = (120.0, gaps, gaps_s, float(done.input_tokens.sum()))
    should_s = np.empty(1)
    windows = Windows(*(np.array([value]) for value in told))
    seen = Lengths(float(prompt), prompt + answer / 2)
    expected_gap_s(a_cost(), limits, seen, windows, should_s)
    assert should_s[0] == pytest.approx(gaps_s / gaps, rel=0.12 if answer > 8 else 0.2)
