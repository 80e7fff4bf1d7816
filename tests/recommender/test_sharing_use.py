"""What a replica takes, and what a step costs without it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.configuration import Configuration
from profiler.engine import Engine
from profiler.estimate import parts
from profiler.scheduler import Limits, Shape
from profiler.slo import Slo
from profiler.step_cost import StepCost, step_s
from profiler.trace import Trace
from profiler.twin import Simulation
from recommender.sharing import HEADROOM_RATIO, Tenant, Use, slowed
from recommender.sharing.use import (
    NO_USE,
    _spent_s,
    factors,
    least_use,
    run_beside,
    together,
    with_headroom,
)
from tests.recommender.builders import a_cost, a_profile, a_slo, a_workload, some_limits

COST = a_cost(
    step_overhead_s=2e-3, sequence_s=1e-5, kv_token_s=1e-7, prefill_pair_s=1e-8,
    mixed_kv_ratio=1.4, mixed_sequence_s=1e-6, padded_query_s=1e-9,
)  # fmt: skip

ratios = st.floats(0.0, 1.5)
shapes = st.builds(
    Shape,
    tokens=st.integers(1, 4000),
    sequences=st.integers(1, 64),
    prefill_sequences=st.integers(0, 1),
    prefill_token_pairs=st.floats(0, 1e6),
    prefill_window_token_pairs=st.floats(0, 1e6),
    kv_tokens=st.floats(0, 1e5),
    kv_window_tokens=st.floats(0, 1e5),
    prefill_kv_tokens=st.floats(0, 1e4),
    longest_chunk_tokens=st.integers(1, 4000),
)


def a_tenant(**changes: Any) -> Tenant:
    fields: dict[str, Any] = {
        "name": "a",
        "profile": a_profile(cost=COST),
        "configuration": Configuration(max_num_seqs=16, max_num_batched_tokens=512),
        "workload": a_workload(),
        "slo": a_slo(),
    }
    return Tenant(**{**fields, **changes})


@given(shapes, ratios, ratios, ratios, ratios)
def test_more_of_a_neighbour_never_makes_a_step_shorter(
    shape: Shape, compute: float, bandwidth: float, more: float, more_still: float
) -> None:
    little = Use(compute, bandwidth)
    much = Use(compute + more, bandwidth + more_still)
    alone, beside = step_s(COST, shape), step_s(slowed(COST, little), shape)
    assert alone <= beside * (1 + 1e-9)
    assert beside <= step_s(slowed(COST, much), shape) * (1 + 1e-9)
    assert step_s(slowed(COST, much), shape) < 25 * alone  # bounded, however much it takes


def test_a_neighbour_without_load_changes_nothing() -> None:
    assert slowed(COST, Use()) == COST
    assert slowed(COST, Use(busy_ratio=1.0)) == COST  # busy with its own host


def test_half_of_the_bandwidth_doubles_what_is_bound_by_it_and_nothing_else() -> None:
    decode = Shape(8, 8, 0, 0.0, 0.0, 8000.0, 0.0)
    own, beside = parts(COST, decode), parts(slowed(COST, Use(bandwidth_ratio=0.5)), decode)
    assert beside.weights == pytest.approx(2 * own.weights)
    assert beside.decode_attention == pytest.approx(2 * own.decode_attention)
    assert (beside.overhead, beside.sequence) == (own.overhead, own.sequence)


def test_half_of_the_compute_doubles_prefill() -> None:
    prefill = Shape(2000, 1, 1, 2e6, 0.0, 0.0, 0.0, 2000.0, 2000)
    own, beside = parts(COST, prefill), parts(slowed(COST, Use(compute_ratio=0.5)), prefill)
    assert beside.prefill_attention == pytest.approx(2 * own.prefill_attention)
    assert beside.compute == pytest.approx(2 * own.compute, rel=1e-3)


def test_use_is_what_the_parts_of_all_steps_add_up_to() -> None:
    cost = COST._replace(padded_query_s=0.0)
    trace = a_workload(rate_rps=30.0).trace(60)
    limits = some_limits()
    simulation = Simulation(cost, limits, step_interval_s=0.0)
    simulation.feed(trace)
    finished, steps = simulation.run()
    compute, bandwidth = _spent_s(cost, finished, steps, np.ones(steps.time_s.size, np.bool_))
    want = _by_stepping(cost, limits, trace)
    mixed = want["mixed"] - want["mixed_sequence"]
    assert compute == pytest.approx(
        want["compute"] + want["prefill_attention"] + want["mixed_sequence"], rel=1e-3
    )
    # the context of decodes beside a prefill is taken as that of all decodes
    assert bandwidth == pytest.approx(want["weights"] + want["decode_attention"] + mixed, rel=0.01)


def _by_stepping(cost: StepCost, limits: Limits, trace: Trace) -> dict[str, float]:
    """Sum the parts of every step of an engine stepped one by one."""
    engine = Engine(cost, limits)
    sums = dict.fromkeys(("mixed_sequence", "mixed"), 0.0)
    now_s, came = 0.0, 0
    while came < len(trace) or engine.busy:
        if not engine.busy:
            now_s = max(now_s, float(trace.arrival_s[came]))
        while came < len(trace) and trace.arrival_s[came] <= now_s:
            lengths = int(trace.input_tokens[came]), int(trace.output_tokens[came])
            engine.enqueue(came, float(trace.arrival_s[came]), *lengths)
            came += 1
        shape = engine.begin(now_s)
        if shape is not None:
            for name, seconds in parts(cost, shape)._asdict().items():
                sums[name] = sums.get(name, 0.0) + seconds
            if shape.prefill_sequences:
                decodes = shape.sequences - shape.prefill_sequences
                sums["mixed_sequence"] += decodes * cost.mixed_sequence_s
        now_s = engine.next_end_s or now_s
        engine.end(now_s)
    return sums


def test_use_rises_with_the_rate_and_stays_below_one() -> None:
    uses = [
        run_beside(a_tenant(workload=a_workload(rate_rps=rate)), some_limits(), NO_USE).use
        for rate in (0.5, 2.0, 8.0, 32.0)
    ]
    computes = [use.compute_ratio for use in uses]
    assert computes == sorted(computes)
    for use in uses:
        assert 0 < use.bandwidth_ratio < 1
        assert use.bandwidth_ratio + use.compute_ratio <= use.busy_ratio <= 1


def test_a_slowed_replica_does_the_same_work_with_fewer_reads_of_its_weights() -> None:
    tenant = a_tenant(workload=a_workload(rate_rps=8.0))
    own = run_beside(tenant, some_limits(), NO_USE)
    beside = run_beside(tenant, some_limits(), Use(bandwidth_ratio=0.4))
    assert beside.use.bandwidth_ratio < own.use.bandwidth_ratio
    assert beside.use.compute_ratio == pytest.approx(own.use.compute_ratio, rel=0.1)
    assert beside.latency.itl_s > own.latency.itl_s


def test_no_traffic_takes_nothing_and_still_has_a_latency() -> None:
    idle = a_tenant(workload=replace(a_workload(), rate_rps=0.0))
    run = run_beside(idle, some_limits(), NO_USE)
    assert run.use == NO_USE
    assert run.latency.ttft_s > 0
    assert run.keeps(idle.slo)


def test_a_queue_that_grows_is_seen_where_only_gaps_are_bounded() -> None:
    slo = Slo(itl_s=10.0)
    flooded = a_tenant(workload=a_workload(rate_rps=1e4), slo=slo)
    run = run_beside(flooded, some_limits(), NO_USE)
    assert run.attained_ratio == 1.0
    assert not run.keeps_up
    assert not run.keeps(slo)


@pytest.mark.parametrize("rate_rps", [1.0, 4.0, 16.0])
def test_the_closed_form_is_below_what_the_twin_finds(rate_rps: float) -> None:
    tenant = a_tenant(workload=a_workload(rate_rps=rate_rps, mean_output_tokens=64))
    found = run_beside(tenant, some_limits(), NO_USE).use
    assert least_use(tenant).bandwidth_ratio <= found.bandwidth_ratio * 1.05


def test_uses_add_up_in_any_order() -> None:
    uses = [Use(0.1, 0.2, 0.9), Use(0.3, 0.7, 0.5), Use(1e-9, 0.11, 0.1)]
    assert together(uses) == together(reversed(uses))
    assert together([]) == NO_USE


def test_headroom_tightens_every_bound() -> None:
    tight = with_headroom(a_slo(percentile=0.9))
    assert tight.ttft_s == pytest.approx(0.5 * (1 - HEADROOM_RATIO))
    assert tight.e2e_s is None
    assert tight.percentile == 0.9


@pytest.mark.parametrize(
    ("bound_by", "neighbour", "measured"),
    [
        ("bandwidth", Use(bandwidth_ratio=0.252), 1.283),
        ("bandwidth", Use(compute_ratio=0.221), 1.218),  # by prompts of 2,048 tokens
        ("bandwidth", Use(compute_ratio=0.489), 1.713),
        ("bandwidth", Use(compute_ratio=0.259), 1.242),  # by chunks of 512 tokens
        ("bandwidth", Use(compute_ratio=0.545), 1.835),
        ("compute", Use(compute_ratio=0.274), 1.394),
        ("compute", Use(compute_ratio=0.417), 1.763),
        ("compute", Use(compute_ratio=0.252), 1.377),
        ("compute", Use(compute_ratio=0.476), 2.087),
        ("compute", Use(bandwidth_ratio=0.115), 1.061),  # all that prefills left of it
    ],
)
def test_slowdowns_measured_on_an_h100_are_predicted_within_the_headroom(
    bound_by: str, neighbour: Use, measured: float
) -> None:
    """`benchmarks.interference`; the shares are of work that the neighbour got done."""
    to_bandwidth, to_compute = factors(neighbour)
    predicted = to_bandwidth if bound_by == "bandwidth" else to_compute
    assert predicted == pytest.approx(measured, rel=HEADROOM_RATIO)
