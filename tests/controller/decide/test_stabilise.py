"""Guards: scale-in waits for its window, bounds bind, each says so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decide.stabilise import (
    SCALE_IN_LEAST_S,
    bounded,
    remember_wish,
    scale_in_window_s,
    slow_in,
)
from controller.decide.types import Reason, Wish
from controller.service import Bounds

FALLING = (Reason.DEMAND_FALLING,)


def test_scale_in_goes_no_lower_than_the_highest_recent_wish() -> None:
    wishes = (Wish(0.0, 4), Wish(1.0, 3), Wish(2.0, 2))
    cooling = (*FALLING, Reason.COOLING_DOWN)
    assert slow_in((2, FALLING), 5, wishes, 1.0) == (4, cooling)
    assert slow_in((2, FALLING), 3, wishes, 1.0) == (3, cooling)
    assert slow_in((2, FALLING), 5, wishes[2:], 1.0) == (2, FALLING)


def test_what_is_mostly_unknown_scales_nothing_in() -> None:
    cooling = (*FALLING, Reason.COOLING_DOWN)
    assert slow_in((2, FALLING), 5, (Wish(0.0, 2),), 0.4) == (5, cooling)
    assert slow_in((2, FALLING), 5, (Wish(0.0, 2),), 0.6) == (2, FALLING)
    assert slow_in((6, ()), 5, (Wish(0.0, 6),), 0.0) == (6, ())


def test_scale_out_and_holding_are_not_slowed() -> None:
    wishes = (Wish(0.0, 9),)
    assert slow_in((5, ()), 4, wishes, 1.0) == (5, ())
    assert slow_in((4, ()), 4, wishes, 1.0) == (4, ())


def test_wishes_outside_the_window_are_forgotten() -> None:
    wishes = (Wish(0.0, 9), Wish(50.0, 3))
    kept = remember_wish(wishes, Wish(61.0, 2), current=9, window_s=60.0)
    assert kept == (Wish(50.0, 3), Wish(61.0, 2))


def test_wishes_of_one_moment_are_kept_as_the_highest() -> None:
    kept: tuple[Wish, ...] = (Wish(0.0, 1),)
    for second, serving in enumerate((2, 5, 3), start=10):
        kept = remember_wish(kept, Wish(float(second), serving), current=1, window_s=60.0)
    assert kept == (Wish(0.0, 1), Wish(10.0, 5))


def test_the_window_is_no_shorter_than_starts_and_scrapes_ask_for() -> None:
    assert scale_in_window_s(1.0, 1.0) == SCALE_IN_LEAST_S
    assert scale_in_window_s(600.0, 1.0) == 1200.0
    assert scale_in_window_s(1.0, 15.0) == 270.0


def test_an_empty_window_begins_with_what_serves() -> None:
    """After a restart or a long outage, the first scrape alone shrinks nothing."""
    for former in ((), (Wish(0.0, 1),)):
        kept = remember_wish(former, Wish(1000.0, 1), current=4, window_s=60.0)
        assert kept == (Wish(1000.0, 4),)
        assert slow_in((1, FALLING), 4, kept, 1.0)[0] == 4


@pytest.mark.parametrize(
    ("count", "inside", "reasons"),
    [
        (0, 2, (Reason.AT_MINIMUM,)),
        (2, 2, ()),
        (5, 5, ()),
        (6, 5, (Reason.AT_MAXIMUM,)),
    ],
)
def test_bounds_bind_and_say_so(count: int, inside: int, reasons: tuple[Reason, ...]) -> None:
    assert bounded((count, ()), Bounds(2, 5)) == (inside, reasons)


def test_none_serve_only_where_that_is_allowed() -> None:
    assert bounded((0, ()), Bounds(1, 5, zero_after_s=60.0)) == (0, ())
    assert bounded((1, ()), Bounds(2, 5, zero_after_s=60.0)) == (2, (Reason.AT_MINIMUM,))


@given(st.integers(0, 50), st.integers(0, 10), st.integers(0, 10))
def test_bounds_hold_for_any_count_and_bounding_twice_is_once(
    count: int, low: int, more: int
) -> None:
    bounds = Bounds(low, low + more)
    once = bounded((count, ()), bounds)
    assert low <= once[0] <= low + more
    assert bounded(once, bounds) == once


@given(
    st.integers(0, 20),
    st.integers(0, 20),
    st.lists(st.builds(Wish, st.floats(0, 90), st.integers(0, 20))),
)
def test_slowing_never_raises_above_what_serves_nor_below_the_wish(
    count: int, current: int, wishes: list[Wish]
) -> None:
    slowed, _ = slow_in((count, ()), current, tuple(wishes), 1.0)
    assert min(count, current) <= slowed <= max(count, current)
