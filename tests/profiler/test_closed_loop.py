"""A closed loop keeps its concurrency, and its exposures add up to its latencies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.analytical import analytical_cost
from profiler.architecture import load_architecture
from profiler.closed_loop import closed_loop
from profiler.exposure import Exposure
from profiler.hardware import find_gpu
from profiler.operators import Replica
from profiler.scheduler import Limits, Shape
from profiler.step_cost import step_s

COST = analytical_cost(
    Replica(load_architecture("Llama-3.1-8B-Instruct"), find_gpu("H100-SXM"))
)._replace(mixed_sequence_s=1e-5, padded_query_s=1e-8, prefill_kv_s=1e-9, token_link_s=1e-7)
LIMITS = Limits(64, 2048, 4000)


@settings(max_examples=30)
@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(1, 3000), st.integers(2, 60)), min_size=1, max_size=40),
)
def test_the_exposures_of_a_run_add_up_to_its_mean_latencies(clients, lengths):
    inputs, outputs = np.array(lengths).T
    first = np.arange(inputs.size) < clients
    ran = closed_loop(COST, LIMITS, clients, inputs, outputs, np.array([first, ~first]))
    assert ran.ttft_exposures[0].seconds(COST) == pytest.approx(ran.ttft_s[first].mean())
    if (~first).any():
        assert ran.ttft_exposures[1].seconds(COST) == pytest.approx(ran.ttft_s[~first].mean())
    assert ran.tpot_exposure.seconds(COST) == pytest.approx(ran.tpot_s.mean())


def test_more_clients_wait_longer_and_never_gain():
    lengths = np.full(160, 900), np.full(160, 40)
    few, many = (closed_loop(COST, LIMITS, clients, *lengths) for clients in (4, 32))
    assert many.ttft_s.mean() > few.ttft_s.mean()
    assert many.tpot_s.mean() > few.tpot_s.mean()


@given(
    st.builds(
        Shape,
        tokens=st.integers(1, 40_000),
        sequences=st.integers(8, 500),
        prefill_sequences=st.integers(0, 8),
        prefill_token_pairs=st.floats(0, 1e9),
        prefill_window_token_pairs=st.floats(0, 1e8),
        kv_tokens=st.floats(0, 1e7),
        kv_window_tokens=st.floats(0, 1e6),
        prefill_kv_tokens=st.floats(0, 1e6),
        longest_chunk_tokens=st.integers(0, 8192),
    ),
    st.floats(0.1, 10),
)
def test_an_exposure_prices_steps_as_the_formula_does(shape, times):
    seconds = Exposure.of([(shape, times)]).seconds(COST)
    assert seconds == pytest.approx(times * step_s(COST, shape))
