"""What fit makes of history: units and order do not matter, absence is named."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.detectors.anomaly import fit, score_all
from monitor.detectors.anomaly.tail import Tail, episode_peaks, tail_of
from tests.monitor.anomalies import NAMES, STEP_S, baseline, calm

TRAIN, LIVE = calm(600), calm(120, seed=2)
LIVE[60:, 1] *= 1.5
SCORES = score_all(baseline(TRAIN), LIVE)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-6, 1e9), min_size=len(NAMES), max_size=len(NAMES)))
def test_the_unit_of_a_metric_changes_nothing(units):
    scores = score_all(baseline(TRAIN * units), LIVE * units)
    np.testing.assert_allclose(scores, SCORES, rtol=1e-6, atol=1e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.permutations(range(len(NAMES))))
def test_the_order_of_metrics_changes_nothing(order):
    scores = score_all(baseline(TRAIN[:, order]), LIVE[:, order])
    np.testing.assert_allclose(scores, SCORES, rtol=1e-6, atol=1e-6)


def test_fitting_twice_is_fitting_once():
    np.testing.assert_array_equal(score_all(baseline(TRAIN), LIVE), SCORES)


def test_a_metric_that_history_hardly_holds_is_named_and_left_out():
    train = TRAIN.copy()
    train[50:, 2] = np.nan
    known = baseline(train)
    assert known.unmodelled == ("kv",)
    assert not np.isnan(score_all(known, LIVE)[20:]).any()


def test_gaps_in_history_are_not_learnt():
    train = TRAIN.copy()
    train[200:205] = np.nan
    train[400, 1] = np.nan
    assert np.nanmedian(score_all(baseline(train), calm(200, seed=4))) < 1.0


def test_history_that_never_changes_can_be_fitted():
    still = np.ones((300, 3))
    known = fit(still, STEP_S)
    moved = np.ones((40, 3))
    moved[30:, 1] = 2.0
    scores = score_all(known, moved)
    assert scores[35] >= known.tail.threshold(0.01)
    assert scores[25] < known.tail.threshold(1.0)


def test_a_short_history_is_refused_with_the_length_it_needs():
    with pytest.raises(ValueError, match="give 160 complete samples"):
        fit(TRAIN[:100], STEP_S)
    with pytest.raises(ValueError, match="holds no metric"):
        fit(np.full((500, 2), np.nan), STEP_S)


def test_a_threshold_costs_the_alarms_it_promises():
    tail = Tail(level=1.0, per_day=2.0, decay=0.5)
    assert tail.threshold(2.0) == 1.0
    assert math.isclose(tail.rate_per_day(tail.threshold(0.1)), 0.1)
    assert tail.rate_per_day(-5.0) == 2.0
    assert tail.threshold(50.0) == 1.0  # never looser than what history shows


def test_the_tail_of_exponential_peaks_is_found():
    chance = np.random.default_rng(5)
    scores = np.zeros(100_000)
    scores[::20] = chance.exponential(0.4, 5_000)
    tail = tail_of(scores, step_s=60.0)
    assert math.isclose(tail.decay, 0.4, rel_tol=0.1)
    days = scores.size * 60.0 / 86_400.0
    wanted = tail.threshold(1.0)
    assert math.isclose((scores > wanted).sum() / days, 1.0, rel_tol=0.35)


def test_a_window_of_calm_parts_two_alarms():
    scores = np.zeros(60)
    scores[[5, 9, 40]] = 2.0, 3.0, 4.0
    assert episode_peaks(scores, 1.0) == [3.0, 4.0]
    assert episode_peaks(scores, 9.0) == []
