"""Scaling policies on the same trace and terms: what they attain, and what they cost.

python -m benchmarks.policies --trace FILE… [--start-up 10,30,90,240] [--tuned yes] [--jobs 2]

Each trace (CSV) as it is, and compressed in time until its mean load takes 15 replicas, of Llama
3.1 8B on an L4, or on an H100 where its requests are too long for that, in steps of 1,024 tokens.
ServeGen's windows (the file of tokens beside them) are drawn: three hours in which the load grows,
three calm ones, and three with bursts. Objective: 99 % of the requests within a TTFT of 2 s (or
what an idle replica needs for the longest prompts and half as much again) and a mean ITL of 200 ms,
as fast as one reads; at 100 ms an L4 misses a hundredth of the short answers even when it is idle,
and policies could not be told apart. Equal terms for all: scrapes every 15 s, the same cold start,
no standby for anybody. Every opponent runs with its defaults and, with `--tuned yes`, with each
setting of a grid: the cheapest that attains 99 %, or what attains most, is told (one that can no
longer be that is not replayed to its end). The static fleet is tuned on the trace always. The bound
is what no policy can pass (docs/replay.md); the schedule beside it is the best found with knowledge
of the future, and told where the trace is short enough to search one. Ratios are GPU-hours over
those.
"""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure import need, tell
from benchmarks.servegen import PARTS, drawn
from controller.replay.bound import bound
from controller.replay.clairvoyant import clairvoyant
from controller.replay.opponents import ALL
from controller.replay.ours import ours
from controller.replay.outcome import Outcome
from controller.replay.policy import Policy
from controller.replay.run import Asked, replay, through
from controller.replay.served import Served
from controller.replay.static import smallest
from controller.replay.terms import Terms
from profiler.configuration import Configuration
from profiler.errors import DoesNotFit
from profiler.profile import EngineProfile, resolve_profile
from profiler.slo import Slo
from profiler.trace import Trace, read_trace
from profiler.twin import simulate

MODEL, GPUS = "meta-llama/Llama-3.1-8B-Instruct", ("L4", "H100-SXM")
SLO = Slo(ttft_s=2.0, itl_s=0.2, percentile=0.99)
LONG_PROMPTS = 0.999
REPLICAS = 15.0
"""Of the mean load, after compression."""
TARGET = 0.99
GOAL_RATIO = 1.15
SCALE_ROOM = 4
LOOK_S = 60.0
SEARCHED = 30_000
"""Requests up to which a schedule that knows the future is searched for."""


@dataclass(frozen=True)
class Task:
    """One trace under one start-up time."""

    file: Path
    start_up_s: float
    compressed: bool
    part: str = ""
    """Of ServeGen's days; empty: the whole of a trace."""

    @property
    def name(self) -> str:
        """As figures call it."""
        how = (f" {self.part}" if self.part else "") + (", compressed" if self.compressed else "")
        return f"{self.file.name.split('.')[0]}{how}, starts of {self.start_up_s:g} s"

    def trace(self) -> Trace:
        """Read it, or draw its part."""
        if not self.part:
            return read_trace(self.file)
        return drawn(self.file.parent, *PARTS[self.part])

    def setting(self) -> tuple[Trace, Served, Terms]:
        """Read the trace and compress it; the twin says by how much."""
        trace = self.trace()
        profile, configuration = fitting(trace)
        slo = reachable(trace, profile, configuration)
        served = Served.of(trace, profile, configuration, slo)
        wanted = len(trace) / max(trace.duration_s, 1e-9) / served.capacity.rate_rps
        if self.compressed and wanted < REPLICAS:
            trace = trace.compressed(REPLICAS / wanted)
            wanted = REPLICAS
        served = Served.of(trace, profile, configuration, slo)
        return trace, served, Terms(
            start_up_s=self.start_up_s,
            initial=max(round(wanted), 1),
            max_replicas=max(int(wanted * SCALE_ROOM), 4),
        )  # fmt: skip


def fitting(trace: Trace) -> tuple[EngineProfile, Configuration]:
    """Give the smallest card whose cache holds the longest request."""
    longest = int((trace.input_tokens + trace.output_tokens).max())
    configuration = Configuration(
        max_model_len=-(-longest // 1024) * 1024, max_num_batched_tokens=1024, max_num_seqs=64
    )
    for gpu in GPUS[:-1]:
        profile = resolve_profile(MODEL, gpu)
        try:
            profile.limits(configuration)
        except DoesNotFit:
            continue
        return profile, configuration
    return resolve_profile(MODEL, GPUS[-1]), configuration


def reachable(trace: Trace, profile: EngineProfile, configuration: Configuration) -> Slo:
    """Give the objective, its TTFT loosened where not even an idle replica could keep it."""
    prompt = int(np.quantile(trace.input_tokens, LONG_PROMPTS))
    one = Trace.of([0.0], [prompt], [2])
    idle_s = float(simulate(one, profile.cost, profile.limits(configuration)).ttft_s[0])
    return replace(SLO, ttft_s=max(2.0, 1.5 * idle_s))


@dataclass(frozen=True)
class Run:
    """One policy of a task: ours, static, or an opponent with its defaults or at its best."""

    task: Task
    name: str
    opponent: int = -1
    tuned: bool = False


class CannotWin(Exception):
    """A setting is worse than another one, whatever comes."""


class Tried(Asked):
    """A setting that is given up once it must lose against the best so far.

    What it has cost and whom it has kept waiting only grow, so the best is the same as when every
    setting is replayed to its end.
    """

    def __init__(self, trace: Trace, served: Served, policy: Policy, terms: Terms, best: Outcome):
        super().__init__(trace, served, policy, terms)
        good = best.attained_ratio >= TARGET
        self._most_hours = best.gpu_hours if good else math.inf
        self._most_missed = (1.0 - min(best.attained_ratio, TARGET)) * len(trace)
        self._look_s = 0.0

    def tick(self, now_s: float) -> None:
        """Look once a minute."""
        if now_s >= self._look_s:
            self._look_s = now_s + LOOK_S
            if self._hours(now_s) > self._most_hours or self._missed(now_s) > self._most_missed + 1:
                raise CannotWin
        super().tick(now_s)

    def _hours(self, now_s: float) -> float:
        lives = [replica.life for replica in (*self.world.gone, *self.world.replicas)]
        return self.served.gpus * sum(min(e.gone_s, now_s) - e.asked_s for e in lives) / 3600.0

    def _missed(self, now_s: float) -> int:
        """Whose first token came late, or has not come; engines lag behind by up to a scrape."""
        ledger, within_s = self.world.ledger, self.served.slo.ttft_s or math.inf
        came_s = ledger.trace.arrival_s
        silent = np.isnan(ledger.first_s) & (came_s + within_s + self.terms.scrape_s < now_s)
        return int((silent | (ledger.first_s - came_s > within_s)).sum())


def outcome_of(run: Run) -> Outcome:
    """Replay it; in a process of its own."""
    trace, served, terms = run.task.setting()
    if run.name == "static":
        return smallest(trace, served, terms, TARGET)
    if run.opponent < 0:
        return replay(trace, served, ours(served, terms), terms)
    factory: Any = ALL[run.opponent]
    if not run.tuned:
        return replay(trace, served, factory(), terms)
    first, *rest = factory.grid()
    found = replay(trace, served, factory(first), terms)
    for setting in rest:
        tried = Tried(trace, served, factory(setting), terms, found)
        with contextlib.suppress(CannotWin):
            end_s = through([tried.world], tried.end_s, terms.patience_s)
            found = better(found, tried.outcome(end_s))
    return found


def better(one: Outcome, other: Outcome) -> Outcome:
    """The cheaper if both attain the target, else what attains more."""
    if min(one.attained_ratio, other.attained_ratio) >= TARGET:
        return min(one, other, key=lambda each: each.gpu_hours)
    return max(one, other, key=lambda each: each.attained_ratio)


def runs(task: Task, *, tuned: bool) -> Iterator[Run]:
    """Every policy of a task."""
    yield Run(task, "whaleflux")
    yield Run(task, "static")
    for i, factory in enumerate(ALL):
        name = factory().name
        yield Run(task, name, i)
        if tuned:
            yield Run(task, f"{name}, tuned", i, tuned=True)


def tasks(file: Path, start_up_s: float) -> Iterator[Task]:
    """As it is and compressed, or part after part; what is drawn takes enough replicas as it is."""
    if "windows" in file.name:
        yield from (Task(file, start_up_s, compressed=False, part=part) for part in PARTS)
    else:
        yield from (Task(file, start_up_s, compressed) for compressed in (False, True))


def report(task: Task, chosen: dict[str, Outcome]) -> None:
    """Tell every policy's figures against the bound."""
    trace, served, terms = task.setting()
    name, schedule = task.name, None
    if len(trace) <= SEARCHED:
        known = clairvoyant(trace, served, terms, TARGET)
        least, schedule = known.bound.gpu_hours, known.outcome.gpu_hours
        tell(name, "schedule that knows the future: GPU-hours", schedule, "GPU h", least, "lower")
    else:
        least = bound(trace, served, terms, TARGET).gpu_hours
    tell(name, "bound: GPU-hours", least, "GPU h", 0, "lower")
    mine = chosen["whaleflux"]
    for policy, outcome in chosen.items():
        case = f"{name}, {policy}"
        tell(case, "attained", outcome.attained_ratio, "ratio", TARGET, "higher")
        tell(case, "ratio to the bound", outcome.gpu_hours / least, "×", GOAL_RATIO, "lower")
        if schedule is not None:
            ratio = outcome.gpu_hours / schedule
            tell(case, "ratio to the schedule", ratio, "×", GOAL_RATIO, "lower")
        tell(case, "GPU-hours", outcome.gpu_hours, "GPU h", least, "lower")
        changes = outcome.scale_ups + outcome.scale_downs
        tell(case, "scale actions", changes, "actions", 0, "lower")
        tell(case, "longest outage", outcome.longest_outage_s, "s", 0, "lower")
    ahead = [
        policy
        for policy, other in chosen.items()
        if policy != "whaleflux"
        and other.attained_ratio > mine.attained_ratio
        and other.gpu_hours < mine.gpu_hours
    ]
    tell(name, "policies better on both axes", len(ahead), "policies", 0, "lower")
    if ahead:
        print(f"{name}: better on both: {', '.join(ahead)}", file=sys.stderr)


def main() -> None:
    """Replay every policy on every trace and start-up time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, nargs="+", required=True)
    parser.add_argument("--start-up", default="10,30,90,240", help="seconds, with commas")
    parser.add_argument("--tuned", choices=("yes", "no"), default="no")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    with ProcessPoolExecutor(asked.jobs) as pool:
        for file in asked.trace:
            for start_up_s in map(float, asked.start_up.split(",")):
                for task in tasks(need(file), start_up_s):
                    wanted = list(runs(task, tuned=asked.tuned == "yes"))
                    outcomes = pool.map(outcome_of, wanted)
                    names = (run.name for run in wanted)
                    report(task, dict(zip(names, outcomes, strict=True)))


if __name__ == "__main__":
    main()
