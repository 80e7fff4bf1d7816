"""What a Prometheus counted interval by interval: engines added up, gaps left unknown."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pytest

from controller.replay.counted import Counted
from controller.replay.history import rebuilt
from controller.traffic import Notes, history_from_prometheus
from monitor.sources.prometheus import Grid, Prometheus
from profiler.errors import Refused
from tests.controller.test_traffic import LENGTHS, NAN, VLLM_ENDED, FakePrometheus, same

INTERVALS = 4
ENDED = [0.0, 6.0, 12.0, 18.0, 24.0]


@dataclass
class WithBuckets(FakePrometheus):
    """Answers ranges of histograms too, by metric and by instance and bound."""

    buckets: Mapping[str, Mapping[tuple[str, str], Sequence[float]]] = field(default_factory=dict)

    async def range_query(self, query: str, start_s: float, end_s: float, step_s: float) -> Grid:
        for metric, rows in self.buckets.items():
            if metric in query:
                at_s = start_s + step_s * np.arange(INTERVALS + 1.0)
                labels = [{"instance": i, "job": i, **({"le": le} if le else {})} for i, le in rows]
                return Grid(at_s, tuple(labels), np.array([*rows.values()], float), ())
        return await super().range_query(query, start_s, end_s, step_s)


def a_fake(**changes: Any) -> WithBuckets:
    """An engine that ends 6 requests in an interval: two short, four long."""
    short, every = [n / 3 for n in ENDED], ENDED
    bounds = {("a", "10"): short, ("a", "100.0"): every, ("a", "+Inf"): every}
    fields: dict[str, Any] = {
        "models": {VLLM_ENDED: ["tiny"]},
        "counts": {VLLM_ENDED: {"a": ENDED}, "vllm:num_requests_running": {"a": [0.0] * 5}},
        "instant": LENGTHS,
        "buckets": {
            "vllm:request_prompt_tokens_bucket": bounds,
            "vllm:request_prompt_tokens_sum": {("a", ""): [40.0 * n for n in ENDED]},
            "vllm:request_generation_tokens_bucket": bounds,
            "vllm:request_generation_tokens_sum": {("a", ""): [30.0 * n for n in ENDED]},
        },
    }
    return WithBuckets(**{**fields, **changes})


def read(fake: FakePrometheus) -> tuple[Counted, Notes]:
    client = cast("Prometheus", fake)
    return asyncio.run(history_from_prometheus(client, {}, 1e9 - 60.0, 1e9, 15.0))


def test_counts_of_each_interval_are_read() -> None:
    counted, notes = read(a_fake())
    same(counted.came.tolist(), [6, 6, 6, 6])
    same(counted.engines.tolist(), [1, 1, 1, 1])
    same(counted.prompts.upper.tolist(), [10, 100, np.inf])
    same(counted.prompts.lower.tolist(), [0, 10, 100])
    np.testing.assert_array_equal(counted.prompts.counts, [[2, 4, 0]] * 4)
    same(counted.answers.total.tolist(), [180.0] * 4)
    assert counted.hit_ratio == 0.25
    assert counted.ttft_s is None
    assert any("too few" in note for note in notes)
    assert rebuilt(counted).input_tokens.sum() == 40 * 24


def test_engines_with_other_bounds_are_kept_apart_and_alike_ones_added() -> None:
    fake = a_fake()
    rows = dict(fake.buckets["vllm:request_prompt_tokens_bucket"])
    rows |= {("b", "10"): ENDED, ("b", "50"): ENDED, ("b", "+Inf"): ENDED}
    counts = {VLLM_ENDED: {"a": ENDED, "b": ENDED},
              "vllm:num_requests_running": {"a": [0.0] * 5, "b": [0.0] * 5}}  # fmt: skip
    buckets = {**fake.buckets, "vllm:request_prompt_tokens_bucket": rows}
    counted, _ = read(replace(fake, buckets=buckets, counts=counts))
    found = dict(zip(zip(counted.prompts.lower, counted.prompts.upper, strict=True),
                     counted.prompts.counts[0], strict=True))  # fmt: skip
    assert found == {(0, 10): 8, (10, 100): 4, (100, np.inf): 0, (10, 50): 0, (50, np.inf): 0}
    same(counted.came.tolist(), [12] * 4)


def test_an_engine_that_began_anew_and_a_missed_scrape_are_unknown() -> None:
    fake = a_fake()
    for ended in ([0.0, 6.0, 2.0, 8.0, 14.0], [0.0, 6.0, NAN, 18.0, 24.0]):
        counts = {VLLM_ENDED: {"a": ended}, "vllm:num_requests_running": {"a": [0.0] * 5}}
        counted, notes = read(replace(fake, counts=counts))
        assert not counted.known.all()
        assert any("are left out" in note for note in notes)
        trace = rebuilt(counted)
        assert len(trace) == 6 * counted.known.sum()
        assert trace.duration_s <= counted.known_s


def test_lengths_that_are_not_kept_are_named() -> None:
    fake = a_fake()
    buckets = {**fake.buckets, "vllm:request_generation_tokens_bucket": {}}
    with pytest.raises(Refused, match="has no answer lengths"):
        read(replace(fake, buckets=buckets))
