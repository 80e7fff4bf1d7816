"""Prefill and decode apart: each half within its part of the objective."""

import pytest

from profiler.errors import Refused
from profiler.slo import Slo
from recommender import Pins, Split, Workload, search, split
from tests.recommender.builders import a_workload

SMALL = "meta-llama/Llama-3.2-1B-Instruct"
SLO = Slo(ttft_s=1.0, itl_s=0.03)
PINS = Pins(tensor_parallel_size=1, pipeline_parallel_size=1, max_num_seqs=32)


@pytest.fixture(scope="module")
def pair() -> Split:
    return split(SMALL, "L4", a_workload(mean_input_tokens=512, mean_output_tokens=128), SLO, PINS)


def test_the_first_token_comes_within_what_the_move_and_a_step_leave(pair: Split) -> None:
    left_s = 1.0 - pair.transfer_s - 0.03
    assert pair.prefill.capacity.latency.ttft_s <= left_s
    assert pair.decode.capacity.latency.itl_s <= 0.03


def test_each_half_carries_more_than_both_on_one_replica(pair: Split) -> None:
    workload = a_workload(mean_input_tokens=512, mean_output_tokens=128)
    together = search(SMALL, "L4", workload, SLO, PINS).best
    assert pair.prefill.capacity.rate_rps > together.capacity.rate_rps
    assert pair.decode.capacity.rate_rps > together.capacity.rate_rps
    assert pair.rps_per_gpu < pair.decode.rps_per_gpu


def test_replicas_of_both_halves_carry_the_rate(pair: Split) -> None:
    prefill, decode = pair.replicas(40.0)
    assert prefill * pair.prefill.capacity.rate_rps >= 40.0
    assert decode * pair.decode.capacity.rate_rps >= 40.0
    assert pair.gpus(40.0) == prefill + decode
    assert pair.cost_per_hour(40.0) == prefill + decode


def test_a_longer_prompt_takes_longer_to_move() -> None:
    short, long = (
        split(SMALL, "L4", a_workload(mean_input_tokens=n), SLO, PINS) for n in (64, 512)
    )
    assert long.transfer_s > 4 * short.transfer_s > 0


def test_a_recorded_trace_is_split_too(recorded: Workload) -> None:
    assert split(SMALL, "L4", recorded, SLO, PINS).rps_per_gpu > 0


@pytest.mark.parametrize(
    ("slo", "told"),
    [
        (Slo(ttft_s=1.0), "without a bound on ITL there is nothing to gain"),
        (Slo(ttft_s=0.02, itl_s=0.03), "leaves nothing of the TTFT: loosen it"),
        (Slo(ttft_s=1.0, itl_s=1e-4), "nothing meets it, even idle"),
    ],
)
def test_a_half_that_cannot_be_had_says_why(slo: Slo, told: str) -> None:
    with pytest.raises(Refused, match=told):
        split(SMALL, "L4", a_workload(), slo, PINS)
