"""Faulty signals at the peak: what a policy does blind, and what it costs.

python -m benchmarks.outage --trace FILE [--start-up 90]

Two parts. Replayed: the trace as benchmarks/policies sets it up, compressed, scrapes every 15 s;
each fault against the same replay without it, and the peers' policies with the signals gone. Live:
`Observer` and `decide` tick once a second, for half an hour, over fluid replicas of the same
engine that make engines' pages, under a steady and a wavy load; here pages come twice, late or in
another order, engines begin anew, and the controller's clock jumps.

A scale-in is needless where it was made blind (no scrape; live: demand not known), or where it
leaves fewer replicas than the fault-free run had at any moment within 10 minutes of it. A
scale-out is needless where it was made blind, or where it makes more than the fault-free run had
within 10 minutes. Attainment is told with its loss against the fault-free run.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.figure import need, tell
from benchmarks.policies import Task
from controller.decide import Admit, Drain, Remove, Start, State, Withdraw, decide
from controller.observation import READY, Phase, Replica, ReplicaId
from controller.observe import Observer
from controller.replay.opponents import ALL
from controller.replay.ours import ours, service_of
from controller.replay.outcome import Outcome
from controller.replay.policy import Fleet, Policy, Scrape, Wish
from controller.replay.run import replay
from controller.replay.served import Served
from controller.replay.terms import NO_FAULTS, Faults, Garbled, Span, Terms
from controller.service import Service
from monitor import EngineSignals, Histogram, Reading
from profiler.trace import Trace

LASTS_S = 300.0
NEAR_S = 600.0
PEERS = ("hpa", "knative-kpa", "wva-v2")
GOAL_OUTS = 1


@dataclass(frozen=True, slots=True)
class Step:
    """A change of the count."""

    at_s: float
    before: int
    after: int
    blind: bool


def needless(steps: Sequence[Step], base: Sequence[Step], initial: int) -> tuple[int, int]:
    """Needless scale-ins and scale-outs of a run against the fault-free one."""
    ins = outs = 0
    for step in steps:
        near = _counts(base, initial, step.at_s - NEAR_S, step.at_s + NEAR_S)
        ins += step.after < step.before and (step.blind or step.after < min(near))
        outs += step.after > step.before and (step.blind or step.after > max(near))
    return ins, outs


def _counts(steps: Sequence[Step], initial: int, from_s: float, to_s: float) -> list[int]:
    """Every count that a run had in a stretch of time."""
    before = [step.after for step in steps if step.at_s <= from_s]
    return [(before or [initial])[-1], *(s.after for s in steps if from_s < s.at_s <= to_s)]


# --- replayed ---


@dataclass
class Watched:
    """A policy, and when it was asked blind."""

    policy: Policy
    blind_s: set[float] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Its own."""
        return self.policy.name

    @property
    def interval_s(self) -> float:
        """Its own."""
        return self.policy.interval_s

    def start(self, known: object) -> object:
        """Begin as it does."""
        return self.policy.start(known)  # type: ignore[arg-type]

    def decide(
        self, scrape: Scrape | None, fleet: Fleet, state: object, now_s: float
    ) -> tuple[Wish, object]:
        """Ask it, and note whether anything was to be seen."""
        if scrape is None:
            self.blind_s.add(now_s)
        return self.policy.decide(scrape, fleet, state, now_s)


def played(
    trace: Trace, served: Served, policy: Policy, terms: Terms
) -> tuple[Outcome, list[Step]]:
    """Replay, and every change with whether it was made blind."""
    watched = Watched(policy)
    outcome = replay(trace, served, watched, terms)
    blind = watched.blind_s
    return outcome, [Step(c.at_s, c.before, c.after, c.at_s in blind) for c in outcome.changes]


def peak_s(trace: Trace) -> float:
    """When the busiest stretch as long as a fault begins."""
    came = np.sort(trace.arrival_s)
    inside = np.searchsorted(came, came + LASTS_S) - np.arange(came.size)
    return float(came[int(np.argmax(inside))])


def replayed_faults(from_s: float) -> dict[str, Faults]:
    """By name; chances hold all the time."""
    span = Span(from_s, from_s + LASTS_S)
    return {
        "metrics gone for 5 min at the peak": Faults(missed_scrapes=(span,)),
        "half the scrapes lost": Faults(missed_ratio=0.5),
        "a replica in ten silent at a scrape": Faults(silent_ratio=0.1),
        "NaN for 5 min at the peak": Faults(garbled=(Garbled(float("nan"), span),)),
        "negative for 5 min at the peak": Faults(garbled=(Garbled(-1.0, span),)),
    }


def tell_replayed(file: Path, start_up_s: float) -> None:
    """Every fault for our policy; the outage for the peers, too."""
    trace, served, terms = Task(file, start_up_s, compressed=True).setting()
    faults = replayed_faults(peak_s(trace))
    outage = dict(list(faults.items())[:1])
    peers = {made.name: made for made in (factory() for factory in ALL)}
    chosen = {name: made for name, made in peers.items() if name in PEERS}
    for policy, asked in (
        (ours(served, terms), faults),
        *((made, outage) for made in chosen.values()),
    ):
        base, steady = played(trace, served, policy, replace(terms, faults=NO_FAULTS))
        for name, fault in asked.items():
            found, steps = played(trace, served, policy, replace(terms, faults=fault))
            ins, outs = needless(steps, steady, terms.initial)
            case = f"replayed, starts of {start_up_s:g} s, {name}, {policy.name}"
            _tell_needless(case, ins, outs)
            tell(case, "attained", found.attained_ratio, "ratio", base.attained_ratio, "higher")
            loss = base.attained_ratio - found.attained_ratio
            tell(case, "attainment lost to the fault", loss, "ratio", 0, "lower")


def _tell_needless(case: str, ins: int, outs: int) -> None:
    tell(case, "needless scale-ins", ins, "actions", 0, "lower")
    tell(case, "needless scale-outs", outs, "actions", GOAL_OUTS, "lower")


# --- live ---

FLEET = 8
RUNS_S, FAULT_S = 1800, 900
START_UP_S = 30.0
RESIDENT_S = 4.0
"""How long a request is in its batch."""
ABLE = 1.3
"""Requests a second that an engine makes at most, over those that it carries in time."""
_KEPT_S = 0.1
"""Time to first token of a request that does not queue."""


@dataclass
class Engine:
    """A fluid replica: counts since its engine began."""

    replica: Replica
    held: float = 0.0
    finished: float = 0.0
    late: float = 0.0

    def step(self, came: float, able: float, slots: float) -> None:
        """Let a second pass: `came` more, at most `able` leave, `slots` fit its batch."""
        self.held += came
        ended = min(self.held / RESIDENT_S, able)
        if self.held > slots:
            self.late += ended
        self.held -= ended
        self.finished += ended

    def anew(self) -> None:
        """Begin with counters at zero; what it held is sent again."""
        self.finished = self.late = 0.0

    def page(self, slo_s: float, slots: float) -> EngineSignals:
        """What its `/metrics` shows."""
        kept = self.finished - self.late
        edges = (slo_s, float("inf"))
        ttft = Histogram(edges, (kept, self.finished), kept * _KEPT_S + self.late * 2 * slo_s)
        made = Histogram((0.05, float("inf")), (self.finished,) * 2, self.finished * 0.02)
        return EngineSignals(
            engine="vllm",
            running=min(self.held, slots),
            waiting=max(self.held - slots, 0.0),
            kv_usage_ratio=min(self.held / slots, 1.0),
            prompt_tokens_total=512.0 * self.finished,
            generation_tokens_total=128.0 * self.finished,
            requests_finished={"stop": self.finished},
            ttft=ttft,
            tpot=made,
            e2e=made,
        )


Pages = Mapping[ReplicaId, Reading]


@dataclass(frozen=True)
class Upset:
    """What goes wrong live."""

    delivered: Callable[[list[Pages], int], Iterator[Pages]] = lambda seen, _: iter(seen[-1:])
    """Which of the scrapes so far reach the observer now."""
    clock_s: Callable[[int], float] = float
    """What the controller's clock shows."""
    restarts: Callable[[int, int], bool] = lambda second, number: False
    """Whether an engine begins anew."""


def in_fault(second: int) -> bool:
    """Whether it is the time of a fault."""
    return FAULT_S <= second < FAULT_S + LASTS_S


def upsets() -> dict[str, Upset]:
    """By name; chance is the same for all."""
    chance = np.random.default_rng(1).random((RUNS_S, 64))

    def gone(seen: list[Pages], second: int) -> Iterator[Pages]:
        yield (
            {name: Reading(None, page.at_s, "no answer") for name, page in seen[-1].items()}
            if (in_fault(second))
            else seen[-1]
        )

    def lost(seen: list[Pages], second: int) -> Iterator[Pages]:
        rows = zip(seen[-1].items(), chance[second], strict=False)
        yield {
            name: Reading(None, page.at_s, "no answer") if in_fault(second) and luck < 0.5 else page
            for (name, page), luck in rows
        }

    def garbled(seen: list[Pages], second: int) -> Iterator[Pages]:
        """NaN and negative numbers, of which reading a page leaves nothing."""
        nothing = EngineSignals(engine="vllm")
        yield (
            {name: replace(page, signals=nothing) for name, page in seen[-1].items()}
            if in_fault(second)
            else seen[-1]
        )

    def twice(seen: list[Pages], second: int) -> Iterator[Pages]:
        yield from seen[-1:] * (2 if in_fault(second) else 1)

    def cached(seen: list[Pages], second: int) -> Iterator[Pages]:
        """A proxy answers with the page before, as if it were new."""
        if not in_fault(second):
            yield seen[-1]
            return
        before = seen[-2]
        rows = zip(seen[-1].items(), chance[second], strict=False)
        yield {
            name: replace(before[name], at_s=page.at_s) if luck < 0.5 and name in before else page
            for (name, page), luck in rows
        }

    def swapped(seen: list[Pages], second: int) -> Iterator[Pages]:
        if not in_fault(second):
            yield seen[-1]
        elif second % 2:
            yield from (seen[-1], seen[-2])

    return {
        "metrics gone for 5 min": Upset(gone),
        "half the pages lost": Upset(lost),
        "NaN and negative for 5 min": Upset(garbled),
        "pages delivered twice": Upset(twice),
        "half the pages a second old": Upset(cached),
        "pages in another order": Upset(swapped),
        "clock 10 min ahead": Upset(clock_s=lambda s: s + 600.0 * (s >= FAULT_S)),
        "clock 10 min back": Upset(clock_s=lambda s: s - 600.0 * (s >= FAULT_S)),
        "clock 2 s back, time and again": Upset(
            clock_s=lambda s: s - 2.0 * (s - FAULT_S) // 30 if in_fault(s) else float(s)
        ),
        "an engine begins anew every 20 s": Upset(
            restarts=lambda s, i: in_fault(s) and s % 20 == 0 and s // 20 % FLEET == i
        ),
        "all engines begin anew": Upset(restarts=lambda s, i: s == FAULT_S),
    }


class Live:
    """A fleet, its observer, and what was decided."""

    def __init__(self, service: Service, upset: Upset) -> None:
        self.steps: list[Step] = []
        self._service, self._upset = service, upset
        self._observer, self._state = Observer(service), State(serving=FLEET)
        self._slots = service.capacity.rate_rps * RESIDENT_S * ABLE
        self._engines = [
            Engine(Replica(ReplicaId(f"r{i}"), Phase.SERVING, -START_UP_S, 0.0))
            for i in range(FLEET)
        ]
        self._born = FLEET
        self._scrapes: list[Pages] = [{}]

    def run(self, load_rps: Sequence[float]) -> None:
        """Tick once a second."""
        for second, rate_rps in enumerate(load_rps):
            now_s = self._upset.clock_s(second)
            self._pass(second, rate_rps, now_s)
            slo_s = self._service.slo.ttft_s or 1.0
            self._scrapes.append(
                {
                    engine.replica.id: Reading(engine.page(slo_s, self._slots), now_s)
                    for engine in self._engines
                    if engine.replica.phase in READY
                }
            )
            for pages in self._upset.delivered(self._scrapes, second):
                self._observer.read(pages, now_s)
            self._tick(float(second), now_s)

    def _pass(self, second: int, rate_rps: float, now_s: float) -> None:
        for number, engine in enumerate(self._engines):
            replica = engine.replica
            if self._upset.restarts(second, number):
                engine.anew()
            if replica.phase is Phase.STARTING and now_s - replica.created_s >= START_UP_S:
                engine.replica = replace(replica, phase=Phase.STANDBY, ready_s=now_s)
        serving = [e for e in self._engines if e.replica.phase is Phase.SERVING]
        able = self._service.capacity.rate_rps * ABLE
        for engine in serving:
            engine.step(rate_rps / len(serving), able, self._slots)

    def _tick(self, at_s: float, now_s: float) -> None:
        seen = self._observer.observe(tuple(e.replica for e in self._engines), now_s)
        before = self._state.serving
        decision, self._state = decide(seen, self._state, now_s)
        if decision.serving != before:
            blind = seen.demand.waiting is None
            self.steps.append(Step(at_s, before, decision.serving, blind))
        for action in decision.actions:
            match action:
                case Start(count):
                    self._start(count, now_s)
                case Admit(replica):
                    self._turn(replica, Phase.SERVING)
                case Withdraw(replica):
                    self._turn(replica, Phase.STANDBY)
                case Drain(replica) | Remove(replica):
                    self._engines = [e for e in self._engines if e.replica.id != replica]

    def _start(self, count: int, now_s: float) -> None:
        for _ in range(count):
            self._engines.append(
                Engine(Replica(ReplicaId(f"r{self._born}"), Phase.STARTING, now_s))
            )
            self._born += 1

    def _turn(self, replica: ReplicaId, phase: Phase) -> None:
        for engine in self._engines:
            if engine.replica.id == replica:
                engine.replica = replace(engine.replica, phase=phase)


def loads(capacity_rps: float) -> dict[str, list[float]]:
    """Requests each second, by chance around a rate; the wave is highest amid the fault."""
    rng = np.random.default_rng(0)
    second = np.arange(RUNS_S)
    peak_s = FAULT_S + LASTS_S / 2
    wave = 1.0 + 0.25 * np.cos(2 * np.pi * (second - peak_s) / 1200.0)
    steady_rps = 0.75 * FLEET * capacity_rps
    return {
        "steady": rng.poisson(np.full(RUNS_S, steady_rps)).astype(float).tolist(),
        "wavy": rng.poisson(steady_rps * wave).astype(float).tolist(),
    }


def tell_live(file: Path) -> None:
    """Every upset under both loads."""
    _, served, terms = Task(file, START_UP_S, compressed=True).setting()
    service = service_of(served, replace(terms, start_up_s=START_UP_S, max_replicas=4 * FLEET))
    service = replace(service, profile=replace(service.profile, start_up_s=START_UP_S))
    for shape, load_rps in loads(service.capacity.rate_rps).items():
        base = Live(service, Upset())
        base.run(load_rps)
        for name, upset in upsets().items():
            live = Live(service, upset)
            live.run(load_rps)
            ins, outs = needless(live.steps, base.steps, FLEET)
            _tell_needless(f"live, {shape} load, {name}", ins, outs)


def main() -> None:
    """Replay, then drive live."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--start-up", type=float, default=90.0, help="seconds")
    asked = parser.parse_args()
    tell_replayed(need(asked.trace), asked.start_up)
    tell_live(asked.trace)


if __name__ == "__main__":
    main()
