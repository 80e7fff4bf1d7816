"""A frozen baseline judges samples one by one and names what is wrong."""

import numpy as np
import pytest

from monitor.detectors.anomaly import Detector, Finding, score_all
from monitor.detectors.anomaly.detector import FALSE_ALARMS_PER_DAY, NAMED_METRICS
from monitor.detectors.anomaly.regimes import REGIMES
from monitor.detectors.anomaly.windows import WINDOW_SAMPLES
from tests.monitor.anomalies import NAMES, STEP_S, Floats, baseline, calm, replay, values

BASELINE = baseline()
QUEUE, ERRORS = NAMES.index("queue"), NAMES.index("errors")


def live(samples: int = 200) -> Floats:
    return calm(samples, seed=2)


def test_streaming_says_what_the_batch_says():
    samples = live()
    samples[50:55, 2] = np.nan
    samples[120:123] = np.nan
    samples[170:, 1] *= 2.0
    _, scores = replay(Detector(BASELINE), samples)
    np.testing.assert_allclose(values(scores), score_all(BASELINE, samples), rtol=1e-9)


def test_a_step_in_one_metric_of_many_is_found_and_named():
    samples = live()
    samples[100:140, QUEUE] += 60.0
    _, scores = replay(Detector(BASELINE), samples)
    hit = next(score for score in scores[100:] if score.anomalous)
    assert hit.at_s <= 103 * STEP_S
    assert hit.evidence[0].metric == "queue"
    assert hit.evidence[0].seen == samples[int(hit.at_s / STEP_S), QUEUE]
    assert hit.evidence[0].usual < hit.evidence[0].seen - 30.0
    assert len(hit.evidence) <= NAMED_METRICS


def test_calm_days_raise_about_as_many_alarms_as_promised():
    days = 20.0
    scores = score_all(BASELINE, calm(int(days * 86_400 / STEP_S), seed=3))
    over = scores >= BASELINE.tail.threshold(FALSE_ALARMS_PER_DAY)
    alarms = (np.diff(np.flatnonzero(over), prepend=-100) > WINDOW_SAMPLES).sum()
    assert alarms / days <= 4 * FALSE_ALARMS_PER_DAY


def test_a_constant_metric_that_moves_is_an_anomaly():
    samples = live()
    samples[100:, ERRORS] = 1e-3
    _, scores = replay(Detector(BASELINE), samples)
    assert scores[101].anomalous
    assert scores[101].evidence[0].metric == "errors"


def test_a_missing_metric_is_a_finding_and_no_anomaly():
    samples = live()
    samples[:, 3] = np.nan
    _, scores = replay(Detector(BASELINE), samples)
    assert all(score.missing == ("tokens",) for score in scores)
    assert all(Finding.METRICS_MISSING in score.findings for score in scores)
    assert not any(score.anomalous for score in scores)
    assert scores[-1].value is not None


def test_a_fault_is_found_while_another_metric_is_missing():
    samples = live()
    samples[:, 3] = np.nan
    samples[100:, QUEUE] += 60.0
    _, scores = replay(Detector(BASELINE), samples)
    assert any(score.anomalous for score in scores[100:104])
    assert scores[103].evidence[0].metric == "queue"


def test_too_little_seen_gives_no_score():
    samples = live(30)
    samples[20:, :4] = np.nan
    _, scores = replay(Detector(BASELINE), samples)
    assert scores[-1].value is None
    assert scores[-1].false_alarms_per_day is None
    assert Finding.TOO_LITTLE_SEEN in scores[-1].findings
    assert scores[0].value is None  # a window has hardly begun
    assert scores[WINDOW_SAMPLES].value is not None


def test_a_gap_is_a_finding_and_its_samples_are_missing():
    samples = live(60)
    detector, _ = replay(Detector(BASELINE), samples[:30])
    _, late = detector.seen(samples[40], 40 * STEP_S)
    assert Finding.SAMPLES_MISSING in late.findings
    assert Finding.TOO_LITTLE_SEEN in late.findings
    _, near = detector.seen(samples[31], 31 * STEP_S)
    assert Finding.SAMPLES_MISSING in near.findings
    assert near.value is not None


@pytest.mark.parametrize("again_s", [29 * STEP_S, 0.0])
def test_a_sample_out_of_order_changes_nothing(again_s):
    detector, _ = replay(Detector(BASELINE), live(30))
    after, score = detector.seen(live()[0], again_s)
    assert after is detector
    assert score.findings == (Finding.OUT_OF_ORDER,)


def test_memory_is_one_window():
    detector, _ = replay(Detector(BASELINE), live(10 * WINDOW_SAMPLES))
    assert detector.recent is not None
    assert detector.recent.shape == (WINDOW_SAMPLES, len(NAMES))
    assert detector.recent.base is None  # no view that keeps an older array alive
    assert BASELINE.regimes.centres.shape[0] <= REGIMES


def test_the_baseline_does_not_learn_an_incident():
    samples = live(600)
    samples[100:, QUEUE] += 60.0
    before = BASELINE.regimes.centres.copy(), BASELINE.usual_energy.copy(), BASELINE.tail
    detector, scores = replay(Detector(BASELINE), samples)
    assert np.mean([score.anomalous for score in scores[110:]]) > 0.95
    assert detector.baseline is BASELINE
    np.testing.assert_array_equal(BASELINE.regimes.centres, before[0])
    np.testing.assert_array_equal(BASELINE.usual_energy, before[1])
    assert BASELINE.tail == before[2]


def test_an_incident_has_one_begin_and_ends_after_a_window_of_calm():
    samples = live(200)
    samples[100:110, QUEUE] += 60.0
    _, scores = replay(Detector(BASELINE), samples)
    begins = {score.since_s for score in scores} - {None}
    assert len(begins) == 1
    last = max(score.at_s for score in scores if score.anomalous)
    ended = next(s.at_s for s in scores if s.at_s > last and s.since_s is None)
    assert ended == last + (WINDOW_SAMPLES + 1) * STEP_S
