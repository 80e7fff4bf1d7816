"""Constants from points: exact where points are exact, honest where they are not."""

from dataclasses import replace

import numpy as np
import pytest

from profiler.calibrate import Measurement, predict_s
from profiler.errors import Refused
from profiler.estimate import relative_error
from profiler.measure.profiling import Decode, Measured, Point, Prefill, candidates, fit
from profiler.measure.profiling.fit import fit_estimate, generic_prior, suspicious
from profiler.measure.profiling.points import decode_shape, expected
from profiler.step_cost import GRID_TOKENS, StepCost
from tests.profiler.profiling.rig import BOUNDS, PRIOR, step_errors, true_cost


def measured(cost: StepCost, point: Point, factor: float = 1.0) -> Measured:
    """A point as an engine of this cost would show it: steps alone, and for a prefill TTFT."""
    whole = expected(point, cost.window_tokens)
    steps = replace(whole, requests=0.0)
    found = [replace(steps, seconds=predict_s(cost, steps) * factor)]
    if isinstance(point, Prefill):
        found.append(replace(whole, name="TTFT", seconds=predict_s(cost, whole) * factor))
    return Measured(point, tuple(found))


SOME = candidates(BOUNDS)[::4]


@pytest.mark.parametrize("seed", range(4))
def test_exact_points_give_the_engine_s_steps(seed: int) -> None:
    true = true_cost(seed)
    found = fit(PRIOR, [measured(true, p) for p in SOME], 0.08)
    assert step_errors(found.estimate.cost, true).max() < 0.03
    assert found.estimate.cost.request_s == pytest.approx(true.request_s, rel=0.06)


def test_no_points_leave_the_prior_as_it_is() -> None:
    assert fit_estimate(PRIOR, [], 0.08) is PRIOR


def test_a_curve_that_adds_reading_and_computing_is_followed() -> None:
    """A CPU: the sum of both, where the prior has the larger of both."""
    seconds = 0.03 + 1e-4 * GRID_TOKENS
    true = PRIOR.cost._replace(dense_s=tuple(seconds.tolist()))
    found = fit(PRIOR, [measured(true, p) for p in SOME], 0.25)
    assert step_errors(found.estimate.cost, true).mean() < 0.03


def test_one_outlier_moves_only_what_nothing_else_touches_and_is_told() -> None:
    true = true_cost()
    points = [measured(true, p) for p in SOME]
    points[3] = measured(true, SOME[3], factor=1.6)
    found = fit(PRIOR, points, 0.08)
    assert np.median(step_errors(found.estimate.cost, true)) < 0.02
    assert suspicious(PRIOR, points, 0.08)[0].point == SOME[3]


def test_a_point_is_left_out_with_all_it_gave() -> None:
    true = true_cost()
    found = fit(PRIOR, [measured(true, p) for p in SOME], 0.08)
    assert len(found.held_out) == len(found.residuals)
    assert found.mean_error_ratio < 0.05


def test_what_is_known_of_a_step_shows_in_its_error() -> None:
    """Overhead and weights trade; their sum is known, and the step's error says so."""
    true = true_cost()
    shape = decode_shape(1, 64, true.window_tokens)
    estimate = fit(PRIOR, [measured(true, p) for p in SOME], 0.08).estimate
    assert relative_error(estimate, shape) < 0.03 < relative_error(PRIOR, shape)


def test_a_prior_of_one_s_own_goes_through_its_points() -> None:
    true = true_cost()
    first = [measured(true, p) for p in (Decode(1, 32), Prefill(64), Prefill(2048))]
    prior = generic_prior(first, None)
    for each in first:
        alone = each.measurements[0]
        assert predict_s(prior.cost, alone) == pytest.approx(alone.seconds, rel=0.05)
    assert prior.uncertainty.decode_attention >= 1.0


def test_a_prior_of_one_s_own_needs_three_points() -> None:
    true = true_cost()
    with pytest.raises(Refused, match="two lone prefills"):
        generic_prior([measured(true, Decode(1, 32)), measured(true, Prefill(64))], None)


def test_measurements_are_positive() -> None:
    with pytest.raises(Refused):
        Measurement("x", expected(Prefill(64), 1 << 40).steps, float("nan"))
    assert np.isfinite(predict_s(PRIOR.cost, expected(Prefill(64), 1 << 40)))
