"""A histogram's shares and quantiles are PromQL's; its increments know a restart."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor import Histogram

INF = math.inf
BOUNDS = (1.0, 2.0, 4.0, INF)


def made(*cumulative: float, total: float = 10.0) -> Histogram:
    return Histogram(BOUNDS, tuple(map(float, cumulative)), total)


EVEN = made(2, 6, 8, 10)


def test_count_and_mean() -> None:
    assert (EVEN.count, EVEN.mean) == (10, 1)
    assert made(0, 0, 0, 0, total=0).mean is None


@pytest.mark.parametrize(
    ("x", "share"),
    [(-1, 0), (0, 0), (0.5, 0.1), (1, 0.2), (1.5, 0.4), (2, 0.6), (4, 0.8), (9, 0.8), (INF, 1)],
)
def test_share_interpolates_inside_the_bucket(x: float, share: float) -> None:
    assert EVEN.share_within(x) == pytest.approx(share)


@pytest.mark.parametrize(
    ("q", "value"),
    # by PromQL's rule: rank 10·q, linear inside its bucket, the last finite bound beyond
    [(0, 0), (0.1, 0.5), (0.2, 1), (0.4, 1.5), (0.7, 3), (0.8, 4), (0.9, 4), (1, 4)],
)
def test_quantile_is_promqls(q: float, value: float) -> None:
    assert EVEN.quantile(q) == pytest.approx(value)


def test_a_first_bucket_at_or_below_zero_answers_its_bound() -> None:
    assert Histogram((-1.0, 1.0, INF), (2.0, 2.0, 4.0), 0.0).quantile(0.2) == -1
    assert Histogram((0.0, 1.0, INF), (2.0, 2.0, 4.0), 0.0).share_within(0) == 0.5


def test_an_empty_histogram_has_neither_share_nor_quantile() -> None:
    empty = made(0, 0, 0, 0, total=0)
    assert empty.share_within(1) is None
    assert empty.quantile(0.5) is None


def test_a_single_bucket_has_no_quantile() -> None:
    assert Histogram((INF,), (3.0,), 3.0).quantile(0.5) is None


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_refuses_a_quantile_outside_its_range(q: float) -> None:
    with pytest.raises(ValueError, match="0–1"):
        EVEN.quantile(q)


def test_since_is_the_increment() -> None:
    assert made(3, 8, 12, 15, total=14).since(EVEN) == made(1, 2, 4, 5, total=4)


def test_since_is_none_after_a_restart() -> None:
    assert made(0, 0, 0, 1, total=1).since(EVEN) is None
    assert made(1, 7, 9, 12, total=14).since(EVEN) is None


def test_since_and_plus_are_none_with_other_bounds() -> None:
    other = Histogram((1.0, INF), (0.0, 1.0), 1.0)
    assert EVEN.since(other) is None
    assert EVEN.plus(other) is None


@pytest.mark.parametrize(
    ("bounds", "counts", "total"),
    [
        ((), (), 0.0),
        ((1.0, 2.0), (1.0, 1.0), 0.0),
        ((1.0, INF), (1.0,), 0.0),
        ((2.0, 1.0, INF), (1.0, 1.0, 1.0), 0.0),
        ((1.0, INF), (2.0, 1.0), 0.0),
        ((1.0, INF), (-1.0, 1.0), 0.0),
        ((1.0, INF), (math.nan, 1.0), 0.0),
        ((1.0, INF), (1.0, 1.0), math.nan),
    ],
)
def test_refuses_what_is_no_histogram(
    bounds: tuple[float, ...], counts: tuple[float, ...], total: float
) -> None:
    with pytest.raises(ValueError, match="histogram"):
        Histogram(bounds, counts, total)


steps = st.lists(st.integers(0, 50), min_size=4, max_size=4)


def rising(added: list[int]) -> Histogram:
    return made(*(sum(added[: i + 1]) for i in range(4)))


@given(steps, steps)
def test_what_was_added_is_what_came_since(first: list[int], second: list[int]) -> None:
    together = rising(first).plus(rising(second))
    assert together is not None
    assert together.since(rising(first)) == rising(second)


@given(steps, st.floats(0, 10), st.floats(0, 10))
def test_shares_grow_with_the_bound(added: list[int], x: float, y: float) -> None:
    low, high = (rising(added).share_within(at) for at in sorted((x, y)))
    if low is not None and high is not None:
        assert 0 <= low <= high + 1e-12 <= 1 + 2e-12


@given(steps, st.floats(0.01, 0.99))
def test_a_quantile_covers_its_share(added: list[int], q: float) -> None:
    value = rising(added).quantile(q)
    if value is not None and value < 4:
        assert rising(added).share_within(value) == pytest.approx(q)
