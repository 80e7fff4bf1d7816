"""Replicas whose pages are made by hand, watched at simulated moments."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from monitor.detectors.reading import (
    Canary,
    Expectation,
    FleetReading,
    GpuReading,
    ReplicaReading,
)
from monitor.detectors.watch import Watch
from monitor.findings import Finding, Kind
from monitor.histogram import Histogram
from monitor.signals import EngineSignals
from tests.recommender.builders import a_cost, a_slo, some_limits

SCRAPE_S = 5.0
PROMPT, ANSWER, GAP_S = 64.0, 16.0, 0.010
"""Lengths, and what a step of `a_cost` takes while it decodes a few."""


def an_expectation(**changes: Any) -> Expectation:
    fields: dict[str, Any] = {
        "slo": a_slo(),
        "cost": a_cost(),
        "limits": some_limits(),
        "capacity_rps": 20.0,
        "mean_input_tokens": PROMPT,
        "mean_output_tokens": ANSWER,
        "scrape_s": SCRAPE_S,
        "start_up_s": 30.0,
    }
    return Expectation(**{**fields, **changes})


@dataclass
class Replica:
    """Counts what it did; each field may be changed between two looks."""

    id: str = "r0"
    rate_rps: float = 10.0
    gap_s: float = GAP_S
    prompt: float = PROMPT
    answer: float = ANSWER
    running: float = 2.0
    waiting: float = 0.0
    kv_usage_ratio: float = 0.3
    preempted_ratio: float = 0.0
    good: bool = True
    """Whether its requests keep the objective."""
    moves: bool = True
    """Whether it makes tokens."""
    answers: bool = True
    """Whether its /metrics can be read."""
    admitted: bool = True
    healthy: bool | None = None
    canary: Canary | None = None
    gpus: tuple[GpuReading, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    """Of its page."""
    done: float = 0.0
    gaps_s: float = 0.0
    within: float = 0.0
    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0
    preemptions: float = 0.0
    last: ReplicaReading | None = None

    def reading(self, now_s: float, passed_s: float) -> ReplicaReading:
        if self.moves:
            self._serve(self.rate_rps * passed_s)
        if self.answers or self.last is None:
            self.last = ReplicaReading(
                self.id, self.admitted, -600.0, self.page(), now_s, self.healthy
            )
        ended = self.canary is not None and self.canary.at_s <= now_s
        canary = self.canary if ended else None
        return replace(self.last, canary=canary, gpus=self.gpus, healthy=self.healthy)

    def _serve(self, requests: float) -> None:
        self.done += requests
        self.gaps_s += requests * (self.answer - 1) * self.gap_s
        self.within += requests * self.good
        self.prompt_tokens += requests * self.prompt
        self.answer_tokens += requests * self.answer
        self.preemptions += requests * self.preempted_ratio

    def page(self) -> EngineSignals:
        def sums(count: float, total: float) -> Histogram:
            return Histogram((math.inf,), (count,), total)

        page = EngineSignals(
            engine="vllm",
            running=self.running,
            waiting=self.waiting,
            kv_usage_ratio=self.kv_usage_ratio,
            kv_capacity_tokens=32000.0,
            preemptions_total=self.preemptions,
            prompt_tokens_total=self.prompt_tokens,
            generation_tokens_total=self.answer_tokens,
            requests_finished={"stop": self.done},
            ttft=Histogram((0.5, math.inf), (self.within, self.done), self.done * 0.1),
            itl=sums(self.answer_tokens - self.done, self.gaps_s),
            prompt_length=sums(self.done, self.prompt_tokens),
            generation_length=sums(self.done, self.answer_tokens),
        )
        return replace(page, **self.changes)


@dataclass
class Fleet:
    """Replicas and their watch."""

    replicas: list[Replica]
    expected: Expectation = field(default_factory=an_expectation)
    watch: Watch = field(default_factory=Watch)
    now_s: float = 0.0
    found: tuple[Finding, ...] = ()
    rolling_out: bool = False
    rejected_total: float | None = None

    @classmethod
    def of(cls, count: int, expected: Expectation | None = None, **fields: Any) -> "Fleet":
        replicas = [Replica(f"r{i}", **fields) for i in range(count)]
        return cls(replicas, expected or an_expectation())

    def look(self, passed_s: float | None = None) -> tuple[Finding, ...]:
        passed_s = self.expected.scrape_s if passed_s is None else passed_s
        self.now_s += passed_s
        reading = FleetReading(
            tuple(r.reading(self.now_s, passed_s) for r in self.replicas),
            self.rolling_out,
            self.rejected_total,
        )
        self.watch, self.found = self.watch.seen(reading, self.expected, self.now_s)
        return self.found

    def watched(self, duration_s: float) -> tuple[Finding, ...]:
        """Look on for so long; the findings at the end."""
        end_s = self.now_s + duration_s
        while self.now_s < end_s:
            self.look()
        return self.found

    def seconds_until(self, kind: Kind, within_s: float = 600.0) -> float:
        began_s = self.now_s
        while self.now_s < began_s + within_s:
            if any(finding.kind is kind for finding in self.look()):
                return self.now_s - began_s
        raise AssertionError(f"no {kind} within {within_s} s: {self.found}")


def keys(findings: Iterable[Finding]) -> set[tuple[Kind, str, str]]:
    return {finding.key for finding in findings}


def probed(fleet: Fleet, answers: Callable[[str], bool], took_s: float = 0.1) -> None:
    """Send the canaries that the watch wants; they end before the next look."""
    for replica in fleet.replicas:
        under_way = replica.canary is not None and replica.canary.at_s > fleet.now_s
        if replica.id in fleet.watch.wants_canary and not under_way:
            ok = answers(replica.id)
            took = took_s if ok else 3.0
            replica.canary = Canary(fleet.now_s + took, ok, took)
