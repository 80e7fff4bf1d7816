"""A second for a few hundred replicas, half a minute for ten thousand."""

import pytest

from controller.operator.pace import Pace


@pytest.mark.parametrize(
    ("replicas", "period_s"), [(0, 1.0), (400, 1.0), (1000, 2.5), (10_000, 25.0)]
)
def test_looks_are_as_frequent_as_one_process_can_make_them(replicas: int, period_s: float) -> None:
    assert Pace(lambda: replicas, lambda: 0.0)() == period_s


def test_replicas_are_counted_once_a_second() -> None:
    counted, now_s = [0], [0.0]

    def count() -> int:
        counted[0] += 1
        return 800

    pace = Pace(count, lambda: now_s[0])
    assert [pace(), pace()] == [2.0, 2.0]
    assert counted == [1]
    now_s[0] = 1.0
    pace()
    assert counted == [2]
