"""What the detector finds on emulated fleets with faults injected, how soon, and what it cries for.

python -m benchmarks.faults [--weeks 5] [--seeds 2] [--first-seed 0]

In simulated time: a twin per replica behind a round-robin router, its counts shown as an engine's
page. Engines differ from their profile: all by up to 8 %, each by up to 3 % more, every step by
5 % noise. A fault is found when the right kind is told of the right replica. A false alarm is
any finding of any severity that begins on a healthy fleet, under a daily wave and bursts. A
canary takes 3 s to fail and is shown with the first scrape after that.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import tell
from controller.detect import expectation_of
from controller.replay.ours import service_of
from controller.replay.served import Served, slowed
from controller.replay.terms import Terms
from monitor import EngineSignals, Histogram
from monitor.detectors.reading import (
    Canary,
    Expectation,
    FleetReading,
    GpuReading,
    ReplicaReading,
)
from monitor.detectors.watch import Watch
from monitor.findings import Finding, Kind
from profiler.configuration import Configuration
from profiler.hardware import GIB
from profiler.layout import Layout
from profiler.memory import EngineMemory
from profiler.profile import EngineProfile
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.step_cost import NO_WINDOW, StepCost, roofline_curve
from profiler.timings import Finished, Metric
from profiler.trace import Lengths, Trace
from profiler.twin import Simulation

Floats = NDArray[np.float64]

GOAL_RECALL, GOAL_ALARMS, GOAL_WEDGED_S = 0.95, 1.0, 15.0
WEEK_S, DAY_S, HOUR_S = 7 * 86400.0, 86400.0, 3600.0
QUIET_S = 150.0
"""Before a fault begins."""
CANARY_S = 3.0
SIZES = (1, 2, 5)
RENEWED_S = 6 * HOUR_S
"""How often a replica of a healthy fleet is replaced by a new one."""
NOISE = 0.05
SLO = Slo(ttft_s=2.0, itl_s=0.08)
BOUNDS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
ITL_BOUNDS_S = (0.01, 0.025, 0.05, 0.075, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0, 2.5)
SOUND = GpuReading("0", 0, 0.0, False, False, False, False, 0.0, 62.0)
PLAIN = Configuration(max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=8192)


def lengths(scale_in: float = 1.0, scale_out: float = 1.0) -> Lengths:
    """Prompts of about 600 tokens and answers of about 160, scattered as chat's are."""
    rng = np.random.default_rng(7)
    prompts = np.clip(rng.lognormal(6.0, 0.9, 4000) * scale_in, 8, 5000)
    answers = np.clip(rng.lognormal(4.8, 0.7, 4000) * scale_out, 4, 1500)
    return Lengths(prompts.astype(np.int64), answers.astype(np.int64))


def cost() -> StepCost:
    """A large model on a fast GPU: 25 ms a step at least."""
    fields: dict[str, Any] = dict.fromkeys(StepCost._fields, 0.0)
    fields |= {
        "step_overhead_s": 2e-3, "sequence_s": 3e-5, "dense_s": roofline_curve(8e-5, 0.023),
        "prefill_pair_s": 2e-9, "kv_token_s": 8e-8, "mixed_kv_ratio": 1.1,
        "window_tokens": NO_WINDOW, "request_s": 2e-3,
    }  # fmt: skip
    return StepCost(**fields)


@lru_cache
def served(configuration: Configuration = PLAIN, kv_gib: float = 24.0) -> Served:
    """The service as it was planned."""
    memory = EngineMemory(kv_gib * GIB, 1.0 * GIB, 1e5, 0.0, 327680.0)
    profile = EngineProfile(
        model="org/large", gpu="fast", layout=Layout(), cost=cost(), memory=memory,
        max_model_len=8192, start_up_s=120.0,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    trace = lengths().at(np.sort(rng.uniform(0, 600, 1200)), rng)
    return Served.of(trace, profile, configuration, SLO)


class Engine:
    """One replica: its twin, and its page."""

    def __init__(self, name: str, truth: StepCost, limits: Limits, seed: int) -> None:
        self.name, self.truth = name, truth
        self.twin = Simulation(truth, limits, noise_ratio=NOISE, seed=seed)
        self.wedged_s = math.inf
        self.ready_s = -600.0
        self.canary: Canary | None = None
        self.limits = limits
        self._held_back = 0
        self._done = np.zeros(4)
        self._ttft, self._tpot = np.zeros(len(BOUNDS_S) + 1), np.zeros(len(ITL_BOUNDS_S) + 1)
        self._sums = np.zeros(2)

    def slow_down(self, factor: float) -> None:
        """Let steps take so many times as long."""
        self.twin.cost = slowed(self.truth, factor)

    def run(self, part: Trace, until_s: float) -> None:
        """Serve what came; nothing once wedged."""
        if until_s > self.wedged_s:
            self._held_back += len(part)
            return
        self.twin.feed(part)
        finished = self.twin.run(until_s).finished
        if finished.request.size:
            self._count(finished)

    def _count(self, f: Finished) -> None:
        decode_s = (f.last_token_s - f.first_token_s).sum()
        self._done += (f.request.size, f.input_tokens.sum(), f.output_tokens.sum(), decode_s)
        ttft, tpot = f.latency_s(Metric.TTFT), f.latency_s(Metric.ITL)
        tpot = tpot[~np.isnan(tpot)]
        self._ttft += np.histogram(ttft, (0.0, *BOUNDS_S, np.inf))[0]
        self._tpot += np.histogram(tpot, (0.0, *ITL_BOUNDS_S, np.inf))[0]
        self._sums += (ttft.sum(), tpot.sum())

    def page(self) -> EngineSignals:
        """What its /metrics would say."""
        state, limits = self.twin._state, self.limits
        counters, live = state.counters[0], state.sequences
        live = live[(live["request"] >= 0) & (live["generated"] > 0)]
        finished, prompts, answers, decode_s = self._done.tolist()
        made = answers + float(live["generated"].sum())
        gaps_s = decode_s + float((live["last_token_s"] - live["first_token_s"]).sum())
        return EngineSignals(
            engine="vllm",
            running=float(counters["running"]),
            waiting=float(counters["waiting"]) + self._held_back,
            kv_usage_ratio=1.0 - float(counters["free_blocks"]) / limits.num_blocks,
            preemptions_total=float(counters["preemptions"]),
            prompt_tokens_total=prompts + float(live["prompt_tokens"].sum()),
            generation_tokens_total=made,
            requests_finished={"stop": finished},
            ttft=_histogram(BOUNDS_S, self._ttft, self._sums[0]),
            tpot=_histogram(ITL_BOUNDS_S, self._tpot, self._sums[1]),
            itl=Histogram((math.inf,), (made - finished - live.size,), gaps_s),
            prompt_length=Histogram((math.inf,), (finished,), prompts),
            generation_length=Histogram((math.inf,), (finished,), answers),
            kv_capacity_tokens=float(limits.num_blocks * limits.block_size),
        )


def _histogram(bounds: tuple[float, ...], counts: Floats, total: float) -> Histogram:
    return Histogram((*bounds, math.inf), tuple(np.cumsum(counts).tolist()), float(total))


@dataclass
class Fleet:
    """A service: engines, a router, what the scrape shows and what the detector makes of it."""

    engines: list[Engine]
    expected: Expectation
    standbys: int = 0
    """The last so many get no requests."""
    gpus: dict[str, GpuReading] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    rejected_total: float = 0.0
    watch: Watch = field(default_factory=Watch)
    pages: dict[str, tuple[EngineSignals, float]] = field(default_factory=dict)
    turn: int = 0
    born: int = 0

    def renew(self, now_s: float) -> None:
        """Put a new replica in the oldest one's place, which drains."""
        old = self.engines.pop(0)
        self.born += 1
        fresh = Engine(f"n{self.born}", old.truth, old.limits, 1000 + self.born)
        fresh.ready_s = now_s
        self.engines.append(fresh)

    @classmethod
    def of(cls, plan: Served, replicas: int, scrape_s: float, seed: int, standbys: int = 0
           ) -> "Fleet":  # fmt: skip
        """Engines that differ a little from the profile and from each other."""
        rng = np.random.default_rng((seed, 3))
        wrong = rng.uniform(0.92, 1.08)
        costs = [slowed(plan.cost, wrong * rng.uniform(0.97, 1.03)) for _ in range(replicas)]
        engines = [Engine(f"r{i}", c, plan.limits, seed * 100 + i) for i, c in enumerate(costs)]
        expected = expectation_of(service_of(plan, Terms()))
        return cls(engines, replace(expected, scrape_s=scrape_s), standbys)

    def look(self, came: Trace, now_s: float) -> tuple[Finding, ...]:
        """Serve up to a scrape, and look."""
        serving = self.engines[: len(self.engines) - self.standbys]
        for place, engine in enumerate(serving):
            first = (place - self.turn) % len(serving)
            engine.run(came.rows(slice(first, None, len(serving))), now_s)
        self.turn = (self.turn + len(came)) % len(serving)
        for engine in self.engines:
            if engine.name not in self.silent:
                self.pages[engine.name] = engine.page(), now_s
        reading = FleetReading(
            tuple(self._reading(e, place < len(serving), now_s)
                  for place, e in enumerate(self.engines)),
            rejected_total=self.rejected_total,
        )  # fmt: skip
        self.watch, findings = self.watch.seen(reading, self.expected, now_s)
        for engine in self.engines:
            if engine.name in self.watch.wants_canary and _over(engine.canary, now_s):
                dead = now_s >= engine.wedged_s
                took_s = CANARY_S if dead else 0.1
                engine.canary = Canary(now_s + took_s, not dead, took_s)
        return findings

    def _reading(self, engine: Engine, admitted: bool, now_s: float) -> ReplicaReading:
        page, at_s = self.pages.get(engine.name, (None, None))
        canary = engine.canary if _over(engine.canary, now_s) else None
        gpu = self.gpus.get(engine.name, SOUND)
        return ReplicaReading(
            engine.name, admitted, engine.ready_s, page, at_s, True, canary, (gpu,)
        )


def _over(canary: Canary | None, now_s: float) -> bool:
    return canary is None or canary.at_s <= now_s


# --- faults ---


@dataclass(frozen=True)
class Fault:
    """A way to fail, and what should be found."""

    name: str
    kind: Kind
    strike: Callable[[Fleet, float], None] = lambda fleet, now_s: None
    """Done at every scrape from the fault's first moment on."""
    cause: str | None = None
    subject: str | None = "r0"
    load: tuple[float, ...] = (0.15, 0.5, 0.85)
    """Of capacity."""
    after: Callable[[float], tuple[float, Lengths]] = lambda load: (load, lengths())
    """Load and lengths once it began."""
    replicas: tuple[int, ...] = (1, 2, 3, 6)
    allowed_s: float = 180.0
    plan: Callable[[], Served] = served
    standbys: int = 0

    def found_in(self, findings: tuple[Finding, ...]) -> bool:
        """Whether what should be told is told."""
        return any(
            f.kind is self.kind
            and self.cause in (None, f.cause)
            and self.subject in (None, f.subject)
            for f in findings
        )


def _wedge(fleet: Fleet, now_s: float) -> None:
    fleet.engines[0].wedged_s = min(fleet.engines[0].wedged_s, now_s)


def _wedge_standby(fleet: Fleet, now_s: float) -> None:
    fleet.engines[-1].wedged_s = min(fleet.engines[-1].wedged_s, now_s)


def _slow(factor: float) -> Callable[[Fleet, float], None]:
    return lambda fleet, now_s: fleet.engines[0].slow_down(factor)


def _gpu(**changes: Any) -> Callable[[Fleet, float], None]:
    def strike(fleet: Fleet, now_s: float) -> None:
        fleet.gpus["r0"] = replace(SOUND, **changes)

    return strike


def _thermal(fleet: Fleet, now_s: float) -> None:
    fleet.engines[0].slow_down(1.5)
    fleet.gpus["r0"] = replace(SOUND, thermal_throttled=True, temperature_c=91.0)


def _links(fleet: Fleet, now_s: float) -> None:
    before = fleet.gpus.get("r0", SOUND).link_errors_total or 0.0
    errors = before + fleet.expected.scrape_s
    fleet.gpus["r0"] = replace(SOUND, link_errors_total=errors)


def _silence(fleet: Fleet, now_s: float) -> None:
    fleet.silent.add("r0")


def _silence_all(fleet: Fleet, now_s: float) -> None:
    fleet.silent |= {engine.name for engine in fleet.engines}


def _reject(fleet: Fleet, now_s: float) -> None:
    demand_rps = fleet.watch.trend.demand_rps or 0.0
    fleet.rejected_total += 0.05 * demand_rps * fleet.expected.scrape_s


def _small_kv() -> Served:
    return served(PLAIN, 5.0)


def _few_seqs() -> Served:
    return served(replace(PLAIN, max_num_seqs=8))


def _small_budget() -> Served:
    return served(replace(PLAIN, max_num_batched_tokens=128))


M = Kind.MISCONFIGURATION
FAULTS = (
    Fault("wedged", Kind.WEDGED_ENGINE, _wedge),
    Fault("wedged_standby", Kind.WEDGED_ENGINE, _wedge_standby, subject=None, standbys=1,
          replicas=(2, 4)),
    *(Fault(f"slow_{factor}x", Kind.DEGRADED_REPLICA, _slow(factor), "SlowSteps")
      for factor in (1.3, 1.5, 2.0)),
    Fault("thermal", Kind.GPU_FAULT, _thermal, "ThermalThrottling"),
    *(Fault(f"xid_{code}", Kind.GPU_FAULT, _gpu(xid=code), "Xid") for code in (48, 79, 94, 119)),
    Fault("ecc", Kind.GPU_FAULT, _gpu(ecc_uncorrected_total=1.0), "EccUncorrected"),
    Fault("row_remap_pending", Kind.GPU_FAULT, _gpu(row_remap_pending=True), "RowRemapPending"),
    Fault("row_remap_failed", Kind.GPU_FAULT, _gpu(row_remap_failed=True), "RowRemapFailed"),
    Fault("links", Kind.GPU_FAULT, _links, "LinkErrors"),
    Fault("preemptions", M, cause="Preemptions", subject="", load=(0.5, 0.8),
          after=lambda load: (load + 0.7, lengths()), plan=_small_kv, allowed_s=600.0),
    Fault("max_num_seqs", M, cause="MaxNumSeqsBound", subject="", load=(0.5, 0.8),
          after=lambda load: (load + 0.9, lengths()), plan=_few_seqs, allowed_s=600.0),
    Fault("spare_kv", M, cause="QueueWithSpareKv", subject="", load=(0.5, 0.8),
          after=lambda load: (load + 0.9, lengths()), plan=_small_budget, allowed_s=600.0),
    Fault("rejected", M, _reject, "RejectedLengths", "", allowed_s=300.0),
    Fault("drift_prompts", Kind.WORKLOAD_DRIFT, cause="InputLength", subject="",
          load=(0.3, 0.6), after=lambda load: (load / 2, lengths(2.0)), allowed_s=1800.0),
    Fault("drift_answers", Kind.WORKLOAD_DRIFT, cause="OutputLength", subject="",
          load=(0.3, 0.6), after=lambda load: (load / 2, lengths(1.0, 2.0)), allowed_s=1800.0),
    Fault("overload", Kind.OVERLOAD, subject="", load=(0.5, 0.8),
          after=lambda load: (load + 0.8, lengths()), allowed_s=300.0),
    Fault("waste", Kind.WASTE, subject="", load=(0.6,), replicas=(4, 6),
          after=lambda load: (0.15, lengths()), allowed_s=6000.0),
    Fault("silent_replica", Kind.MISSING_DATA, _silence, subject=None),
    Fault("silent_fleet", Kind.MISSING_DATA, _silence_all, subject=None),
)  # fmt: skip


def parts(
    rate: Callable[[float], float], mix: Callable[[float], Lengths], scrape_s: float, end_s: float,
    rng: np.random.Generator,
) -> Iterator[tuple[float, Trace]]:  # fmt: skip
    """Requests between scrapes, and when the scrape is."""
    for tick in range(1, int(end_s / scrape_s) + 1):
        now_s = tick * scrape_s
        count = rng.poisson(rate(now_s) * scrape_s)
        at_s = np.sort(rng.uniform(now_s - scrape_s, now_s, count))
        yield now_s, mix(now_s).at(at_s, rng)


def found_after_s(fault: Fault, replicas: int, load: float, seed: int) -> float | None:
    """Inject once; seconds until it is found, None: it is not."""
    rng = np.random.default_rng((seed, replicas, int(load * 100)))
    plan, scrape_s = fault.plan(), float(rng.choice([1.0, 2.0, 5.0]))
    fleet = Fleet.of(plan, replicas, scrape_s, seed, fault.standbys)
    full_rps = plan.capacity.rate_rps * (replicas - fault.standbys)
    began_s = QUIET_S + rng.uniform(0, scrape_s)
    before, (later, mix) = lengths(), fault.after(load)

    def rate(now_s: float) -> float:
        return full_rps * (load if now_s <= began_s else later)

    def of(now_s: float) -> Lengths:
        return before if now_s <= began_s else mix

    for now_s, came in parts(rate, of, scrape_s, began_s + fault.allowed_s, rng):
        if now_s > began_s:
            fault.strike(fleet, began_s)
        findings = fleet.look(came, now_s)
        if now_s > began_s and fault.found_in(findings):
            return now_s - began_s
    return None


def false_alarms(weeks: float, replicas: int, seed: int) -> Iterator[tuple[float, Finding]]:
    """Watch a healthy fleet for so many replica-weeks; what begins to be told of it.

    Its peaks are 78 % of the planned capacity: engines may be 11 % slower than planned, and a
    fleet that is truly overloaded is not healthy.
    """
    rng = np.random.default_rng((seed, replicas, 9))
    plan, scrape_s, mix = served(), 5.0, lengths()
    fleet = Fleet.of(plan, replicas, scrape_s, seed)
    end_s = weeks / replicas * WEEK_S
    full_rps, bursts = plan.capacity.rate_rps * replicas, rng.uniform(0, 1, int(end_s / 90) + 1)
    held: set[tuple[Kind, str, str]] = set()
    renewed_s = RENEWED_S

    def rate(now_s: float) -> float:
        wave = 0.46 + 0.14 * math.sin(2 * math.pi * now_s / DAY_S)
        return full_rps * wave * (1.3 if bursts[int(now_s / 90)] < 0.1 else 1.0)

    for now_s, came in parts(rate, lambda _: mix, scrape_s, end_s, rng):
        if now_s >= renewed_s:
            fleet.renew(now_s)
            renewed_s += RENEWED_S
        findings = fleet.look(came, now_s)
        yield from ((now_s, f) for f in findings if f.key not in held)
        held = {f.key for f in findings}


def faults(seeds: range) -> None:
    """Inject every fault at every load and size, so many times."""
    everything: list[bool] = []
    for fault in FAULTS:
        times = [
            found_after_s(fault, replicas, load, seed)
            for seed in seeds
            for replicas in fault.replicas
            for load in fault.load
        ]
        found = sorted(t for t in times if t is not None)
        everything += [t is not None for t in times]
        tell(fault.name, "recall", len(found) / len(times), "ratio", GOAL_RECALL, "higher")
        if found:
            worst_goal = GOAL_WEDGED_S if fault.kind is Kind.WEDGED_ENGINE else fault.allowed_s
            tell(fault.name, "median_s", statistics.median(found), "s", worst_goal, "lower")
            tell(fault.name, "worst_s", found[-1], "s", worst_goal, "lower")
    tell("all", "recall", sum(everything) / len(everything), "ratio", GOAL_RECALL, "higher")
    tell("all", "injected", float(len(everything)), "faults", 200.0, "higher")


def health(weeks: float, first_seed: int) -> None:
    """Watch healthy fleets of several sizes; name what is told of them."""
    told = 0
    for place, replicas in enumerate(SIZES):
        for at_s, finding in false_alarms(weeks / len(SIZES), replicas, first_seed + place):
            print(
                f"# {replicas} replicas, {at_s:.0f} s: {finding.cause}: {finding.message}",
                flush=True,
            )
            told += 1
    tell("healthy", "false_alarms", told / weeks, "1/replica-week", GOAL_ALARMS, "lower")
    tell("healthy", "watched", weeks, "replica-weeks", 5.0, "higher")


def main() -> None:
    """Tell recall, times to find, and false alarms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weeks", type=float, default=5.0, help="replica-weeks of health")
    parser.add_argument("--seeds", type=int, default=2, help="times each fault is injected")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    asked = parser.parse_args()
    if asked.seeds:
        faults(range(asked.first_seed, asked.first_seed + asked.seeds))
    if asked.weeks:
        health(asked.weeks, asked.first_seed)


if __name__ == "__main__":
    main()
