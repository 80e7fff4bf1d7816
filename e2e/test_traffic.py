"""The workload found in a real Prometheus is the one that was injected.

Three emulated engines under one Prometheus, all loaded at once: a steady one that is sent every
prompt twice, a bursty one, and one that is killed under load and started again. Counts are held
to what was sent; means of random numbers to four of their standard errors.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.clock import monotonic_s, wall_s
from controller.traffic import traffic_from_engine, traffic_from_prometheus
from e2e.harness.processes import free_port, start_server, stop_server
from e2e.harness.prometheus import needs_prometheus, prometheus
from e2e.harness.wait import eventually
from monitor.sources.prometheus import Prometheus
from profiler.errors import Refused
from profiler.measure import Outcome, Status, Target, open_session, replay
from profiler.trace import Lengths, Trace, gamma_renewal, joined, poisson

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from controller.traffic import Notes
    from recommender import Workload

SCRAPE_S = 0.5
SCRAPE = f"{SCRAPE_S * 1e3:.0f}ms"
RATE_RPS = 20.0
LOAD_S = 14.0
KILL_AT_S = 6.0
BLOCK_TOKENS = 16
MODEL = "Qwen/Qwen3-0.6B"
NAMES = ("steady", "bursty", "restarted")

pytestmark = needs_prometheus


@dataclass(frozen=True, slots=True)
class Sent:
    """What went to one engine."""

    trace: Trace
    begun_s: float
    """Seconds since the epoch; some scrapes of silence come first."""
    ended_s: float
    """When all of it was answered."""


@dataclass(frozen=True, slots=True)
class Story:
    """What happened: how Prometheus is reached, and what each engine was sent."""

    url: str
    sent: dict[str, Sent]
    watched: tuple[Workload, Notes]
    """The steady engine's workload, from its own page."""


class Engine:
    """An emulated engine as a process; started again it keeps its address."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self.url = f"http://{self.address}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._process = start_server(
                [sys.executable, "-m", "controller.cli", "emulate", f"--model={MODEL}",
                 f"--served-model-name={self.name}", f"--port={self._port}", "--start-up-s=0",
                 "--max-model-len=4096"],
                log,
            )  # fmt: skip

    def stop(self, grace_s: float = 5.0) -> None:
        if self._process is not None:
            stop_server(self._process, grace_s)


class OtherEngine(Collector):
    """What SGLang would publish: at every scrape, two requests more and one aborted.

    Served by Python's client, which spells the names with `_` where Prometheus asks for
    OpenMetrics.
    """

    name, model = "sglang", "other"

    def __init__(self) -> None:
        self._scrapes = -1
        self.address = f"127.0.0.1:{free_port()}"

    def collect(self) -> Iterator[Metric]:
        self._scrapes += 1
        for counter, times in (("num_requests", 2), ("num_aborted_requests", 1)):
            family = CounterMetricFamily(f"sglang:{counter}", "ended", labels=["model_name"])
            family.add_metric([self.model], times * self._scrapes)
            yield family
        for kind in ("prompt", "generation"):
            name = f"sglang:{kind}_tokens_histogram"
            lengths = HistogramMetricFamily(name, "lengths", labels=["model_name"])
            seen = [(bound, float(self._scrapes)) for bound in ("100.0", "+Inf")]
            lengths.add_metric([self.model], seen, 50.0 * self._scrapes)
            yield lengths

    def start(self) -> None:
        registry = CollectorRegistry()
        registry.register(self)
        host, port = self.address.split(":")
        self._server, self._thread = start_http_server(int(port), host, registry)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def job(name: str, address: str) -> dict[str, Any]:
    """Scrape one engine, whatever it is."""
    return {"job_name": name, "static_configs": [{"targets": [address]}]}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("traffic")
    engines = [Engine(name, folder) for name in NAMES]
    other = OtherEngine()
    with ExitStack() as stack:
        everyone: tuple[Engine | OtherEngine, ...] = (*engines, other)
        for engine in everyone:
            engine.start()
            stack.callback(engine.stop)
        jobs = [job(e.name, e.address) for e in everyone]
        url = stack.enter_context(prometheus(jobs, folder, SCRAPE))
        eventually(lambda: scraped_often(url), 120, "scrapes of silence")
        sent, watched = asyncio.run(loaded(*engines))
        eventually(partial(all_stored, url, sent), 20, "every end stored")
        yield Story(url, sent, watched)


ENDED = "sum by (job) (vllm:request_success_total)"
SCRAPES = "min by (job) (count_over_time(vllm:request_success_total[1m]))"
QUIET_SCRAPES = 3


def scraped_often(url: str) -> bool:
    """Whether each engine has been scraped before it is sent anything, and more than once."""
    times = asked(url, SCRAPES)
    return times.keys() >= set(NAMES) and min(times.values()) > QUIET_SCRAPES + 1


def asked(url: str, query: str) -> dict[str, float]:
    """Values of an expression now, by job."""

    async def ask() -> dict[str, float]:
        async with aiohttp.ClientSession() as http:
            answer = await Prometheus(http, url).instant_query(query, wall_s())
        return {s.labels["job"]: s.value for s in answer.samples}

    return asyncio.run(ask())


def all_stored(url: str, sent: dict[str, Sent]) -> bool:
    """Whether Prometheus has seen every request of the engines that lived end."""
    stored = asked(url, ENDED)
    return all(stored[name] == len(sent[name].trace) for name in ("steady", "bursty"))


def lengths(seed: int) -> Lengths:
    rng = np.random.default_rng(seed)
    return Lengths(
        np.clip(rng.gamma(2.0, 100.0, 500), 17, 1500).astype(np.int64),
        np.clip(rng.gamma(2.0, 10.0, 500), 1, 150).astype(np.int64),
    )


async def loaded(
    steady: Engine, bursty: Engine, restarted: Engine
) -> tuple[dict[str, Sent], tuple[Workload, Notes]]:
    """Load all three at once, and watch the steady one's page meanwhile."""
    once = poisson(RATE_RPS, LOAD_S / 2, lengths(1), np.random.default_rng(1))
    bursts = gamma_renewal(RATE_RPS, LOAD_S, lengths(2), np.random.default_rng(2), cv=3.0)
    constant = poisson(RATE_RPS, LOAD_S, lengths(3), np.random.default_rng(3))
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        twice = group.create_task(sent_to(steady, once, once))
        gamma = group.create_task(sent_to(bursty, bursts))
        broken = group.create_task(sent_to(restarted, constant, survives=False))
        group.create_task(asyncio.to_thread(killed_and_started, restarted))
        watching = group.create_task(
            traffic_from_engine(http, steady.url, LOAD_S - 2, SCRAPE_S, monotonic_s)
        )
    sent = dict(zip(NAMES, (twice.result(), gamma.result(), broken.result()), strict=True))
    return sent, watching.result()


async def sent_to(engine: Engine, *traces: Trace, survives: bool = True) -> Sent:
    """Send traces one after the other: same seed, so that a second one's prompts are cached."""
    begun_s = wall_s()
    target = Target(engine.url, engine.name, stream=False, timeout_s=20)
    async with open_session(None) as session:
        outcomes: list[Outcome] = []
        for trace in traces:
            outcomes += await replay(session, target, trace, monotonic_s)
    if survives:
        assert {outcome.status for outcome in outcomes} == {Status.OK}
    shifted = [Trace.of(t.arrival_s + i * LOAD_S / 2, t.input_tokens, t.output_tokens)
               for i, t in enumerate(traces)]  # fmt: skip
    return Sent(joined(shifted), begun_s, wall_s())


def killed_and_started(engine: Engine) -> None:
    """SIGKILL under load: what was under way is lost, and every counter begins anew."""
    begun_s = monotonic_s()
    eventually(lambda: monotonic_s() >= begun_s + KILL_AT_S, KILL_AT_S + 5, "the middle")
    engine.stop(grace_s=0)
    engine.start()


def found(story: Story, name: str, begun_s: float, ended_s: float) -> tuple[Workload, Notes]:
    async def read() -> tuple[Workload, Notes]:
        async with aiohttp.ClientSession() as http:
            return await traffic_from_prometheus(
                Prometheus(http, story.url), {"model_name": name}, ended_s - begun_s, ended_s,
                SCRAPE_S,
            )  # fmt: skip

    workload, notes = asyncio.run(read())
    print(name, round(workload.rate_rps, 3), round(workload.cv, 3),
          round(workload.mean_input_tokens, 2), round(workload.mean_output_tokens, 2),
          round(workload.hit_ratio, 4), notes)  # fmt: skip
    return workload, notes


def quiet_around(story: Story, name: str) -> tuple[float, float]:
    """A span with silent scrapes at either end, so that every request lies inside."""
    sent = story.sent[name]
    until_s = sent.ended_s + QUIET_SCRAPES * SCRAPE_S
    eventually(lambda: wall_s() >= until_s, 10, "silence")
    return sent.begun_s - QUIET_SCRAPES * SCRAPE_S, until_s


def test_every_request_is_counted_once_with_its_lengths_and_its_prefix(story: Story) -> None:
    trace = story.sent["steady"].trace
    begun_s, ended_s = quiet_around(story, "steady")
    workload, notes = found(story, "steady", begun_s, ended_s)
    span_s = int((ended_s - begun_s) / SCRAPE_S) * SCRAPE_S
    assert workload.rate_rps * span_s == pytest.approx(len(trace), abs=1)
    assert workload.mean_input_tokens == pytest.approx(trace.input_tokens.mean(), rel=0.01)
    assert workload.mean_output_tokens == pytest.approx(trace.output_tokens.mean(), rel=0.01)
    again = trace.input_tokens[len(trace) // 2 :]
    hits = (again - 1) // BLOCK_TOKENS * BLOCK_TOKENS  # the last token is always computed
    assert workload.hit_ratio == pytest.approx(hits.sum() / trace.input_tokens.sum(), abs=0.01)
    assert notes == ()


def test_lengths_have_the_spread_that_was_sent(story: Story) -> None:
    trace = story.sent["steady"].trace
    workload, _ = found(story, "steady", *quiet_around(story, "steady"))
    for q in (0.25, 0.5, 0.9):  # to the width of a bucket: 1, 2, 5, 10, …
        ratio = np.quantile(workload.input_tokens, q) / np.quantile(trace.input_tokens, q)
        assert 0.6 < ratio < 1.6


def test_bursts_are_told_from_even_traffic(story: Story) -> None:
    # over some 28 intervals a variance is known to a third: the cv to a sixth, four of which are
    # two thirds
    even, _ = found(story, "steady", story.sent["steady"].begun_s, story.sent["steady"].ended_s)
    sent = story.sent["bursty"]
    bursty, _ = found(story, "bursty", sent.begun_s, sent.ended_s)
    assert 0.33 < even.cv < 1.67
    assert 1.67 < bursty.cv < 5.0


def test_a_burst_is_counted_when_it_comes_and_whole(story: Story) -> None:
    begun_s, ended_s = quiet_around(story, "bursty")
    workload, _ = found(story, "bursty", begun_s, ended_s)
    span_s = int((ended_s - begun_s) / SCRAPE_S) * SCRAPE_S
    assert workload.rate_rps * span_s == pytest.approx(len(story.sent["bursty"].trace), abs=1)


def test_an_engine_killed_and_started_half_way_does_not_distort(story: Story) -> None:
    sent = story.sent["restarted"]
    workload, notes = found(story, "restarted", sent.begun_s, sent.begun_s + LOAD_S)
    served = sent.trace
    error = 4 / np.sqrt(len(served))
    assert workload.rate_rps == pytest.approx(len(served) / LOAD_S, rel=error)
    assert workload.mean_input_tokens == pytest.approx(served.input_tokens.mean(), rel=error)
    assert workload.mean_output_tokens == pytest.approx(served.output_tokens.mean(), rel=error)
    assert workload.cv < 1.67
    assert any("began anew" in note for note in notes)


def test_one_engines_own_page_tells_the_same(story: Story) -> None:
    workload, notes = story.watched
    trace = story.sent["steady"].trace
    error = 4 / np.sqrt(RATE_RPS * (LOAD_S - 2))
    print("watched", workload.rate_rps, workload.cv, workload.hit_ratio, notes)
    assert workload.rate_rps == pytest.approx(RATE_RPS, rel=error)
    assert workload.mean_input_tokens == pytest.approx(trace.input_tokens.mean(), rel=error)
    assert workload.mean_output_tokens == pytest.approx(trace.output_tokens.mean(), rel=error)
    assert notes == ()


def test_another_engine_with_two_counters_of_ended_requests_is_read(story: Story) -> None:
    ended_s = wall_s()
    workload, notes = found(story, OtherEngine.model, ended_s - 10, ended_s)
    assert workload.rate_rps == pytest.approx(3 / SCRAPE_S, rel=0.05)
    assert workload.mean_input_tokens == pytest.approx(50, rel=0.05)
    assert notes[0].startswith("1 engines publish no running and waiting")


def test_several_models_are_refused_by_name(story: Story) -> None:
    async def read() -> object:
        async with aiohttp.ClientSession() as http:
            return await traffic_from_prometheus(
                Prometheus(http, story.url), {}, 60.0, wall_s(), SCRAPE_S
            )

    with pytest.raises(
        Refused, match=r"several models match: bursty \(vllm\), .* other \(sglang\)"
    ):
        asyncio.run(read())
