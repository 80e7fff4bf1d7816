"""How capacity moves with lengths: monotone, 1 where planned, and close to the twin."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.configuration import Configuration
from recommender import LengthScale, Station, calm_capacity_rps
from tests.recommender.builders import a_profile, a_slo, a_workload

STATION = Station.of(a_profile(), Configuration(max_num_seqs=16, max_num_batched_tokens=512))
LONGEST_TOKENS = 4096
WORKLOAD = a_workload()
SCALE = LengthScale(STATION, WORKLOAD, a_slo(), LONGEST_TOKENS)


def ratio(mean_input: float, mean_output: float, cv: float = 1.0) -> float:
    found = SCALE.ratio(mean_input, mean_output, cv)
    assert found is not None
    return found


def test_planned_lengths_and_calm_arrivals_are_one() -> None:
    assert ratio(64.0, 16.0) == pytest.approx(1.0, rel=0.06)  # lengths are told apart by 5 %


@settings(deadline=None, max_examples=30)
@given(st.floats(20.0, 400.0), st.floats(5.0, 100.0), st.floats(1.0, 3.0), st.floats(1.0, 3.0))
def test_longer_requests_are_never_carried_better(
    mean_input: float, mean_output: float, longer_in: float, longer_out: float
) -> None:
    longer = ratio(mean_input * longer_in, mean_output * longer_out)
    assert longer <= ratio(mean_input, mean_output) * 1.1


def test_bursts_cost_capacity() -> None:
    assert ratio(64.0, 16.0, cv=3.0) < ratio(64.0, 16.0, cv=1.0)


def test_lengths_that_no_replica_can_serve_have_none() -> None:
    assert SCALE.ratio(4000.0, 400.0, 1.0) is None
    tight = LengthScale(STATION, WORKLOAD, a_slo(ttft_s=0.1), LONGEST_TOKENS)
    assert tight.ratio(3000.0, 16.0, 1.0) is None  # missed even idle


@pytest.mark.parametrize(("mean_input", "mean_output"), [(128, 16), (64, 48), (200, 40)])
def test_it_is_close_to_the_twin(mean_input: int, mean_output: int) -> None:
    other = a_workload(mean_input_tokens=mean_input, mean_output_tokens=mean_output)
    planned, there = (calm_capacity_rps(STATION, each, a_slo()) for each in (WORKLOAD, other))
    assert ratio(mean_input, mean_output) == pytest.approx(there / planned, rel=0.25)


def test_a_workload_s_own_burstiness_and_rate_do_not_move_what_is_calm() -> None:
    bursty = replace(WORKLOAD, cv=4.0).at_rate(50.0)
    calm = calm_capacity_rps(STATION, WORKLOAD, a_slo())
    assert calm_capacity_rps(STATION, bursty, a_slo()) == pytest.approx(calm)
