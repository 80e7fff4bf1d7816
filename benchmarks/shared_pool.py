"""Four services with shifted peaks on one pool: GPUs with which each attains 99 % of its requests.

python -m benchmarks.shared_pool --trace FILE [--minutes 30] [--jobs 1]

Two services of Llama 3.1 8B, two of Qwen3 14B, one H100 each, all made of one trace: each begins
at another quarter of it, its requests go round as often as they have to, and their order and the
ratios of their gaps stay. Time runs so fast that the mean load takes 2.5 replicas, and swings:
rate × (1 + 0.75 sin 2π(t/T − i/4)), so that the services peak one after the other, at 4.4
replicas, and fall to 0.6; T is `--minutes`, one "day". TTFT 2 s, mean ITL 100 ms, scrapes every
15 s, all peers with their defaults, all services with the same priority and, at first, the
replicas that their first 90 s need.

Found for each policy is the fewest GPUs of the pool, once with cold starts of 90 s, once with
standbys that sleep on every GPU: they wake in 3 s and take their share of its memory from whoever
serves there. Ours shares the pool by `decide.share`, what nobody wants included; for the others
whoever has asked first gets what is free, as on Kubernetes. The best of them runs under our sharing
as well, so that policy, standbys and sharing can be told apart. The static partition is each
service's smallest constant fleet. Of a policy that attains less even with GPUs for everybody's
maximum, what it attains with them is told.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.figure import need, tell
from controller.replay.ground import Asleep
from controller.replay.opponents import ALL
from controller.replay.ours import ours
from controller.replay.policy import Policy
from controller.replay.pool import Entry, Pool, Pooled, Rule, replay_pool
from controller.replay.served import Served
from controller.replay.static import smallest
from controller.replay.terms import Terms
from profiler.configuration import Configuration
from profiler.profile import resolve_profile
from profiler.slo import Slo
from profiler.trace import Trace, read_trace
from recommender.sharing import Tenant
from recommender.sharing.footprint import PROCESS_BYTES, asleep_bytes

GPU = "H100-SXM"
MODELS = ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-14B") * 2
SLO = Slo(ttft_s=2.0, itl_s=0.1, percentile=0.99)
REPLICAS, SWING = 2.5, 0.75
TARGET = 0.99
START_UP_S = 90.0
MOST_REPLICAS = 10
"""Of one service: twice its peak and more."""


@dataclass(frozen=True)
class Task:
    """One policy, with cold starts or with standbys."""

    file: Path
    day_s: float
    asleep: bool
    opponent: int = -1
    """−1: ours."""
    shared: bool = False
    """An opponent's policy under our sharing."""

    @property
    def name(self) -> str:
        """As figures call it."""
        policy = "whaleflux" if self.opponent < 0 else ALL[self.opponent]().name
        how = "asleep, wake 3 s" if self.asleep else "cold, start 90 s"
        return f"{policy}, {how}{', shared by ours' if self.shared else ''}"

    def policy(self, served: Served, terms: Terms) -> Policy:
        """Make it."""
        return ours(served, terms) if self.opponent < 0 else ALL[self.opponent]()

    def run(self, gpus: int) -> Pooled:
        """Replay it on a pool."""
        entries = [
            Entry(f"{MODELS[i]} {i}", trace, served, self.policy(served, terms), terms)
            for i, (trace, served, terms) in enumerate(services(self.file, self.day_s, self.asleep))
        ]
        theirs = Rule.SHARE if self.shared else Rule.FIRST_COME
        rule = Rule.SPREAD if self.opponent < 0 else theirs
        return replay_pool(entries, Pool(gpus, Asleep() if self.asleep else None, rule))


@lru_cache(maxsize=1)
def services(file: Path, day_s: float, asleep: bool) -> list[tuple[Trace, Served, Terms]]:
    """Give the four services' traces, engines and terms."""
    recorded = read_trace(file)
    longest = int((recorded.input_tokens + recorded.output_tokens).max())
    configuration = Configuration(
        max_model_len=-(-longest // 1024) * 1024, max_num_batched_tokens=8192, max_num_seqs=128
    )
    alone = [Served.of(recorded, resolve_profile(m, GPU), configuration, SLO) for m in MODELS]
    found = []
    for i, served in enumerate(alone):
        shift = i / len(MODELS)
        trace = swung(recorded, REPLICAS * served.capacity.rate_rps, day_s, shift)
        engine = beside(alone[:i] + alone[i + 1 :], served) if asleep else configuration
        began = np.searchsorted(trace.arrival_s, START_UP_S) / START_UP_S
        terms = Terms(
            start_up_s=START_UP_S, initial=math.ceil(began / served.capacity.rate_rps),
            max_replicas=MOST_REPLICAS, until_s=day_s,
        )  # fmt: skip
        found.append((trace, Served.of(trace, served.profile, engine, SLO), terms))
    return found


def beside(sleepers: list[Served], served: Served) -> Configuration:
    """Leave those that sleep on the same GPU their memory."""
    card, configuration = served.profile.memory.total_bytes, served.configuration
    asleep = math.fsum(
        asleep_bytes(Tenant(s.profile.model, s.profile, s.configuration, s.workload, s.slo))
        for s in sleepers
    )
    share = math.floor(1000 * (card - PROCESS_BYTES - asleep) / card) / 1000
    return replace(
        configuration, gpu_memory_utilization=min(share, configuration.gpu_memory_utilization)
    )


def swung(trace: Trace, mean_rps: float, day_s: float, shift: float) -> Trace:
    """Make a day of a trace, begun at a part of it: faster, round and round, with a swing."""
    rows = (int(shift * len(trace)) + np.arange(int(mean_rps * day_s))) % len(trace)
    work = np.cumsum(np.diff(trace.arrival_s, prepend=0.0)[rows])
    at_s = np.linspace(0.0, day_s, 20_001)
    angle = 2 * np.pi * (at_s / day_s - shift)
    swing_s = SWING * day_s / (2 * np.pi) * (math.cos(2 * np.pi * shift) - np.cos(angle))
    arrival_s = np.interp(work * (day_s / work[-1]), at_s + swing_s, at_s)
    return Trace.of(arrival_s, trace.input_tokens[rows], trace.output_tokens[rows])


@dataclass(frozen=True)
class Found:
    """The smallest pool that does, or what the largest attains."""

    gpus: int | None
    attained_ratio: float
    gpu_hours: float
    used_gpu_hours: float


def fewest(task: Task) -> Found:
    """Search by halving: a larger pool is taken to attain no less."""
    low, high = 0, len(MODELS) * MOST_REPLICAS
    best = task.run(high)
    reaches = best.attained_ratio >= TARGET
    while reaches and low + 1 < high:
        middle = (low + high) // 2
        pooled = task.run(middle)
        if pooled.attained_ratio >= TARGET:
            high, best = middle, pooled
        else:
            low = middle
    gpus = high if reaches else None
    return Found(gpus, best.attained_ratio, best.gpu_hours, best.used_gpu_hours)


def tasks(file: Path, day_s: float) -> Iterator[Task]:
    """Every policy, with cold starts and with standbys."""
    for asleep in (False, True):
        for opponent in range(-1, len(ALL)):
            yield Task(file, day_s, asleep, opponent)


def report(name: str, found: Found, goal: float) -> None:
    """Tell the figures of one policy."""
    if found.gpus is None:
        print(f"{name}: no pool is large enough for it", file=sys.stderr)
    else:
        tell(name, "GPUs needed for 99 %", found.gpus, "GPUs", goal, "lower")
        tell(name, "GPU-hours of the pool", found.gpu_hours, "GPU h", 0, "lower")
    tell(name, "attained by the service that attains least", found.attained_ratio, "ratio",
         TARGET, "higher")  # fmt: skip
    tell(name, "GPU-hours of replicas", found.used_gpu_hours, "GPU h", 0, "lower")


def partition(file: Path, day_s: float) -> int:
    """GPUs of a pool cut up for good: each service's smallest constant fleet."""
    fleets = (smallest(*each, TARGET) for each in services(file, day_s, asleep=False))
    return sum(fleet.peak_replicas for fleet in fleets)


def main() -> None:
    """Find every policy's smallest pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0, help="of the day")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    file, day_s = need(asked.trace), 60.0 * asked.minutes
    fixed = partition(file, day_s)
    tell("static partition", "GPUs needed for 99 %", fixed, "GPUs", 0, "lower")
    needed: dict[Task, int] = {}
    with ProcessPoolExecutor(asked.jobs) as pool:
        wanted = list(tasks(file, day_s))
        for task, found in zip(wanted, pool.map(fewest, wanted), strict=True):
            report(task.name, found, fixed)
            if found.gpus is not None:
                needed[task] = found.gpus
    for asleep in (False, True):
        theirs = [task for task in needed if task.asleep == asleep and task.opponent >= 0]
        if theirs:
            best = min(theirs, key=needed.__getitem__)
            name = f"best opponent: {best.name}"
            tell(name, "GPUs needed for 99 %", needed[best], "GPUs", fixed, "lower")
            ruled = replace(best, shared=True)
            report(ruled.name, fewest(ruled), fixed)


if __name__ == "__main__":
    main()
