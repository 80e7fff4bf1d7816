"""Parts add up, sources combine by what they know, factors keep the curve whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.analytical import analytical_cost
from profiler.architecture import load_architecture
from profiler.estimate import (
    DATA_SHEET,
    GROUPS,
    KERNELS,
    OPERATORS,
    Estimate,
    Uncertainty,
    combine,
    parts,
    relative_error,
    scaled,
)
from profiler.hardware import find_gpu
from profiler.operators import Replica
from profiler.scheduler import Shape
from profiler.step_cost import NO_WINDOW, StepCost, dense_curve, roofline_curve, step_s

COST = analytical_cost(
    Replica(load_architecture("Llama-3.1-8B-Instruct"), find_gpu("H100-SXM"))
)._replace(mixed_sequence_s=1e-5, padded_query_s=1e-8, prefill_kv_s=1e-9, token_link_s=1e-7)

shapes = st.builds(
    Shape,
    tokens=st.integers(1, 20_000),
    sequences=st.integers(8, 512),
    prefill_sequences=st.integers(0, 8),
    prefill_token_pairs=st.floats(0, 1e9),
    prefill_window_token_pairs=st.just(0.0),
    kv_tokens=st.floats(0, 1e7),
    kv_window_tokens=st.just(0.0),
    prefill_kv_tokens=st.floats(0, 1e6),
    longest_chunk_tokens=st.integers(0, 8192),
)


@given(shapes)
def test_the_parts_of_a_step_add_up_to_it(shape):
    assert sum(parts(COST, shape)) == pytest.approx(step_s(COST, shape))


@given(shapes, st.floats(-0.5, 0.5))
def test_a_factor_for_every_group_scales_the_step(shape, log_factor):
    shape = shape._replace(prefill_sequences=0)  # the surplus of a mixed step is a ratio
    all_of_them = scaled(COST, np.full(len(GROUPS), log_factor))
    assert step_s(all_of_them, shape) == pytest.approx(np.exp(log_factor) * step_s(COST, shape))


@given(st.lists(st.floats(-1, 1), min_size=len(GROUPS), max_size=len(GROUPS)))
def test_whatever_the_factors_the_dense_curve_never_falls(log_factors):
    curve = np.array(scaled(COST, np.array(log_factors)).dense_s)
    assert (np.diff(curve) >= 0).all()


def an_estimate(name: str, uncertainty: Uncertainty, factor: float) -> Estimate:
    cost = scaled(COST, np.full(len(GROUPS), np.log(factor)))
    return Estimate.from_source(name, cost, uncertainty)


def test_what_was_measured_overrides_what_was_guessed_group_by_group():
    guess, kernels = an_estimate("guess", DATA_SHEET, 1.0), an_estimate("kernels", KERNELS, 2.0)
    both = combine(guess, kernels)
    assert both.cost.kv_token_s == 2 * COST.kv_token_s
    assert both.cost.dense_s == kernels.cost.dense_s
    # neither knows the overhead any better: the first stays
    assert both.cost.step_overhead_s == COST.step_overhead_s
    assert dict(zip(GROUPS, both.origins, strict=True))["overhead"] == "guess"
    assert both.uncertainty.weights == KERNELS.weights


def test_a_better_source_lowers_the_error_of_a_step():
    shape = Shape(64, 64, 0, 0.0, 0.0, 64_000.0, 0.0)
    errors = [
        relative_error(Estimate.from_source("s", COST, u), shape)
        for u in (DATA_SHEET, KERNELS, OPERATORS)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1


def a_cost(curve: tuple[float, ...]) -> StepCost:
    return StepCost(0.0, 0.0, curve, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, NO_WINDOW, 0.0)


def dense(cost: StepCost, tokens: int) -> float:
    return step_s(cost, Shape(tokens, 0, 0, 0.0, 0.0, 0.0, 0.0))


def test_a_measured_curve_is_met_at_its_points_and_goes_on_beyond_them():
    cost = a_cost(dense_curve([1, 64, 1024, 2048], [1e-3, 1e-3, 9e-3, 17e-3]))
    assert dense(cost, 64) == pytest.approx(1e-3)
    assert dense(cost, 1024) == pytest.approx(9e-3)
    assert dense(cost, 4096) == pytest.approx(33e-3, rel=0.01)


def test_a_dip_in_the_measurements_is_levelled():
    cost = a_cost(dense_curve([1, 64, 128, 256], [2e-3, 3e-3, 2.5e-3, 4e-3]))
    assert dense(cost, 128) == pytest.approx(3e-3)


def test_a_roofline_reads_weights_until_it_computes():
    cost = a_cost(roofline_curve(1e-5, 5e-3))
    assert dense(cost, 1) == pytest.approx(5e-3)
    assert dense(cost, 8192) == pytest.approx(81.92e-3)
