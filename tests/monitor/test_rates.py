"""Rates between two readings; what cannot be known is None."""

from dataclasses import replace

import pytest

from monitor import EngineSignals, Histogram, Rates, Reading, rates_between, restarted

INF = float("inf")
BEFORE = EngineSignals(
    "vllm",
    running=2,
    waiting=0,
    preemptions_total=1,
    prompt_tokens_total=1000,
    generation_tokens_total=500,
    requests_finished={"stop": 10, "abort": 1},
    prompt_length=Histogram((INF,), (11.0,), 1000.0),
    prefix_cache_hits_total=100,
    prefix_cache_queries_total=1000,
)
AFTER = EngineSignals(
    "vllm",
    running=4,
    waiting=3,
    preemptions_total=1,
    prompt_tokens_total=1600,
    generation_tokens_total=900,
    requests_finished={"stop": 14, "abort": 2},
    prompt_length=Histogram((INF,), (16.0,), 1600.0),
    prefix_cache_hits_total=400,
    prefix_cache_queries_total=1600,
)


def between(before: EngineSignals | None, after: EngineSignals | None) -> Rates:
    return rates_between(Reading(before, 100.0), Reading(after, 110.0))


def test_rates_are_increments_over_the_window() -> None:
    got = between(BEFORE, AFTER)
    assert got.window_s == 10
    assert (got.requests_rps, got.arrivals_rps) == (0.5, 1.0)
    assert (got.prompt_tokens_s, got.generation_tokens_s, got.preemptions_s) == (60, 40, 0)
    assert (got.mean_input_tokens, got.prefix_hit_ratio) == (120, 0.5)


def test_what_the_engine_does_not_publish_is_unknown() -> None:
    assert between(BEFORE, AFTER).mean_output_tokens is None
    bare = between(EngineSignals("tgi"), EngineSignals("tgi"))
    assert bare == Rates(window_s=10.0)


def test_a_ratio_of_nothing_is_unknown() -> None:
    assert between(BEFORE, BEFORE).prefix_hit_ratio is None
    assert between(BEFORE, BEFORE).mean_input_tokens is None
    assert between(BEFORE, BEFORE).requests_rps == 0


@pytest.mark.parametrize(
    "after",
    [
        replace(AFTER, generation_tokens_total=499),
        replace(AFTER, requests_finished={"stop": 14, "abort": 0}),
    ],
)
def test_one_counter_that_went_back_makes_every_rate_unknown(after: EngineSignals) -> None:
    assert restarted(BEFORE, after)
    assert between(BEFORE, after) == Rates()


def test_without_signals_or_time_nothing_is_known() -> None:
    assert between(None, AFTER) == Rates()
    assert between(BEFORE, None) == Rates()
    assert rates_between(Reading(BEFORE, 5.0), Reading(AFTER, 5.0)) == Rates()
    assert rates_between(Reading(BEFORE, None), Reading(AFTER, 5.0)) == Rates()


def test_a_page_a_step_apart_gives_no_negative_arrivals() -> None:
    assert between(BEFORE, replace(BEFORE, running=0)).arrivals_rps == 0


def test_arrivals_need_the_queue() -> None:
    assert between(BEFORE, replace(AFTER, waiting=None)).arrivals_rps is None
