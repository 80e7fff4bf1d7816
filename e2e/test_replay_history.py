"""A trace rebuilt from a real Prometheus is the one that was sent, and policies can be tried on it.

Two emulated engines of one model: the first serves alone, the second comes and goes. Counts are
held to what was sent, lengths to the sums that engines counted, load to what fits into the
intervals at either end.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest
from typer.testing import CliRunner

from controller.cli import build_app
from controller.clock import wall_s
from controller.replay.history import rebuilt
from controller.traffic import history_from_prometheus
from e2e.harness.prometheus import needs_prometheus, prometheus
from e2e.harness.wait import eventually
from e2e.test_traffic import MODEL, SCRAPE, SCRAPE_S, Engine, asked, job, lengths, sent_to
from monitor.sources.prometheus import Prometheus
from profiler.trace import Trace, poisson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.replay.counted import Counted
    from e2e.test_traffic import Sent

STEP_S = 1.0
ALONE_RPS, TOGETHER_RPS, PHASE_S = 8.0, 30.0, 10.0
ENDED = "sum by (job) (last_over_time(vllm:request_success_total[1m]))"
UP = "sum by (job) (count_over_time(vllm:num_requests_running[1m]))"

pytestmark = needs_prometheus


@dataclass(frozen=True, slots=True)
class Story:
    """What was sent, and where it was counted."""

    url: str
    sent: tuple[Sent, ...]
    """Alone; the first's and the second's part together; alone again."""
    begun_s: float
    ended_s: float

    def arrivals_s(self) -> Any:
        """When requests really were sent; seconds since the epoch, ascending."""
        return np.sort(np.concatenate([s.begun_s + s.trace.arrival_s for s in self.sent]))

    def tokens(self, column: str) -> Any:
        return np.concatenate([getattr(s.trace, column) for s in self.sent])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    first, second = (Engine("served", folder) for folder in folders)
    jobs = [job("first", first.address), job("second", second.address)]
    with ExitStack() as stack:
        for engine in (first, second):
            stack.callback(engine.stop)
        first.start()
        url = stack.enter_context(prometheus(jobs, folders[0], SCRAPE))
        # the history begins two steps earlier, and a rate looks back a step further
        eventually(lambda: asked(url, UP).get("first", 0) > 12, 60, "scrapes of the first")
        begun_s = wall_s()
        alone = asyncio.run(sent_to(first, load(ALONE_RPS, 1)))
        second.start()
        eventually(lambda: asked(url, UP).get("second", 0) > 4, 60, "scrapes of the second")
        together = asyncio.run(both(first, second))
        stored(url, first=len(alone.trace) + len(together[0].trace), second=len(together[1].trace))
        second.stop()
        again = asyncio.run(sent_to(first, load(ALONE_RPS, 4)))
        sent = (alone, *together, again)
        stored(url, first=sum(len(s.trace) for s in (alone, together[0], again)))
        until_s = wall_s() + 3 * SCRAPE_S
        eventually(lambda: wall_s() >= until_s, 10, "silence")
        yield Story(url, sent, begun_s - 2 * STEP_S, until_s)


def load(rate_rps: float, seed: int) -> Trace:
    return poisson(rate_rps, PHASE_S, lengths(seed), np.random.default_rng(seed))


async def both(first: Engine, second: Engine) -> tuple[Sent, Sent]:
    parts = (load(TOGETHER_RPS / 2, seed) for seed in (2, 3))
    one, other = await asyncio.gather(
        *(sent_to(engine, part) for engine, part in zip((first, second), parts, strict=True))
    )
    return one, other


def stored(url: str, **ended: int) -> None:
    """Wait until Prometheus has seen them end."""
    eventually(lambda: ended.items() <= asked(url, ENDED).items(), 20, "the last scrape")


@pytest.fixture(scope="module")
def counted(story: Story) -> Counted:
    async def read() -> Counted:
        async with aiohttp.ClientSession() as http:
            found, notes = await history_from_prometheus(
                Prometheus(http, story.url), {"model_name": "served"}, story.begun_s,
                story.ended_s, STEP_S,
            )  # fmt: skip
            print("notes:", notes)
            return found

    return asyncio.run(read())


def test_every_request_is_rebuilt_once(story: Story, counted: Counted) -> None:
    assert counted.known.all()
    assert len(rebuilt(counted)) == pytest.approx(len(story.arrivals_s()), abs=2)


@pytest.mark.parametrize("column", ["input_tokens", "output_tokens"])
def test_tokens_are_those_that_were_sent(story: Story, counted: Counted, column: str) -> None:
    found, truth = getattr(rebuilt(counted), column), story.tokens(column)
    print(column, found.sum(), truth.sum(), np.quantile(found, 0.9), np.quantile(truth, 0.9))
    assert found.sum() == pytest.approx(truth.sum(), rel=0.01)
    assert np.quantile(found, 0.9) == pytest.approx(np.quantile(truth, 0.9), rel=0.35)  # a bucket


def test_requests_come_when_they_came(story: Story, counted: Counted) -> None:
    """To one interval and one scrape at either end of any stretch: so many requests may be off."""
    found = counted.begin_s + rebuilt(counted).arrival_s
    truth = story.arrivals_s()
    edges = np.arange(story.begun_s, story.ended_s, 5.0)
    apart = np.abs(np.searchsorted(found, edges) - np.searchsorted(truth, edges))
    print("off by", apart)
    assert apart.max() <= 1.5 * TOGETHER_RPS * (STEP_S + SCRAPE_S)
    rates = [np.histogram(at_s, edges)[0] / 5.0 for at_s in (found, truth)]
    assert rates[0].max() == pytest.approx(rates[1].max(), rel=0.2)


def test_engines_are_counted_as_they_come_and_go(counted: Counted) -> None:
    changes = counted.engines[np.flatnonzero(np.diff(counted.engines, prepend=0.0))]
    assert changes.tolist() == [1, 2, 1]


def test_first_tokens_are_told_as_they_came(counted: Counted) -> None:
    assert counted.attained_ttft_ratio(5.0) == pytest.approx(1.0)
    assert counted.attained_ttft_ratio(1e-4) < 0.05


def test_one_command_says_what_policies_would_have_done(story: Story, counted: Counted) -> None:
    command = [
        "replay", "--prometheus", story.url, "--match", "model_name=served", "--since",
        f"{wall_s() - story.begun_s + 1:.1f}s", "--step", "1", "--model", MODEL, "--gpu", "L4",
        "--slo-ttft-ms", "2000", "--slo-itl-ms", "100", "-o", "json",
    ]  # fmt: skip
    answer = CliRunner().invoke(build_app("replay"), command, catch_exceptions=False)
    told = json.loads(answer.stdout)
    assert [row["policy"].split("-")[0] for row in told["policies"]] == [
        "whaleflux", "static", "hpa",
    ]  # fmt: skip
    for row in told["policies"]:
        assert row["requests"] == pytest.approx(len(story.arrivals_s()), abs=2)
        assert row["attainedRatio"] > 0.9
    assert told["terms"]["initial"] == 1
    assert told["asItWas"]["ttftAttainedRatio"] == pytest.approx(1.0)
    assert 3600 * told["asItWas"]["gpuHours"] == pytest.approx(counted.replica_s, rel=0.2)
