"""A small engine under replay, traces of short requests, and policies that follow a script."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from controller.replay.outcome import Outcome
from controller.replay.policy import Fleet, Known, Scrape, Wish
from controller.replay.run import replay
from controller.replay.served import Served
from controller.replay.terms import Faults, Terms
from profiler.configuration import Configuration
from profiler.slo import Slo
from profiler.trace import Lengths, Trace, poisson
from tests.recommender.builders import a_cost, a_profile, a_slo

CONFIGURATION = Configuration(max_num_seqs=16, max_num_batched_tokens=512, max_model_len=4096)


def a_trace(rate_rps: float = 20.0, duration_s: float = 60.0, seed: int = 0) -> Trace:
    lengths = Lengths(np.array([32, 64, 200]), np.array([4, 16, 24]))
    return poisson(rate_rps, duration_s, lengths, np.random.default_rng(seed))


@lru_cache
def served(slo: Slo | None = None, **profile: Any) -> Served:
    """About 60 requests of `a_trace` a second; a step takes 10 ms at least."""
    return Served.of(a_trace(), a_profile(**profile), CONFIGURATION, slo or a_slo())


def slow_served() -> Served:
    """A fifth of that: a trace of `a_trace` needs several replicas."""
    return served(a_slo(itl_s=0.25), cost=a_cost(0.2))


def some_terms(**changes: Any) -> Terms:
    return Terms(**{"start_up_s": 10.0, "scrape_s": 5.0, **changes})


def terms_with(terms: Terms | None = None, **faults: Any) -> Terms:
    return replace(terms or some_terms(), faults=Faults(**faults))


@dataclass
class Scripted:
    """Wants what the script says, and keeps what it was shown."""

    script: Callable[[float], float]
    interval_s: float = 5.0
    name: str = "scripted"
    shown: list[tuple[float, Scrape | None, Fleet]] = field(default_factory=list)

    def start(self, known: Known) -> None: ...

    def decide(
        self, scrape: Scrape | None, fleet: Fleet, state: None, now_s: float
    ) -> tuple[Wish, None]:
        self.shown.append((now_s, scrape, fleet))
        return Wish(self.script(now_s), "scripted"), None  # type: ignore[arg-type]


def scrapes_of(policy: Scripted) -> dict[float, Scrape]:
    """Those that it was shown, by the moment of its tick."""
    return {now_s: scrape for now_s, scrape, _ in policy.shown if scrape is not None}


def played(
    trace: Trace, script: Callable[[float], float] | int, terms: Terms, which: Served | None = None
) -> tuple[Outcome, Scripted]:
    count = script
    policy = Scripted(count if callable(count) else lambda _: count)
    return replay(trace, which or served(), policy, terms), policy
