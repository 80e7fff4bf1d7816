"""A tally says of many requests what all their times would say."""

import math

import numpy as np
import pytest

from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.timings import Metric, Tally
from profiler.twin import Simulation, simulate

from .engines import COST, steady

LIMITS = Limits(4, 512, 200)
SLO = Slo(ttft_s=0.5, itl_s=0.0062)


def told() -> Tally:
    simulation, tally = Simulation(COST, LIMITS), Tally(SLO)
    for progress in simulation.through([steady(60).take(20), steady(60).rows(slice(20, None))]):
        tally.add(progress.finished)
    return tally


@pytest.mark.parametrize("metric", Metric)
def test_quantiles_means_and_maxima_are_those_of_the_requests(metric: Metric) -> None:
    tally, timings = told(), simulate(steady(60), COST, LIMITS)
    values = timings.latency_s(metric)
    assert tally.mean_s(metric) == pytest.approx(values.mean())
    assert tally.max_s(metric) == values.max()
    for q in (0.5, 0.9, 0.99):
        exact = np.quantile(values, q, method="inverted_cdf")
        assert tally.quantile_s(metric, q) == pytest.approx(max(exact, 1e-5), rel=0.0025)


def test_counts_add_up() -> None:
    tally, timings = told(), simulate(steady(60), COST, LIMITS)
    assert (tally.requests, tally.input_tokens, tally.output_tokens) == (60, 12_000, 3000)
    assert tally.attained == timings.attained(SLO).sum()
    assert 0 < tally.attained < 60


def test_nothing_is_not_zero() -> None:
    empty = Tally()
    assert math.isnan(empty.quantile_s(Metric.TTFT, 0.5))
    assert math.isnan(empty.mean_s(Metric.TTFT))
    assert math.isnan(empty.max_s(Metric.TTFT))
