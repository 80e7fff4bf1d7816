"""What came at the same time on every day is expected again, and nothing else."""

import pytest

from controller.decide.season import DAY_S, DAYS, SLOT_S, Season

NINE_S = 9 * 3600.0


def days(*at_nine: float, low: float = 2.0) -> Season:
    """One factor a day that the load is multiplied by at nine; the last day ends before."""
    season = Season()
    for day, factor in enumerate(at_nine):
        end_s = NINE_S if day == len(at_nine) - 1 else DAY_S
        at_s = SLOT_S / 2
        while at_s < end_s:
            load = low * factor if at_s >= NINE_S else low
            season = season.seen(load, SLOT_S, day * DAY_S + at_s)
            at_s += SLOT_S
    return season


def just_before(season_days: int) -> float:
    return (season_days - 1) * DAY_S + NINE_S - 30.0


def test_a_rise_of_every_day_is_expected_once_a_start_would_be_ready_in_it() -> None:
    season = days(3.0, 3.0, 3.0)
    assert season.rise_ratio(90.0, just_before(3)) == pytest.approx(2.0)


def test_one_day_is_no_habit() -> None:
    assert days(3.0, 3.0).rise_ratio(90.0, just_before(2)) is None


def test_days_that_do_not_agree_are_no_habit() -> None:
    assert days(3.0, 1.0, 3.0, 1.0).rise_ratio(90.0, just_before(4)) is None


def test_the_quiet_hours_bring_no_rise() -> None:
    season = days(3.0, 3.0, 3.0)
    assert season.rise_ratio(90.0, 2 * DAY_S + 7 * 3600.0) == pytest.approx(0.0)


def test_a_day_without_signals_is_unknown_and_not_empty() -> None:
    season = days(3.0, 3.0)
    later = season.seen(2.0, SLOT_S, 3 * DAY_S + 8 * 3600.0)
    assert later.rise_ratio(90.0, 3 * DAY_S + NINE_S - 30.0) is None
    assert later.rise_ratio(90.0, 3 * DAY_S + 8 * 3600.0) == pytest.approx(0.0)


def test_what_is_a_week_old_is_forgotten() -> None:
    season = days(3.0, 3.0, 3.0).seen(2.0, SLOT_S, (DAYS + 3) * DAY_S)
    assert season.rise_ratio(90.0, (DAYS + 3) * DAY_S + NINE_S - 30.0) is None


def test_a_clock_that_goes_back_begins_anew() -> None:
    season = days(3.0, 3.0, 3.0).seen(2.0, SLOT_S, 10.0)
    assert season.rise_ratio(90.0, just_before(3)) is None


def test_the_same_is_the_same() -> None:
    assert days(3.0, 2.0, 1.0) == days(3.0, 2.0, 1.0)
    assert days(3.0, 2.0, 1.0) != days(3.0, 2.5, 1.0)
