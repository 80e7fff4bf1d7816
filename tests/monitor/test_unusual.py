"""Metrics that stop moving together are told, with the metrics that say so; calm days are not."""

import math

import numpy as np
import pytest

from monitor.detectors.trend import Trend
from monitor.detectors.unusual import (
    ADAPTED_S,
    ANEW_BLOCKS,
    LEARN_S,
    LEAST_BLOCKS,
    METRICS,
    SAMPLE_S,
    Unusual,
    sample,
    unusual,
)
from monitor.findings import Kind, Severity

REPLICAS = 4
LEARNED_S = (LEAST_BLOCKS + 2) * LEARN_S


def a_trend(now_s: float, broken: bool = False) -> Trend:
    """A wave of an hour; once broken, requests wait and tokens are slow at every load."""
    rng = np.random.default_rng(int(now_s))
    load = 0.5 + 0.3 * math.sin(2 * math.pi * now_s / 3600.0) + 0.02 * rng.standard_normal()
    gap_s = 0.02 + 0.02 * load + 0.0005 * rng.standard_normal()
    return Trend(
        at_s=now_s,
        demand_rps=REPLICAS * 5.0 * load,
        whole=True,
        running=20.0 * load * (0.4 if broken else 1.0) + 0.3 * rng.standard_normal(),
        waiting=6.0 if broken else max(4.0 * (load - 0.6), 0.0),
        kv_usage_ratio=0.6 * load + 0.01 * rng.standard_normal(),
        context_tokens=700.0 + 5.0 * rng.standard_normal(),
        judged=100.0,
        within=99.0,
        finished=500.0,
        inputs=500.0,
        input_tokens=500.0 * 600.0,
        outputs=500.0,
        output_tokens=500.0 * 150.0,
        itl_count=1e4,
        itl_sum_s=1e4 * (2.0 * gap_s if broken else gap_s),
    )


def watched(
    state: Unusual, until_s: float, from_s: float = 0.0, *, broken: bool = False, calm: bool = True
) -> tuple[Unusual, list[float]]:
    """Look every 15 s; the moments at which something was told."""
    told = []
    for now_s in np.arange(from_s, until_s, 15.0).tolist():
        state = state.seen(a_trend(now_s, broken), REPLICAS, calm, now_s)
        if unusual(state, now_s) is not None:
            told.append(now_s)
    return state, told


@pytest.fixture(scope="module")
def learned() -> Unusual:
    return watched(Unusual(), LEARNED_S)[0]


def test_nothing_is_told_before_there_is_a_baseline() -> None:
    state, told = watched(Unusual(), 2 * LEARN_S, broken=True)
    assert state.detector is None
    assert not told


def test_what_breaks_is_told_within_ten_minutes_and_named(learned: Unusual) -> None:
    state, told = watched(learned, LEARNED_S + 1800.0, LEARNED_S, broken=True)
    assert told
    assert told[0] - LEARNED_S <= 600.0
    suspicion = unusual(state, LEARNED_S + 1800.0)
    assert suspicion is not None
    finding = suspicion.finding
    assert (finding.kind, finding.severity, finding.subject) == (Kind.ANOMALY, Severity.INFO, "")
    assert finding.confidence_ratio > 0.5
    assert {"mean_gap_s", "running", "waiting"} & {e.name for e in finding.evidence}
    assert all(e.usual is not None for e in finding.evidence)


def test_twelve_calm_hours_are_hardly_ever_told_of(learned: Unusual) -> None:
    until_s = LEARNED_S + 12 * 3600.0
    state, told = watched(learned, until_s, LEARNED_S)
    assert len(told) <= 0.02 * 12 * 3600.0 / 15.0
    assert state.learned_blocks >= LEAST_BLOCKS + ANEW_BLOCKS


def test_incidents_and_rollouts_are_not_learned() -> None:
    state, _ = watched(Unusual(), LEARNED_S, broken=True, calm=False)
    assert state.detector is None
    assert state.history.samples is None


def test_what_is_unusual_is_not_learned_until_it_has_lasted(learned: Unusual) -> None:
    soon, _ = watched(learned, LEARNED_S + ADAPTED_S - 60.0, LEARNED_S, broken=True)
    assert soon.history.collected == learned.history.collected
    late_s = LEARNED_S + ADAPTED_S + (ANEW_BLOCKS + 4) * 3600.0
    late, _ = watched(learned, late_s, LEARNED_S, broken=True)
    assert late.learned_blocks > learned.learned_blocks


def test_a_pause_and_numbers_that_are_not_known_are_gaps_and_no_alarm(learned: Unusual) -> None:
    later_s = LEARNED_S + 1800.0
    state = learned.seen(a_trend(later_s), REPLICAS, True, later_s)
    assert unusual(state, later_s) is None
    numbers = sample(Trend(), 0)
    assert numbers.shape == (len(METRICS),)
    assert np.isnan(numbers[[0, 4, 5, 6, 7, 8, 9]]).all()
    half = Trend(demand_rps=3.0, whole=False)
    assert state.seen(half, REPLICAS, True, later_s + SAMPLE_S).score is state.score


def test_services_are_sampled_and_learned_at_moments_of_their_own() -> None:
    first, second = (Unusual(offset).seen(Trend(), 1, True, 0.0) for offset in (0.0, 0.5))
    assert second.sample_due_s - first.sample_due_s == SAMPLE_S / 2  # type: ignore[operator]
    assert second.learn_due_s - first.learn_due_s == LEARN_S / 2
