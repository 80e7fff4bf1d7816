"""The workload read off live engines: what is counted, what is left out, what is said of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from controller.traffic import Notes, traffic_from_engine, traffic_from_prometheus
from controller.traffic.counts import arrivals_per_interval, merged_lengths
from monitor import Sample
from monitor.sources.prometheus import Grid, Prometheus, Series, Vector
from profiler.errors import Refused, RetryLater
from recommender import Workload
from tests.monitor.pages import Engine

NAN = float("nan")
Rows = Sequence[Sequence[float]]
LEN_BOUNDS = (10.0, 100.0, 1000.0)


def arrived(finished: Rows, held: Rows) -> list[float]:
    counts: list[float] = arrivals_per_interval(np.array(finished), np.array(held)).tolist()
    return counts


def same(found: Sequence[float], wanted: Sequence[float]) -> None:
    np.testing.assert_array_equal(found, wanted)


def test_arrivals_are_what_ended_and_what_is_held_more() -> None:
    same(arrived([[5, 7, 7, 10]], [[0, 4, 6, 3]]), [6, 2, 0])


def test_engines_are_added_up() -> None:
    same(arrived([[5, 7], [100, 110]], [[0, 0], [3, 1]]), [2 + 8])


def test_a_queue_that_only_grows_has_arrivals() -> None:
    same(arrived([[0, 0, 0]], [[0, 9, 20]]), [9, 11])


def test_an_engine_that_begins_anew_makes_its_interval_unknown() -> None:
    # it held 8 when it went: they had come before, and are not taken back
    same(arrived([[50, 60, 2, 7]], [[8, 8, 0, 0]]), [10, NAN, 5])


def test_a_gap_in_the_scrape_is_unknown_and_not_quiet() -> None:
    same(arrived([[1, 2, NAN, NAN, 30, 31]], [[0, 0, NAN, NAN, 0, 0]]), [1, NAN, NAN, NAN, 1])


def test_one_engines_gap_makes_the_sum_unknown() -> None:
    finished: Rows = [[1, 2, NAN, 9, 10], [0, 5, 10, 15, 20]]
    same(arrived(finished, [[0] * 5] * 2), [6, NAN, NAN, 6])


def test_an_engine_that_was_away_and_began_anew_took_nothing_meanwhile() -> None:
    finished: Rows = [[7, 8, NAN, NAN, 1, 2], [0, 5, 10, 15, 20, 25]]
    same(arrived(finished, [[0] * 6] * 2), [6, 5, 5, NAN, 6])


def test_one_that_comes_late_brings_nothing_of_its_past() -> None:
    finished: Rows = [[NAN, 1e6, 1e6 + 3], [0, 5, 10]]
    same(arrived(finished, [[NAN, 50, 50], [0, 0, 0]]), [5, 8])


def test_one_that_goes_takes_nothing_back() -> None:
    finished: Rows = [[3, 6, NAN], [0, 5, 10]]
    same(arrived(finished, [[0, 40, NAN], [0, 0, 0]]), [48, 5])


def test_a_page_whose_gauges_lag_adds_nothing() -> None:
    same(arrived([[0, 5, 5, 6]], [[5, 0, 0, 0]]), [0, 0, 1])
    same(arrived([[0, 1, 5, 6]], [[5, 2, 0, 0]]), [0, 0, 1])  # 5, 3, 5, 6: made up for


def test_nothing_seen_is_unknown() -> None:
    same(arrived([[NAN, NAN, 4, 5]], [[NAN, NAN, 0, 0]]), [NAN, NAN, 1])


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=5, max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_every_request_of_an_unbroken_row_is_counted_once(
    engines: list[list[tuple[int, int]]],
) -> None:
    ended = np.cumsum([[more for more, _ in row] for row in engines], axis=1).astype(float)
    held = np.array([[now for _, now in row] for row in engines], float)
    counts = arrivals_per_interval(ended, held)
    came = ended + held
    assert (counts >= 0).all()
    assert counts.sum() == pytest.approx((came.max(axis=1) - came[:, 0]).sum())


def buckets(instance: str, **counts: float) -> list[Sample]:
    return [
        Sample({"instance": instance, "le": le.lstrip("b").replace("inf", "+Inf")}, value)
        for le, value in counts.items()
    ]


def test_histograms_with_other_bounds_are_added_up() -> None:
    # the first engine's requests end at 1,500 tokens, so it has no bound of 2,000
    short = buckets("a", b500=4, b1000=8, inf=10)
    long = buckets("b", b500=0, b1000=1, b2000=5, inf=6)
    found = merged_lengths([*short, *long], 9000.0)
    assert found.bounds == (500.0, 1000.0, 2000.0, np.inf)
    assert found.counts == (4.0, 5.0, 6.0, 1.0)
    assert found.total_tokens == 9000.0


def test_bounds_written_in_other_ways_are_the_same() -> None:
    found = merged_lengths(
        [*buckets("a", b10=1, inf=2), *buckets("b", **{"b10.0": 1, "inf": 1})], 9.0
    )
    assert (found.bounds, found.counts) == ((10.0, np.inf), (2.0, 1.0))


@dataclass
class FakePrometheus:
    """Answers by what a query is about; remembers the queries."""

    models: Mapping[str, Sequence[str]]
    """Served names by a metric's name."""
    counts: Mapping[str, Mapping[str, Sequence[float]]]
    """Values on the grid: by metric, by instance, or instance@job."""
    instant: Mapping[str, Sequence[tuple[Mapping[str, str], float]]] = field(default_factory=dict)
    """Increases by metric."""
    scrape_s: float = 15.0
    warnings: tuple[str, ...] = ()
    shown: str = "http://prometheus"
    queries: list[str] = field(default_factory=list)
    ranges: list[tuple[float, float, float]] = field(default_factory=list)

    async def instant_query(self, query: str, at_s: float) -> Vector:
        self.queries.append(query)
        if query.startswith("topk"):
            return Vector((Sample({"instance": "a"}, 9.0),))
        if query.startswith("count by (model_name)"):
            names = next((names for metric, names in self.models.items() if metric in query), ())
            if 'model_name="' in query:
                names = [name for name in names if f'model_name="{name}"' in query]
            return Vector(tuple(Sample({"model_name": name}, 1.0) for name in names))
        found = next((rows for metric, rows in self.instant.items() if metric in query), ())
        return Vector(tuple(Sample(labels, value) for labels, value in found), self.warnings)

    async def stored_samples(self, query: str, at_s: float) -> tuple[Series, ...]:
        scraped_s = at_s - self.scrape_s * np.arange(9.0)[::-1] - 1.0
        return (Series({}, scraped_s, np.zeros(9)),)

    async def range_query(self, query: str, start_s: float, end_s: float, step_s: float) -> Grid:
        self.queries.append(query)
        self.ranges.append((start_s, end_s, step_s))
        at_s = start_s + step_s * np.arange(round((end_s - start_s) / step_s) + 1.0)
        rows = next((rows for metric, rows in self.counts.items() if metric in query), {})
        labels = tuple({"instance": i.split("@")[0], "job": i.split("@")[-1]} for i in rows)
        values = np.array([np.resize(np.array(row, float), at_s.size) for row in rows.values()])
        return Grid(at_s, labels, values.reshape(len(rows), at_s.size), ())


VLLM_ENDED = "vllm:request_success_total"
LENGTHS: Mapping[str, Sequence[tuple[Mapping[str, str], float]]] = {
    "vllm:request_prompt_tokens_bucket": [({"le": "100"}, 60.0), ({"le": "+Inf"}, 60.0)],
    "vllm:request_prompt_tokens_sum": [({}, 3000.0)],
    "vllm:request_generation_tokens_bucket": [({"le": "10"}, 30.0), ({"le": "+Inf"}, 60.0)],
    "vllm:request_generation_tokens_sum": [({}, 900.0)],
    "vllm:prefix_cache_hits_total": [({}, 750.0)],
    "vllm:prefix_cache_queries_total": [({}, 3000.0)],
}


def a_prometheus(**changes: Any) -> FakePrometheus:
    """A vLLM that is asked 6 times in 15 s."""
    fields: dict[str, Any] = {
        "models": {VLLM_ENDED: ["tiny"]},
        "counts": {
            VLLM_ENDED: {"a": np.arange(0.0, 600.0, 6.0)},
            "vllm:num_requests_running": {"a": np.zeros(100)},
        },
        "instant": LENGTHS,
    }
    return FakePrometheus(**{**fields, **changes})


def read(
    fake: FakePrometheus, window_s: float = 300.0, step_s: float = 15.0, **matchers: str
) -> tuple[Workload, Notes]:
    client = cast("Prometheus", fake)
    return asyncio.run(traffic_from_prometheus(client, matchers, window_s, 1e9, step_s))


def test_rate_lengths_and_hits_come_from_prometheus() -> None:
    fake = a_prometheus()
    workload, notes = read(fake)
    assert workload.rate_rps == pytest.approx(0.4)
    assert workload.mean_input_tokens == pytest.approx(50, rel=0.01)
    assert workload.mean_output_tokens == pytest.approx(15, rel=0.01)
    assert workload.hit_ratio == 0.25
    assert notes == (
        "50% of the answers are longer than the last bucket, 10 tokens: how much longer is a guess",
    )


def test_intervals_end_half_way_between_scrapes_and_reach_back_over_the_window() -> None:
    fake = a_prometheus()
    read(fake, window_s=300.0)
    (start_s, end_s, step_s) = fake.ranges[0]
    assert 1e9 - end_s == pytest.approx(8.5)
    assert (end_s - start_s, step_s) == (300.0, 15.0)


def test_the_step_becomes_a_multiple_of_the_scrapes() -> None:
    fake = a_prometheus()
    workload, notes = read(fake, window_s=900.0, step_s=20.0)
    assert fake.ranges[0][2] == 30.0
    assert workload.rate_rps == pytest.approx(0.2)
    assert notes[0] == "engines are scraped every 15 s: arrivals are counted over 30 s"


def test_a_window_of_less_than_two_intervals_is_refused() -> None:
    with pytest.raises(Refused, match="window: 20 s holds fewer than two intervals of 15 s"):
        read(a_prometheus(), window_s=20.0)
    with pytest.raises(Refused, match="window: must be positive"):
        read(a_prometheus(), window_s=NAN)


def test_several_models_are_refused_and_listed() -> None:
    fake = a_prometheus(models={VLLM_ENDED: ["b", "a"], "sglang:num_requests_total": ["c"]})
    with pytest.raises(
        Refused, match=r"several models match: a \(vllm\), b \(vllm\), c \(sglang\)"
    ):
        read(fake)
    read(fake, model_name="a")


def test_a_model_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(Refused, match=r"no engine has model_name=other: there are tiny \(vllm\)"):
        read(a_prometheus(), model_name="other")


def test_a_prometheus_without_engines_is_refused_with_the_mend() -> None:
    with pytest.raises(Refused, match=r"no requests of vllm, sglang, tgi .*let it scrape"):
        read(a_prometheus(models={}))


def test_the_matchers_stand_in_every_query() -> None:
    fake = a_prometheus()
    read(fake, model_name="tiny", namespace="prod")
    assert len(fake.queries) > 6
    assert all('model_name="tiny",namespace="prod"' in query for query in fake.queries)


def test_an_older_name_is_asked_for_too_and_the_newest_counts() -> None:
    fake = a_prometheus()
    read(fake)
    (hits,) = [query for query in fake.queries if "prefix_cache_hits_total" in query]
    assert [part.partition("increase(")[2].partition("{")[0] for part in hits.split(" or ")] == [
        "vllm:prefix_cache_hits_total",
        "vllm_prefix_cache_hits_total",  # as Python's client writes it for OpenMetrics
        "vllm:gpu_prefix_cache_hits_total",
        "vllm_gpu_prefix_cache_hits_total",
    ]


def test_another_engine_is_read_by_its_own_names() -> None:
    lengths = {
        name.replace("vllm:request_", "sglang:").replace("tokens_", "tokens_histogram_"): rows
        for name, rows in LENGTHS.items()
    }
    ended = "sglang:num_requests_total|sglang_num_requests_total|sglang:num_aborted_requests_total"
    counts = {ended: {"a": np.arange(0.0, 600.0, 6.0)}, "sglang:num_running_reqs": {"a": [0.0]}}
    fake = a_prometheus(models={ended: ["tiny"]}, counts=counts, instant=lengths)
    workload, notes = read(fake)
    assert workload.rate_rps == pytest.approx(0.4)
    assert notes[0] == "no counters of the prefix cache: its hits are taken as 0"


def test_without_gauges_requests_are_counted_as_they_end_and_it_is_said() -> None:
    counts = {VLLM_ENDED: {"a": np.arange(0.0, 600.0, 6.0)}}
    workload, notes = read(a_prometheus(counts=counts))
    assert workload.rate_rps == pytest.approx(0.4)
    assert notes[0].startswith("1 engines publish no running and waiting requests")


def test_gaps_are_left_out_and_told() -> None:
    ended = np.arange(0.0, 600.0, 6.0)
    ended[5:9] = NAN
    counts = {VLLM_ENDED: {"a": ended}, "vllm:num_requests_running": {"a": [0.0]}}
    workload, notes = read(a_prometheus(counts=counts))
    assert workload.rate_rps == pytest.approx(0.4)
    assert notes[0].startswith("5 of 20 intervals are left out: gaps in the scrape")


def test_one_engine_scraped_by_two_jobs_is_refused() -> None:
    twice = {"a@one": np.arange(600.0), "a@two": np.arange(600.0)}
    with pytest.raises(Refused, match=r"scraped by the jobs one and two.*choose by job=two"):
        read(a_prometheus(counts={VLLM_ENDED: twice}))


def test_one_engine_that_another_job_takes_over_is_no_reason_to_refuse() -> None:
    first, second = np.arange(0.0, 600.0, 6.0), np.arange(0.0, 600.0, 6.0)
    first[10:], second[:10] = NAN, NAN
    _, notes = read(a_prometheus(counts={VLLM_ENDED: {"a@one": first, "a@two": second}}))
    assert not any("twice" in note for note in notes)


def test_missing_lengths_are_refused_by_name() -> None:
    fake = a_prometheus(instant={k: v for k, v in LENGTHS.items() if "prompt" not in k})
    with pytest.raises(Refused, match="keep vllm:request_prompt_tokens_bucket when it scrapes"):
        read(fake)


def test_nothing_in_the_window_is_refused() -> None:
    quiet = {VLLM_ENDED: {"a": [7.0]}, "vllm:num_requests_running": {"a": [0.0]}}
    with pytest.raises(Refused, match="no requests in the time asked for"):
        read(a_prometheus(counts=quiet))


def test_few_requests_are_taken_as_poisson_and_it_is_said() -> None:
    few = {VLLM_ENDED: {"a": np.arange(100.0) // 10}, "vllm:num_requests_running": {"a": [0.0]}}
    workload, notes = read(a_prometheus(counts=few))
    assert workload.cv == 1.0
    assert "too few requests or intervals to tell burstiness: taken as Poisson" in notes


def test_the_servers_own_warnings_are_passed_on_once() -> None:
    _, notes = read(a_prometheus(warnings=("a store did not answer",)))
    assert notes.count("http://prometheus warns: a store did not answer") == 1


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def now_s(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds


@dataclass
class Live:
    """An engine whose page changes from one scrape to the next."""

    change: Callable[[int], bytes | None]
    """The page of each scrape, from 0; None: it fails."""
    url: str = ""
    scrapes: int = 0

    async def page(self, _: web.Request) -> web.Response:
        page = self.change(self.scrapes)
        self.scrapes += 1
        return web.Response(status=503) if page is None else web.Response(body=page)


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    engine = Live(lambda _: None)
    app = web.Application()
    app.router.add_get("/metrics", engine.page)
    async with TestServer(app) as server:
        engine.url = str(server.make_url("")).rstrip("/")
        yield engine


async def watch(live: Live, seconds: float, interval_s: float = 1.0) -> tuple[Workload, Notes]:
    clock = Clock()
    async with aiohttp.ClientSession() as http:
        return await traffic_from_engine(
            http, live.url, seconds, interval_s, clock.now_s, clock.sleep
        )


def served(engine: Engine, requests: int, *, hits: float = 0.0, running: float = 0.0) -> Engine:
    """Let `requests` of 50 prompt and 5 answer tokens end."""
    engine.counter(VLLM_ENDED, requests, finished_reason="stop")
    engine.observed("vllm:request_prompt_tokens", [50.0] * requests, LEN_BOUNDS)
    engine.observed("vllm:request_generation_tokens", [5.0] * requests, LEN_BOUNDS)
    engine.counter("vllm:prefix_cache_queries_total", 50 * requests)
    engine.counter("vllm:prefix_cache_hits_total", hits)
    engine.gauge("vllm:num_requests_waiting", 0)
    return engine.gauge("vllm:num_requests_running", running)


def serving(engine: Engine, requests: int, hits: float = 0.0) -> Callable[[int], bytes]:
    return lambda _: served(engine, requests, hits=hits).page()


async def test_an_engine_is_watched_and_its_past_left_out(live: Live) -> None:
    engine = Engine()
    engine.observed("vllm:request_prompt_tokens", [900.0] * 500, LEN_BOUNDS)
    live.change = serving(engine, 4, hits=20.0)
    workload, notes = await watch(live, 10.0)
    assert live.scrapes == 11
    assert workload.rate_rps == 4.0
    assert workload.mean_input_tokens == pytest.approx(50, rel=0.01)
    assert workload.mean_output_tokens == pytest.approx(5, rel=0.1)
    assert workload.hit_ratio == pytest.approx(0.1)
    assert notes == ()


async def test_a_growing_batch_counts_as_arrivals(live: Live) -> None:
    engine = served(Engine(), 100)
    live.change = lambda n: engine.gauge("vllm:num_requests_running", 3 * n).page()
    workload, notes = await watch(live, 10.0)
    assert workload.rate_rps == 3.0
    assert notes[0].startswith("only 0 requests ended while watching: lengths")
    assert workload.mean_input_tokens == pytest.approx(50, rel=0.01)


async def test_nothing_that_came_is_refused_with_the_mend(live: Live) -> None:
    engine = served(Engine(), 100)
    live.change = lambda _: engine.page()
    with pytest.raises(Refused, match="no request came in 10 s: watch for longer"):
        await watch(live, 10.0)


async def test_a_missed_page_is_a_gap(live: Live) -> None:
    give = serving(Engine(), 5)
    live.change = lambda n: None if n == 4 else give(n)
    workload, notes = await watch(live, 12.0)
    assert workload.rate_rps == 5.0
    assert notes[0].startswith("2 of 12 intervals are left out")


async def test_an_engine_that_restarts_meanwhile_does_not_distort(live: Live) -> None:
    engines = {True: Engine(), False: Engine()}
    live.change = lambda n: served(engines[n < 6], 5).page()
    workload, notes = await watch(live, 12.0)
    assert workload.rate_rps == 5.0
    assert workload.mean_input_tokens == pytest.approx(50, rel=0.01)
    assert notes[0].startswith("1 of 12 intervals are left out")


async def test_an_engine_without_prefix_counters_has_no_hits_and_it_is_said(live: Live) -> None:
    engine = Engine()

    def page(_: int) -> bytes:
        served(engine, 5)
        for name in ("hits", "queries"):
            del engine.known[f"vllm:prefix_cache_{name}_total"]
        return engine.page()

    live.change = page
    workload, notes = await watch(live, 10.0)
    assert workload.hit_ratio == 0.0
    assert notes == ("no counters of the prefix cache: its hits are taken as 0",)


async def test_an_engine_without_lengths_is_refused(live: Live) -> None:
    engine = Engine().gauge("vllm:num_requests_running", 0).gauge("vllm:num_requests_waiting", 0)
    live.change = lambda _: engine.counter(VLLM_ENDED, 5, finished_reason="stop").page()
    with pytest.raises(Refused, match="publishes no prompt lengths"):
        await watch(live, 10.0)


async def test_an_engine_without_counters_is_refused(live: Live) -> None:
    engine = Engine().gauge("vllm:num_requests_running", 0)
    live.change = lambda _: engine.page()
    with pytest.raises(Refused, match="publishes no count of ended requests"):
        await watch(live, 10.0)


async def test_nobody_there_is_told_at_once(live: Live) -> None:
    with pytest.raises(RetryLater, match=r"HTTP 503.*is an engine serving there"):
        await watch(live, 10.0)
    assert live.scrapes == 1


async def test_a_page_may_be_named_or_the_engine_alone(live: Live) -> None:
    live.change = serving(Engine(), 5)
    for url in (f"{live.url}/", f"{live.url}/metrics"):
        live.url = url
        workload, _ = await watch(live, 10.0)
        assert workload.rate_rps == 5.0


@pytest.mark.parametrize(("seconds", "interval_s"), [(1.0, 2.0), (10.0, 0.0), (0.0, 1.0)])
async def test_times_that_do_not_fit_are_refused(
    live: Live, seconds: float, interval_s: float
) -> None:
    with pytest.raises(Refused, match="does not fit into"):
        await watch(live, seconds, interval_s)
