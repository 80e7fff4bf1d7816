"""Requests that came between two readings; what cannot be known is None."""

from dataclasses import replace

import pytest

from monitor import Arrivals, EngineSignals, Reading, arrivals_between, restarted

BEFORE = EngineSignals(
    "vllm",
    running=2,
    waiting=0,
    preemptions_total=1,
    prompt_tokens_total=1000,
    generation_tokens_total=500,
    requests_finished={"stop": 10, "abort": 1},
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
    prefix_cache_hits_total=400,
    prefix_cache_queries_total=1600,
)


def between(before: EngineSignals | None, after: EngineSignals | None) -> Arrivals | None:
    return arrivals_between(Reading(before, 100.0), Reading(after, 110.0))


def test_what_ended_and_what_is_held_in_addition_came() -> None:
    assert between(BEFORE, AFTER) == Arrivals(10.0, 1.0)
    assert between(BEFORE, BEFORE) == Arrivals(10.0, 0.0)


def test_what_the_engine_does_not_publish_is_unknown() -> None:
    assert between(EngineSignals("tgi"), EngineSignals("tgi")) is None


@pytest.mark.parametrize(
    "after",
    [
        replace(AFTER, generation_tokens_total=499),
        replace(AFTER, requests_finished={"stop": 14, "abort": 0}),
    ],
)
def test_one_counter_that_went_back_makes_everything_unknown(after: EngineSignals) -> None:
    assert restarted(BEFORE, after)
    assert between(BEFORE, after) is None


def test_without_signals_or_time_nothing_is_known() -> None:
    assert between(None, AFTER) is None
    assert between(BEFORE, None) is None
    assert arrivals_between(Reading(BEFORE, 5.0), Reading(AFTER, 5.0)) is None
    assert arrivals_between(Reading(BEFORE, None), Reading(AFTER, 5.0)) is None


def test_a_page_a_step_apart_gives_no_negative_arrivals() -> None:
    assert between(BEFORE, replace(BEFORE, running=0)) == Arrivals(10.0, 0.0)


def test_arrivals_need_the_queue() -> None:
    assert between(BEFORE, replace(AFTER, waiting=None)) is None
