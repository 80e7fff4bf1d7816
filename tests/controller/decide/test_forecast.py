"""The level of the last scrapes, and how much it has risen over one lead time before."""

import pytest

from controller.decide.forecast import (
    HISTORY_S,
    LEAST_SAMPLES,
    PRIOR_RISE_RATIO,
    SMOOTHING_S,
    forecast_rps,
    remember,
)
from controller.decide.types import Sample

LEAD_S = 30.0


def samples(*rates: float, until_s: float = 0.0, every_s: float = 1.0) -> tuple[Sample, ...]:
    """One a scrape; the last at `until_s`."""
    first_s = until_s - every_s * (len(rates) - 1)
    return tuple(Sample(first_s + i * every_s, rate) for i, rate in enumerate(rates))


def test_without_history_the_recent_level_is_expected_to_rise_a_little() -> None:
    seen = samples(*[4.0] * 10)
    assert forecast_rps(seen, LEAD_S, 0.0) == pytest.approx(4.0 * (1 + PRIOR_RISE_RATIO))


def test_the_level_is_the_mean_of_the_smoothing_window_alone() -> None:
    old = samples(*[100.0] * 5, until_s=-SMOOTHING_S - 1)
    recent = samples(2.0, 4.0, 6.0, 2.0, 6.0)
    assert forecast_rps((*old, *recent), 5.0, 0.0) == pytest.approx(4.0 * (1 + PRIOR_RISE_RATIO))


@pytest.mark.parametrize(
    "seen",
    [
        (),
        samples(*[5.0] * 50, until_s=-SMOOTHING_S),
        samples(*[5.0] * (LEAST_SAMPLES - 1)),  # too few to be a level
    ],
)
def test_no_recent_samples_are_not_known_and_never_zero(seen: tuple[Sample, ...]) -> None:
    assert forecast_rps(seen, LEAD_S, 0.0) is None


def test_samples_of_zero_are_known() -> None:
    assert forecast_rps(samples(*[0.0] * LEAST_SAMPLES), LEAD_S, 0.0) == 0.0


def test_a_steady_history_takes_the_prior_rise_away() -> None:
    assert forecast_rps(samples(*[4.0] * 300), LEAD_S, 0.0) == pytest.approx(4.0)


def test_a_falling_history_is_no_rise() -> None:
    falling = samples(*[10.0 - i * 0.03 for i in range(300)])
    level = sum(s.arrival_rps for s in falling[-20:]) / 20
    assert forecast_rps(falling, LEAD_S, 0.0) == pytest.approx(level)


def test_a_ramp_is_forecast_one_lead_time_ahead() -> None:
    ramp = samples(*[i * 0.1 for i in range(300)])
    level = sum(s.arrival_rps for s in ramp[-20:]) / 20
    assert forecast_rps(ramp, LEAD_S, 0.0) == pytest.approx(level + 0.1 * LEAD_S, rel=0.05)


def test_waves_seen_before_are_expected_again() -> None:
    waves = samples(*([2.0] * 60 + [8.0] * 60) * 4 + [2.0] * 60)
    forecast = forecast_rps(waves, LEAD_S, 0.0)
    assert forecast is not None
    assert forecast == pytest.approx(8.0, abs=0.5)


def test_a_longer_lead_never_expects_less_of_a_ramp() -> None:
    ramp = samples(*[i * 0.05 for i in range(600)])
    rises = [forecast_rps(ramp, lead_s, 0.0) or 0.0 for lead_s in (10.0, 30.0, 60.0, 120.0)]
    assert rises == sorted(rises)


def test_a_gap_in_the_samples_neither_raises_nor_lowers_the_level() -> None:
    seen = (*samples(*[4.0] * 200, until_s=-120.0), *samples(*[4.0] * 20))
    assert forecast_rps(seen, LEAD_S, 0.0) == pytest.approx(4.0)


def test_unknown_arrivals_leave_a_gap_and_old_samples_are_dropped() -> None:
    seen = (Sample(0.0, 1.0), Sample(10.0, 2.0))
    assert remember(seen, None, 20.0) == seen
    assert remember(seen, 3.0, HISTORY_S + 5.0) == (Sample(10.0, 2.0), Sample(HISTORY_S + 5.0, 3.0))
