"""The capacity surface: true at its points, honest between them, the same once written."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.configuration import Configuration
from profiler.document import parse_profile_document, to_document
from profiler.errors import Refused
from profiler.slo import Slo
from profiler.surface import CapacitySurface
from recommender import SurfaceGauge, measure_surface
from tests.recommender.builders import a_profile, a_slo, a_workload

CONFIGURATION = Configuration(max_num_seqs=16, max_num_batched_tokens=512, max_model_len=4096)
AXES = ((32.0, 128.0), (8.0, 32.0), (0.5, 2.0))
INSIDE = st.tuples(st.floats(32, 128), st.floats(8, 32), st.floats(0.5, 2))


@pytest.fixture(scope="module")
def gauge() -> SurfaceGauge:
    return SurfaceGauge(a_profile(), CONFIGURATION, a_slo(), a_workload())


@pytest.fixture(scope="module")
def surface(gauge: SurfaceGauge) -> CapacitySurface:
    return gauge.over(AXES)


def test_its_points_are_the_twins(surface: CapacitySurface, gauge: SurfaceGauge) -> None:
    assert surface.rate_rps(32.0, 8.0, 0.5) == pytest.approx(gauge.rate_rps((32.0, 8.0, 0.5)))
    assert surface.rate_rps(128.0, 32.0, 2.0) == pytest.approx(gauge.rate_rps((128.0, 32.0, 2.0)))


@given(INSIDE)
def test_between_points_it_stays_between_their_rates(
    surface: CapacitySurface, at: tuple[float, float, float]
) -> None:
    assert min(surface.rates_rps) * 0.999 <= surface.rate_rps(*at) <= max(surface.rates_rps) * 1.001


@given(INSIDE)
def test_the_interpolation_lies_within_the_bounds(
    surface: CapacitySurface, at: tuple[float, float, float]
) -> None:
    low, high = surface.bounds_rps(*at)
    assert low * 0.999 <= surface.rate_rps(*at) <= high * 1.001


@pytest.mark.parametrize("at", [(64.0, 16.0, 1.0), (100.0, 10.0, 0.7), (40.0, 30.0, 1.8)])
def test_the_twin_lies_within_the_bounds(
    surface: CapacitySurface, gauge: SurfaceGauge, at: tuple[float, float, float]
) -> None:
    low, high = surface.bounds_rps(*at)
    assert low * 0.97 <= gauge.rate_rps(at) <= high * 1.03  # rates are found to 2 %


@given(INSIDE, st.integers(0, 2))
def test_longer_or_burstier_requests_never_raise_it(
    surface: CapacitySurface, at: tuple[float, float, float], axis: int
) -> None:
    more = [x * (1.2 if i == axis else 1.0) for i, x in enumerate(at)]
    assert surface.rate_rps(*more) <= surface.rate_rps(*at) * 1.001


def test_beyond_its_edge_it_gives_the_edge(surface: CapacitySurface) -> None:
    assert surface.rate_rps(1.0, 1.0, 0.1) == pytest.approx(surface.rates_rps[0])
    assert not surface.covers(1.0, 8.0, 1.0)
    assert surface.covers(64.0, 16.0, 1.0)


def test_next_to_a_point_that_carries_nothing_it_promises_nothing() -> None:
    cliff = CapacitySurface(CONFIGURATION, a_slo(), (10.0, 100.0), (10.0,), (1.0,), (4.0, 0.0))
    assert cliff.rate_rps(10.0, 10.0, 1.0) == pytest.approx(4.0)
    assert cliff.rate_rps(50.0, 10.0, 1.0) == 0.0


def test_a_product_of_powers_is_met_everywhere() -> None:
    axes = ((10.0, 1000.0), (10.0, 1000.0), (1.0,))
    rates = tuple(1e5 / (i * o) for i in axes[0] for o in axes[1])
    exact = CapacitySurface(CONFIGURATION, a_slo(), *axes, rates)
    assert exact.rate_rps(77.0, 333.0, 1.0) == pytest.approx(1e5 / (77.0 * 333.0))


def test_its_error_is_measured_where_it_is_not_a_point() -> None:
    made = measure_surface(a_profile(), CONFIGURATION, a_slo(), a_workload(), tolerance=0.3)
    assert made.checked > 0
    assert 0 <= made.mean_error_ratio <= made.error_ratio < 1.0
    assert made.covers(64.0, 16.0, 1.0)


def test_a_profile_keeps_it_for_the_configuration_and_the_objective_alone(
    surface: CapacitySurface,
) -> None:
    told = replace(surface, error_ratio=0.07, mean_error_ratio=0.02, checked=9)
    profile = replace(a_profile(), capacity=(told,))
    again = parse_profile_document(to_document(profile, "p"), "here")
    found = again.surface(CONFIGURATION, a_slo())
    assert found is not None
    assert found.rates_rps == pytest.approx(surface.rates_rps)
    assert (found.error_ratio, found.checked) == (0.07, 9)
    assert again.surface(replace(CONFIGURATION, max_num_seqs=32), a_slo()) is None
    assert again.surface(CONFIGURATION, Slo(ttft_s=0.6, itl_s=0.05)) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_tokens": (5.0, 5.0)}, "capacity.input_tokens: must be positive and ascending"),
        ({"cv": ()}, "capacity.cv"),
        ({"rates_rps": (1.0,)}, "capacity.ratesRps: must be 8 rates, got 1"),
        ({"rates_rps": (float("nan"),) * 8}, "capacity.ratesRps: must be rates of 0 or more"),
    ],
)
def test_what_is_no_grid_is_refused(
    surface: CapacitySurface, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(Refused, match=told):
        replace(surface, **changes)


def test_lengths_that_do_not_fit_carry_nothing(gauge: SurfaceGauge) -> None:
    assert gauge.rate_rps((4000.0, 4000.0, 1.0)) == 0.0
