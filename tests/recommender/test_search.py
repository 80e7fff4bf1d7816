"""The recommendation: what fits, what is pinned, what is best, and why not."""

import pytest

from profiler.configuration import Configuration
from profiler.errors import DoesNotFit, Refused
from profiler.hardware import GIB
from profiler.memory import EngineMemory
from profiler.slo import Slo
from recommender import (
    Candidate,
    Pins,
    Recommendation,
    Station,
    Workload,
    find_capacity,
    recommend,
    search_batching,
)
from tests.recommender.builders import a_profile, a_slo, a_workload

SMALL, LARGE = "meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
RELAXED = Slo(ttft_s=5.0, itl_s=0.2)


@pytest.fixture(scope="module")
def found() -> Recommendation:
    pins = Pins(max_num_seqs=16, max_num_batched_tokens=2048)
    return recommend(LARGE, "H100-SXM", a_workload(), RELAXED, pins)


def test_the_best_costs_least_and_the_runners_up_follow_in_order(found: Recommendation) -> None:
    rate = a_workload().sized_rps
    standings = [c.standing(rate) for c in (found.best, *found.runners_up)]
    costs = [cost for cost, _ in standings]
    assert costs[0] == min(costs)
    assert standings[1:] == sorted(standings[1:])
    layouts = {c.configuration.layout for c in (found.best, *found.runners_up)}
    assert len(layouts) == 1 + len(found.runners_up)


def test_nothing_is_proposed_that_does_not_fit(found: Recommendation) -> None:
    for candidate in (found.best, *found.runners_up):
        limits = candidate.profile.limits(candidate.configuration)  # raises where it does not
        longest = candidate.configuration.max_model_len or 0
        assert limits.num_blocks * limits.block_size >= longest >= a_workload().longest_tokens


def test_what_does_not_fit_is_told_in_a_line_each(found: Recommendation) -> None:
    assert found.not_possible
    for line in found.not_possible:
        assert "\n" not in line
        assert line.startswith(f"{LARGE} on 1 × H100-SXM does not fit")


def test_pins_are_respected() -> None:
    pins = Pins(2, 8, 1024, 0.7, 2048)
    best = recommend(SMALL, "H100-SXM", a_workload(), RELAXED, pins).best
    assert best.configuration == Configuration(2, 8, 1024, 0.7, 2048)


@pytest.mark.parametrize(
    "pins",
    [Pins(max_num_seqs=4), Pins(max_num_batched_tokens=256), Pins(gpu_memory_utilization=0.5)],
)
def test_a_pin_leaves_the_rest_to_the_search(pins: Pins) -> None:
    best, _ = search_batching(a_profile(), a_workload(), a_slo(), pins)
    chosen = best.configuration
    assert pins.max_num_seqs in (None, chosen.max_num_seqs)
    assert pins.max_num_batched_tokens in (None, chosen.max_num_batched_tokens)
    assert pins.gpu_memory_utilization in (None, chosen.gpu_memory_utilization)
    assert chosen.max_num_batched_tokens >= chosen.max_num_seqs


def test_the_search_never_ends_below_the_plain_configuration() -> None:
    profile, workload, slo = a_profile(), a_workload(), a_slo()
    best, scored = search_batching(profile, workload, slo, Pins())
    plain = Configuration(max_model_len=best.configuration.max_model_len)
    carried = find_capacity(Station.of(profile, plain), workload, slo)
    assert carried is not None
    assert best.capacity.rate_rps >= carried.rate_rps
    assert scored > 1


def test_a_model_that_fits_with_smaller_steps_alone_is_given_those() -> None:
    """Llama 8B on a 24 GB card: 15 GiB of weights leave no room for steps of 8,192 tokens."""
    memory = EngineMemory(4.0 * GIB, 2.0 * GIB, 400_000.0, 0.0, 65536.0)
    profile = a_profile(memory=memory)
    best, _ = search_batching(profile, a_workload(), a_slo(), Pins())
    assert best.configuration.max_num_batched_tokens <= 4096
    assert profile.limits(best.configuration).num_blocks > 0


def test_a_pinned_step_that_does_not_fit_is_not_made_smaller() -> None:
    memory = EngineMemory(4.0 * GIB, 2.0 * GIB, 400_000.0, 0.0, 65536.0)
    with pytest.raises(DoesNotFit):
        search_batching(
            a_profile(memory=memory), a_workload(), a_slo(), Pins(max_num_batched_tokens=8192)
        )


def test_a_card_that_is_short_by_a_little_is_filled_further() -> None:
    memory = EngineMemory(4.0 * GIB, 3.65 * GIB, 1.0, 0.0, 65536.0)
    best, _ = search_batching(a_profile(memory=memory), a_workload(), a_slo(), Pins())
    assert best.configuration.gpu_memory_utilization == 0.95


def test_room_is_left_for_the_longest_request_and_no_more_than_the_model_takes() -> None:
    best, _ = search_batching(a_profile(), a_workload(), a_slo(), Pins())
    chosen = best.configuration.max_model_len or 0
    assert chosen % 1024 == 0
    assert a_workload().longest_tokens <= chosen <= 4096


def refusal(model: str, gpu: str, slo: Slo = RELAXED, pins: Pins | None = None) -> str:
    with pytest.raises(Refused) as caught:
        recommend(model, gpu, a_workload(), slo, pins)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_that_fits_nowhere_does_not_fit() -> None:
    pins = Pins(tensor_parallel_size=2, pipeline_parallel_size=1)
    with pytest.raises(DoesNotFit, match="raise tensor_parallel_size or take a larger GPU"):
        recommend(LARGE, "L4", a_workload(), RELAXED, pins)


def test_an_objective_that_is_missed_even_idle_says_what_is_reached() -> None:
    line = refusal(SMALL, "L4", Slo(itl_s=1e-4), Pins(1, 16, 2048))
    assert line.startswith("slo: nothing meets it, even idle; nearest is ")
    assert "(TP1" in line
    reached_ms = float(line.split("ITL ")[1].split(" ms")[0])
    wanted_ms = float(line.split("loosen ITL to at least ")[1].split(" ms")[0])
    assert wanted_ms > reached_ms
    assert line.endswith("shorten prompts, or take a faster GPU")


def test_an_objective_loosened_as_told_is_met() -> None:
    line = refusal(SMALL, "L4", Slo(itl_s=1e-4), Pins(1, 16, 2048))
    wanted_s = float(line.split("loosen ITL to at least ")[1].split(" ms")[0]) / 1e3
    best = recommend(SMALL, "L4", a_workload(), Slo(itl_s=wanted_s), Pins(1, 16, 2048)).best
    assert best.capacity.rate_rps > 0


def test_unknown_names_and_impossible_pins_are_refused_in_one_line() -> None:
    assert "unknown type 'H9'" in refusal(SMALL, "H9")
    assert "no/such-model" in refusal("no/such-model", "L4")
    pins = Pins(tensor_parallel_size=3)
    assert "3 does not divide the 32 attention heads" in refusal(SMALL, "L4", pins=pins)
    assert "must be at least max_num_seqs" in refusal(SMALL, "L4", pins=Pins(1, 512, 256))


def test_more_than_one_gpu_must_earn_its_keep() -> None:
    workload = a_workload()
    both = recommend(SMALL, "L4", workload, RELAXED, Pins(max_num_seqs=16))
    assert isinstance(both.best, Candidate)
    assert both.best.configuration.tensor_parallel_size == 1


def test_made_up_lengths_are_cut_to_what_the_engine_takes() -> None:
    pins = Pins(1, 16, 2048, max_model_len=128)
    assert a_workload().longest_tokens > 128
    best = recommend(SMALL, "L4", a_workload(), RELAXED, pins).best
    assert best.configuration.max_model_len == 128


def test_requests_that_came_and_are_longer_are_refused_with_their_number(
    recorded: Workload,
) -> None:
    with pytest.raises(Refused, match=r"max_model_len: 100 is less than \d+ of \d+ requests have"):
        recommend(SMALL, "L4", recorded, RELAXED, Pins(max_model_len=100))


def test_a_mean_request_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Refused, match="max_model_len: 64 is less than the 80 tokens of a mean"):
        recommend(SMALL, "L4", a_workload(), RELAXED, Pins(max_model_len=64))
