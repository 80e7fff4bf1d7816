"""Samples along time: bounded, weighted by what they are of, and unchanged by the next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decide.history import BIN_S, KEPT_S, History

samples = st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.1, 20.0)), min_size=1, max_size=60)


def of(parts: list[tuple[float, float]]) -> tuple[History, float]:
    history, now_s = History(), 0.0
    for load, over_s in parts:
        now_s += over_s
        history = history.seen(load, over_s, 2, now_s)
    return history, now_s


@given(samples)
def test_the_mean_is_weighted_by_time_however_samples_are_put_together(
    parts: list[tuple[float, float]],
) -> None:
    history, now_s = of(parts)
    total_s = sum(over_s for _, over_s in parts)
    mean = sum(load * over_s for load, over_s in parts) / total_s
    assert history.mean(-1.0, now_s) == pytest.approx(mean)
    assert history.each(-1.0, now_s) == pytest.approx(mean / 2)
    assert history.known_s(-1.0) == pytest.approx(total_s)


def test_scrapes_that_are_close_share_a_sample() -> None:
    history = History()
    for second in range(20):
        history = history.seen(1.0, 1.0, 1, float(second))
    assert history.at_s.size == 20 / BIN_S


def test_an_hour_is_kept() -> None:
    history = History().seen(9.0, 5.0, 1, 0.0).seen(1.0, 5.0, 1, KEPT_S + 1.0)
    assert history.at_s.tolist() == [KEPT_S + 1.0]


def test_a_sample_taken_in_leaves_the_former_history_as_it_was() -> None:
    before = History().seen(1.0, 5.0, 1, 10.0)
    before.seen(2.0, 5.0, 1, 20.0)
    assert before == History().seen(1.0, 5.0, 1, 10.0)


def test_nothing_is_known_of_a_time_without_samples() -> None:
    history = History().seen(1.0, 5.0, 1, 10.0)
    assert history.mean(10.0, 100.0) is None
    assert History().mean(0.0, 1.0) is None
    assert (History().spans_s, History().cadence_s) == (0.0, 0.0)
