"""Calm samples for the next baseline: bounded, and free of incidents and rollouts."""

import numpy as np

from monitor.detectors.anomaly import History
from monitor.detectors.anomaly.history import BLOCKS, QUARANTINE_SAMPLES


def fed(history: History, count: int, calm: bool = True, value: float = 1.0) -> History:
    for _ in range(count):
        history = history.seen(np.array([value, 0.0]), calm)
    return history


def test_nothing_is_held_before_quarantine_ends():
    assert fed(History(), QUARANTINE_SAMPLES).samples is None
    held = fed(History(), 2 * QUARANTINE_SAMPLES).samples
    assert held is not None
    assert held.shape == (QUARANTINE_SAMPLES, 2)


def test_an_incident_takes_what_went_just_before_it_along():
    history = fed(fed(History(), 3 * QUARANTINE_SAMPLES), QUARANTINE_SAMPLES, value=7.0)
    history = fed(history, 100, calm=False, value=9.0)
    history = fed(history, 2 * QUARANTINE_SAMPLES)
    assert history.samples is not None
    assert not np.isin(history.samples, [7.0, 9.0]).any()


def test_a_gap_is_marked_once_so_that_no_window_spans_it():
    history = fed(fed(History(), 2 * QUARANTINE_SAMPLES), 5, calm=False)
    history = fed(history, 2 * QUARANTINE_SAMPLES)
    assert history.samples is not None
    gaps = np.asarray(np.isnan(history.samples).all(axis=1))
    assert gaps.sum() == 1
    assert gaps[QUARANTINE_SAMPLES]


def test_memory_is_bounded_and_the_oldest_goes_first():
    history = fed(History(), QUARANTINE_SAMPLES, value=5.0)
    history = fed(history, (BLOCKS + 3) * QUARANTINE_SAMPLES)
    assert len(history.blocks) == BLOCKS
    assert history.samples is not None
    assert 5.0 not in history.samples
