"""One decision tick for a thousand services of ten replicas each, on one core.

python -m benchmarks.decide_speed [--services 1000] [--ticks 7]

Every service has an hour of history in samples 5 s apart, evidence of requests that ended, and ten
replicas read twice. Times are of the process, so that what else runs does not count. Told: `decide`
for all services alone; with `Observer.observe` (the detector's look included); with `Observer.read`
of fresh pages, too; and the detector's own share, `Watch.seen`. Memory is the process's peak.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.figure import tell
from controller.decide import State, decide
from controller.decide.carried import Judged, learn
from controller.decide.history import BIN_S, KEPT_S, History
from controller.detect import expectation_of
from controller.observation import Phase, Replica, ReplicaId
from controller.observe import Observer
from controller.replay.ours import service_of
from controller.replay.served import Served
from controller.replay.terms import Terms
from controller.service import Service, service_id
from monitor import EngineSignals, Histogram, Reading
from monitor.detectors.reading import FleetReading, ReplicaReading
from monitor.detectors.watch import Watch
from profiler.configuration import Configuration
from profiler.profile import resolve_profile
from profiler.slo import Slo
from profiler.trace import Lengths, poisson

MODEL, GPU = "meta-llama/Llama-3.1-8B-Instruct", "L4"
REPLICAS = 10
GOAL_S, GOAL_MIB = 1.0, 500.0
_BOUNDS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, float("inf"))


@dataclass
class Run:
    """One service as the loop keeps it."""

    observer: Observer
    state: State
    replicas: tuple[Replica, ...]
    watch: Watch


def a_service() -> Service:
    """Llama 3.1 8B on an L4, for requests of 512 and 128 tokens."""
    lengths = Lengths(np.array([512]), np.array([128]))
    trace = poisson(1.0, 300.0, lengths, np.random.default_rng(0))
    served = Served.of(
        trace,
        resolve_profile(MODEL, GPU),
        Configuration(max_model_len=8192, max_num_batched_tokens=1024, max_num_seqs=64),
        Slo(ttft_s=2.0, itl_s=0.2, percentile=0.99),
    )
    return service_of(served, Terms(max_replicas=40))


def a_page(finished: float) -> EngineSignals:
    """What an engine shows after so many requests."""
    counts = tuple(finished * share for share in np.linspace(0.5, 1.0, len(_BOUNDS_S)).tolist())
    made = Histogram(_BOUNDS_S, counts, 0.1 * finished)
    lengths = Histogram((1000.0, float("inf")), (finished, finished), 512.0 * finished)
    return EngineSignals(
        engine="vllm", running=8.0, waiting=0.0, kv_usage_ratio=0.3, preemptions_total=0.0,
        prompt_tokens_total=512.0 * finished, generation_tokens_total=128.0 * finished,
        requests_finished={"stop": finished}, ttft=made, tpot=made, itl=made, e2e=made,
        prompt_length=lengths, generation_length=lengths,
    )  # fmt: skip


def a_run(service: Service, number: int) -> Run:
    """One service with an hour behind it."""
    rng = np.random.default_rng(number)
    history = History()
    for at_s in np.arange(BIN_S, KEPT_S + BIN_S, BIN_S).tolist():
        load = 7.0 + 2.0 * np.sin(at_s / 600.0) + rng.normal(0.0, 0.3)
        history = history.seen(float(load), BIN_S, REPLICAS, at_s)
    state = State(serving=REPLICAS, history=history)
    carried = state.carried
    for ratio in (0.3, 0.5, 0.7, 0.8, 0.9):
        for octave in (-2, -1, 0):
            carried = learn(carried, Judged(ratio, octave, 500.0, 2.0), 0.01, KEPT_S)
    named = replace(service, id=service_id("default", f"s{number}"), name=f"s{number}")
    replicas = tuple(
        Replica(ReplicaId(f"s{number}-{i}"), Phase.SERVING, 0.0, 60.0) for i in range(REPLICAS)
    )
    return Run(Observer(named), replace(state, carried=carried), replicas, Watch())


class Fleet:
    """All services, and the moment that it is for them."""

    def __init__(self, services: int) -> None:
        service = a_service()
        self.runs = [a_run(service, number) for number in range(services)]
        self.now_s = KEPT_S
        self._expected = expectation_of(service)
        self._pages: list[dict[ReplicaId, Reading]] = []
        self.scrape()
        self.read()

    def scrape(self) -> None:
        """Let a second pass: every replica has a new page."""
        self.now_s += 1.0
        pages = [a_page(self.now_s + 10.0 * i) for i in range(REPLICAS)]
        self._pages = [
            {r.id: Reading(page, self.now_s) for r, page in zip(run.replicas, pages, strict=True)}
            for run in self.runs
        ]

    def read(self) -> None:
        """Take the pages in."""
        for run, pages in zip(self.runs, self._pages, strict=True):
            run.observer.read(pages, self.now_s)

    def tick(self) -> tuple[float, float]:
        """Observe and decide for all; process seconds of each."""
        began_s = time.process_time()
        seen = [run.observer.observe(run.replicas, self.now_s) for run in self.runs]
        observed_s = time.process_time()
        for run, one in zip(self.runs, seen, strict=True):
            _, run.state = decide(one, run.state, self.now_s)
        return observed_s - began_s, time.process_time() - observed_s

    def watch(self) -> None:
        """Let a detector look at all once more, by itself."""
        for run, pages in zip(self.runs, self._pages, strict=True):
            looked = tuple(
                ReplicaReading(r.id, True, r.ready_s, pages[r.id].signals, pages[r.id].at_s)
                for r in run.replicas
            )
            run.watch, _ = run.watch.seen(FleetReading(looked), self._expected, self.now_s)


def took_s(work: Callable[[], None]) -> float:
    """Process seconds."""
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def main() -> None:
    """Time whole ticks; the first two warm up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--ticks", type=int, default=7)
    asked = parser.parse_args()
    fleet = Fleet(asked.services)
    rows = []
    for _ in range(asked.ticks + 2):
        fleet.scrape()
        read_s = took_s(fleet.read)
        observe_s, decide_s = fleet.tick()
        rows.append((
            decide_s, observe_s + decide_s, read_s + observe_s + decide_s, took_s(fleet.watch)
        ))  # fmt: skip
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    case = f"{asked.services} services, {asked.services * REPLICAS} replicas"
    names = ("decide", "observe and decide", "read, observe and decide", "the detector's look")
    for name, values in zip(names, zip(*rows[2:], strict=True), strict=True):
        tell(f"{case}: {name}", "median", statistics.median(values), "s", GOAL_S, "lower")
        tell(f"{case}: {name}", "worst", max(values), "s", GOAL_S, "lower")
    tell(case, "peak memory", peak_mib, "MiB", GOAL_MIB, "lower")


if __name__ == "__main__":
    main()
