"""The story of a recommendation: true to the twin, complete, and in sentences."""

import math
from dataclasses import replace

import pytest

from profiler.configuration import Configuration
from profiler.slo import Slo
from recommender import (
    Errors,
    Explanation,
    Offer,
    Pins,
    Question,
    Recommendation,
    compare,
    explain,
    find_capacity,
    how_sure,
    judge,
    recommend,
    what_binds,
)
from tests.recommender.builders import a_workload

MODEL = "meta-llama/Llama-3.2-1B-Instruct"
SLO = Slo(ttft_s=1.0, itl_s=0.03)
ASKED = Question(
    MODEL, (Offer("L4", 0.8),), a_workload(rate_rps=150.0, mean_output_tokens=64), SLO,
    Pins(max_num_batched_tokens=2048, enable_chunked_prefill=True),
)  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Recommendation:
    return recommend(MODEL, ASKED.offers, ASKED.workload, SLO, ASKED.pins)


@pytest.fixture(scope="module")
def story(found: Recommendation) -> Explanation:
    return explain(ASKED, found, also=(Offer("L40S", 1.6), Offer("L4", 0.8)))


def test_it_says_what_is_run_and_why_not_the_runner_up(
    story: Explanation, found: Recommendation
) -> None:
    assert f"{found.best.capacity.rate_rps:.2f} req/s a replica" in story.why[0]
    assert story.why[1] == story.binding.says
    assert story.why[2].startswith("not L4 ")
    assert "goodput a GPU" in story.why[2]


def test_the_shares_of_a_step_add_up(story: Explanation) -> None:
    assert sum(story.binding.shares) == pytest.approx(1.0)
    assert min(story.binding.shares) >= 0


def test_few_places_in_the_batch_are_named_as_what_binds() -> None:
    few = replace(ASKED, slo=Slo(itl_s=0.1))  # lets a queue grow up to what is sustained
    candidate = judge(few, few.offers[0], Configuration(1, 4, 2048, 0.9, 2048))
    binding = what_binds(candidate, few.workload, few.slo)
    assert binding.resource == "sequences"
    assert "all 4 places of the batch are taken" in binding.says


def test_a_small_cache_is_named_as_what_binds() -> None:
    long = replace(
        ASKED,
        workload=a_workload(mean_input_tokens=2000, mean_output_tokens=800),
        slo=Slo(e2e_s=90),
    )
    tight = Configuration(1, 256, 2048, 0.235, 8192)
    binding = what_binds(judge(long, long.offers[0], tight), long.workload, long.slo)
    assert binding.resource == "memory"
    assert "the KV cache is" in binding.says


def test_latencies_are_those_of_the_rate_a_replica_gets(story: Explanation) -> None:
    for each in story.distribution:
        assert list(each.quantiles) == sorted(each.quantiles)
        assert each.quantiles[0] <= each.mean_s * 2
    assert story.attained_ratio >= SLO.percentile


def test_every_change_is_answered(story: Explanation) -> None:
    changes = [each.change for each in story.what_if]
    assert changes[0] == "10 % more traffic"
    assert "FP8 KV cache" in changes
    assert "FP8 weights" in changes
    assert "GPU L40S" in changes
    assert "GPU L4" not in changes  # it was offered already
    for each in story.what_if:
        assert each.says
        assert (each.candidate is None) == math.isnan(each.cost_per_hour)


def test_a_change_that_cannot_be_had_says_why(found: Recommendation) -> None:
    story = explain(ASKED, found, also=(Offer("A100-80GB", 1.0),))
    a100 = next(each for each in story.what_if if each.change == "GPU A100-80GB")
    assert a100.candidate is not None
    on_a100 = replace(ASKED, offers=(Offer("A100-80GB", 1.0),))
    best = recommend(MODEL, on_a100.offers, ASKED.workload, SLO, ASKED.pins)
    kv = next(e for e in explain(on_a100, best).what_if if e.change == "FP8 KV cache")
    assert kv.candidate is None
    assert "fp8 needs a GPU that computes in FP8" in kv.says


def test_no_efficient_fleet_is_both_dearer_and_slower_than_another(story: Explanation) -> None:
    efficient = [point for point in story.pareto if point.efficient]
    assert efficient
    for one in efficient:
        for other in story.pareto:
            assert not (other.cost_per_hour < one.cost_per_hour and other.e2e_s <= one.e2e_s)


def test_the_split_is_told_or_the_reason_against_it(story: Explanation) -> None:
    assert story.split_says
    if story.split is not None:
        assert "for prefill and" in story.split_says


def test_what_is_known_worse_asks_for_more_replicas(found: Recommendation) -> None:
    sure = how_sure(found.best, replace(ASKED.workload, errors=Errors()), SLO)
    unsure = how_sure(found.best, replace(ASKED.workload, errors=Errors(0.5, 0.5, 0.5)), SLO)
    assert sure.workload_error == 0
    assert sure.model_error > 0
    assert unsure.workload_error > 0.5
    assert unsure.sure_replicas > sure.sure_replicas >= sure.replicas


def test_what_runs_now_is_held_against_it(found: Recommendation) -> None:
    running = Configuration(1, 4, 2048, 0.9, 2048)
    told = compare(ASKED, found.best, ASKED.offers[0], running)
    assert told.running is not None
    alone = find_capacity(told.running.station, ASKED.workload, SLO)
    assert alone is not None  # behind a router that goes round, arrivals are calmer
    assert 1.0 <= told.running.capacity.rate_rps / alone.rate_rps < 1.5
    assert told.cost_per_hour >= found.best.cost_per_hour(ASKED.workload.sized_rps)
    assert "what is recommended" in told.says


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        (Configuration(3), "would not start"),
        (Configuration(gpu_memory_utilization=0.05), "would not start"),
    ],
)
def test_what_could_not_run_is_said_so(
    found: Recommendation, configuration: Configuration, told: str
) -> None:
    beside = compare(ASKED, found.best, ASKED.offers[0], configuration)
    assert beside.running is None
    assert told in beside.says
