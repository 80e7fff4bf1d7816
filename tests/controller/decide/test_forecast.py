"""The level of the last scrapes, the mean that it comes back to or not, and the headroom above."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decide.forecast import (
    LEAST_KNOWN_S,
    PRIOR_RISE_RATIO,
    SMOOTHING_S,
    forecast,
    smoothing_s,
)
from controller.decide.history import History

LEAD_S = 30.0


def seen(*loads: float, until_s: float = 0.0, every_s: float = 1.0) -> History:
    """One sample after the other; the last at `until_s`."""
    history = History()
    for i, load in enumerate(loads):
        history = history.seen(load, every_s, 1, until_s - every_s * (len(loads) - 1 - i))
    return history


def expected(history: History, lead_s: float = LEAD_S, usual: float | None = None) -> float:
    found = forecast(history, lead_s, 0.0, usual)
    assert found is not None
    return found.load


def test_without_history_the_recent_level_is_expected_to_rise_a_little() -> None:
    assert expected(seen(*[4.0] * 10)) == pytest.approx(4.0 * (1 + PRIOR_RISE_RATIO))


def test_the_level_is_taken_over_a_start_but_over_some_scrapes_at_least() -> None:
    assert smoothing_s(seen(1.0), 5.0) == SMOOTHING_S
    assert smoothing_s(seen(1.0), 90.0) == 90.0
    assert smoothing_s(seen(1.0, every_s=15.0), 5.0) == 45.0


def test_what_is_older_than_the_window_is_no_part_of_the_level() -> None:
    old = seen(*[100.0] * 5, until_s=-SMOOTHING_S - 31)
    found = forecast(old.seen(4.0, 6.0, 1, 0.0), LEAD_S, 0.0)
    assert found is not None
    assert found.level == pytest.approx(4.0)


@pytest.mark.parametrize(
    "history",
    [
        History(),
        seen(*[5.0] * 50, until_s=-LEAD_S - 1),
        seen(*[5.0] * (int(LEAST_KNOWN_S) - 1)),  # too little to be a level
    ],
)
def test_no_recent_samples_are_not_known_and_never_zero(history: History) -> None:
    assert forecast(history, LEAD_S, 0.0) is None


def test_samples_of_zero_are_known() -> None:
    assert expected(seen(*[0.0] * 10)) == 0.0


def test_a_steady_history_takes_the_prior_rise_away() -> None:
    found = forecast(seen(*[4.0] * 300), LEAD_S, 0.0)
    assert found is not None
    assert found.load == pytest.approx(4.0)
    assert found.error_ratio == pytest.approx(0.0, abs=1e-9)


def test_a_fall_is_carried_on_for_one_lead_time_at_most() -> None:
    found = forecast(seen(*[10.0 - i * 0.03 for i in range(300)]), LEAD_S, 0.0)
    assert found is not None
    assert found.level - 0.03 * LEAD_S * 1.05 <= found.load <= found.level


def test_a_load_that_always_comes_back_is_expected_to_and_one_that_wanders_is_not() -> None:
    rng = np.random.default_rng(1)
    back = np.repeat(rng.uniform(3.0, 5.0, 60), 40)
    wanders = np.repeat(4.0 + np.cumsum(rng.choice([-0.3, 0.3], 60)), 40)
    for loads, stays in ((back, False), (wanders, True)):
        high = float(loads.max()) + 1.0
        found = forecast(seen(*loads.tolist(), *[high] * 70), LEAD_S, 0.0)
        assert found is not None
        assert found.level == pytest.approx(high)
        assert (found.loads[len(found.loads) // 2] > 0.95 * high) is stays


@given(st.lists(st.floats(0.0, 1e3), min_size=2, max_size=200))
def test_no_forecast_is_below_nothing_or_beyond_what_was_seen_and_its_rises(
    loads: list[float],
) -> None:
    found = forecast(seen(*loads, every_s=5.0), LEAD_S, 0.0)
    if found is not None:
        assert found.load + 1e-6 >= 0.0
        assert found.load <= 3.0 * max(loads) + 1e-6


def test_a_ramp_is_carried_on_for_one_lead_time() -> None:
    found = forecast(seen(*[i * 0.1 for i in range(300)]), LEAD_S, 0.0)
    assert found is not None
    assert found.sure - found.level >= 0.1 * LEAD_S * 0.95


def test_a_rise_under_way_counts_though_the_past_was_calm() -> None:
    calm_then_up = seen(*[4.0] * 600, *[4.0 + 0.1 * i for i in range(60)])
    assert expected(calm_then_up) >= 4.0 + 0.1 * 60


def test_a_step_that_has_been_taken_is_not_carried_on() -> None:
    step = [4.0] * 600 + [8.0] * 40
    found = forecast(seen(*step), LEAD_S, 0.0)
    assert found is not None
    assert found.sure == pytest.approx(8.0)


def test_waves_seen_before_are_expected_again() -> None:
    waves = seen(*([2.0] * 60 + [8.0] * 60) * 4 + [2.0] * 60)
    assert expected(waves) > 4.0


def test_the_worse_forecasts_were_the_wider_the_headroom() -> None:
    def after(swing: float) -> tuple[float, float]:
        loads = ([4.0 - swing] * 40 + [4.0 + swing] * 40) * 5 + [4.0] * 40
        found = forecast(seen(*loads), LEAD_S, 0.0)
        assert found is not None
        assert found.error_ratio is not None
        return found.load, found.error_ratio

    ready, errors = zip(*(after(swing) for swing in (0.1, 0.5, 1.0, 2.0)), strict=True)
    assert list(ready) == sorted(ready)
    assert list(errors) == sorted(errors)


def test_a_rise_of_every_day_is_expected_again() -> None:
    assert expected(seen(*[4.0] * 300), usual=1.5) == pytest.approx(10.0)
    assert expected(seen(*[4.0] * 300), usual=-0.5) == pytest.approx(4.0)


def test_a_gap_in_the_samples_neither_raises_nor_lowers_the_level() -> None:
    history = seen(*[4.0] * 200, until_s=-120.0)
    for second in range(30):
        history = history.seen(4.0, 1.0, 1, second - 29.0)
    assert expected(history) == pytest.approx(4.0)
