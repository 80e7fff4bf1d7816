"""Signals that come twice, late or in another order, and a clock that jumps, do no harm."""

from dataclasses import replace

import numpy as np
import pytest

from controller.decide import State, decide
from controller.decide.history import History
from controller.decide.stabilise import BACK_OFF_LONGEST_S, back_off, remember_wish
from controller.decide.types import Wish
from controller.observation import Phase, ReplicaId
from controller.observe import Observer
from tests.controller.builders import a_reading, a_replica, a_service, an_observation

R1 = ReplicaId("r1")
SERVING = (a_replica("r1"),)


def an_observer(seconds: int, from_s: float = 0.0) -> Observer:
    """Read once a second, two requests ending in each."""
    observer = Observer(a_service())
    for second in range(seconds):
        at_s = from_s + second
        observer.read({R1: a_reading(at_s, finished=2.0 * second)}, at_s)
        observer.observe(SERVING, at_s)
    return observer


def test_a_page_that_comes_twice_counts_once() -> None:
    observer = an_observer(3)
    observer.read({R1: a_reading(3.0, finished=6.0)}, 3.0)
    assert observer.observe(SERVING, 3.0).demand.arrival_rps == 2.0
    observer.read({R1: a_reading(3.0, finished=6.0)}, 3.5)
    again = observer.observe(SERVING, 3.5).demand
    assert (again.arrival_rps, again.ended, again.waiting) == (None, 0.0, 0.0)


def test_a_page_that_comes_late_is_passed_over() -> None:
    observer = an_observer(3)
    observer.read({R1: a_reading(4.0, finished=8.0)}, 4.0)
    observer.read({R1: a_reading(3.0, finished=6.0)}, 4.0)
    demand = observer.observe(SERVING, 4.0).demand
    assert (demand.arrival_rps, demand.over_s, demand.waiting) == (2.0, 2.0, 0.0)


def test_after_a_clock_that_went_back_demand_is_known_with_the_second_page() -> None:
    observer = an_observer(30, from_s=1000.0)
    observer.read({R1: a_reading(400.0, finished=60.0)}, 400.0)
    assert observer.observe(SERVING, 400.0).demand.arrival_rps is None
    observer.read({R1: a_reading(401.0, finished=62.0)}, 401.0)
    assert observer.observe(SERVING, 401.0).demand.arrival_rps == 2.0


def test_a_start_across_a_clock_that_went_back_is_not_measured() -> None:
    observer = Observer(a_service())
    coming = a_replica("r1", Phase.STARTING, created_s=1000.0)
    observer.observe((coming,), 1001.0)
    ready = replace(coming, phase=Phase.STANDBY, ready_s=420.0)
    assert observer.observe((ready,), 420.0).start_up_s == 30.0


@pytest.mark.parametrize("back_s", [0.5, 600.0, 1e6])
def test_history_stays_in_order_when_the_clock_goes_back(back_s: float) -> None:
    history = History()
    for at_s in range(1000, 1100, 5):
        history = history.seen(3.0, 5.0, 2, float(at_s))
    now_s = 1095.0 - back_s
    after = history.seen(3.0, 5.0, 2, now_s)
    assert (np.diff(after.at_s) > 0).all()
    assert after.at_s[-1] == now_s
    assert after.mean(now_s - 50.0, now_s) == pytest.approx(3.0)
    assert after.over_s.sum() == pytest.approx(history.over_s.sum() + 5.0)
    assert history.at_s[-1] == 1095.0  # the former is as it was


def test_wishes_of_a_future_that_is_gone_do_not_bind() -> None:
    wishes = (Wish(1000.0, 9), Wish(1010.0, 9))
    kept = remember_wish(wishes, Wish(400.0, 2), current=4, window_s=60.0)
    assert kept == (Wish(400.0, 4),)  # begins with what serves


def test_a_pause_after_a_failed_start_is_never_longer_than_the_longest() -> None:
    state = State(serving=1, failed_starts=3, failed_s=1000.0, start_after_s=1008.0)
    assert back_off(an_observation("s"), state, 400.0).start_after_s == 400.0 + BACK_OFF_LONGEST_S


@pytest.mark.parametrize("jump_s", [-600.0, -2.0, 600.0, 7200.0])
def test_a_clock_that_jumps_changes_no_count(jump_s: float) -> None:
    observer, state, counts = Observer(a_service(standbys=0)), State(serving=3), []
    replicas = tuple(a_replica(f"r{i}") for i in range(3))
    for second in range(600):
        now_s = 10_000.0 + second + (jump_s if second >= 300 else 0.0)
        pages = {r.id: a_reading(now_s, finished=3.2 * second, running=1.0) for r in replicas}
        observer.read(pages, now_s)
        decision, state = decide(observer.observe(replicas, now_s), state, now_s)
        counts.append(decision.serving)
    assert set(counts) == {3}
