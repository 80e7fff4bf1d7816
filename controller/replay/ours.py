"""Our own policy: what scrapes show made into an `Observation`, and `decide` asked, unchanged.

What the live loop knows of each replica a policy in a replay has to conclude from counts: a
replica that is missing died, or failed to start. Standbys are none, for the terms are equal.
"""

import math
import statistics
from dataclasses import dataclass, field, replace

from controller.api.llmservice import EngineType
from controller.capacity_book import ENOUGH_REQUESTS, CapacityBook, Lengths
from controller.configure import Origin
from controller.decide import Decision, Drain, Remove, Start, State, decide, needed
from controller.decide.protect import REPLACE_EVERY_S
from controller.detect import expectation_of, unfit
from controller.observation import (
    Demand,
    Load,
    Observation,
    Phase,
    Replica,
    ReplicaId,
    Sighting,
)
from controller.replay.detection import fleet_reading
from controller.replay.policy import Fleet, Known, Scrape, Wish
from controller.replay.served import Served
from controller.replay.terms import Terms
from controller.service import Bounds, Service, service_id
from controller.watched import ATTAINMENT_WINDOW_S
from monitor.detectors.reading import FleetReading
from monitor.detectors.watch import Watch
from monitor.findings import Finding
from profiler.slo import Slo
from recommender import Station, calm_capacity_rps

_START_UPS_KEPT = 5


@dataclass(frozen=True, slots=True)
class Ended:
    """Requests that a scrape told of."""

    at_s: float
    requests: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Judged:
    """How many of them were judged, and the share within the SLO."""

    at_s: float
    requests: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered from tick to tick."""

    start_up_s: float
    """As told beforehand, until starts were seen."""
    state: State
    serving: tuple[float, ...] = ()
    """When each that serves was first seen to, oldest first."""
    starting: tuple[float, ...] = ()
    """When each that starts was asked for."""
    start_ups_s: tuple[float, ...] = ()
    """The last seen; as coarse as the ticks."""
    lost: int = 0
    """Replicas that were missing so far: names for the next."""
    judged: tuple[Judged, ...] = ()
    ended: tuple[Ended, ...] = ()
    scraped_s: float = -math.inf
    """The last scrape taken in."""
    capacity_rps: float = 0.0
    """At the lengths seen last."""
    watch: Watch = field(default_factory=Watch)
    reading: FleetReading | None = None
    findings: tuple[Finding, ...] = ()
    replaced_s: float = -math.inf
    """When a replica was last found unfit, and its successor asked for."""


class Ours:
    """`controller.decide` behind the door that all policies go through."""

    name = "whaleflux"

    def __init__(self, service: Service, interval_s: float = 15.0) -> None:
        self.service = service
        self.interval_s = interval_s
        self._book = CapacityBook(service)
        self._expected = replace(expectation_of(service), scrape_s=interval_s)

    def start(self, known: Known) -> Memory:
        """Begin as after a restart."""
        return Memory(known.start_up_s, State(), capacity_rps=known.capacity_rps)

    def decide(
        self, scrape: Scrape | None, fleet: Fleet, state: Memory, now_s: float
    ) -> tuple[Wish, Memory]:
        """Observe, decide, and say how many replicas the actions would leave."""
        seen, memory = self.observe(scrape, fleet, state, now_s)
        decision, after = decide(seen, memory.state, now_s)
        bad = unfit(seen.findings)
        due = now_s - memory.replaced_s >= REPLACE_EVERY_S
        wish = Wish(
            _left(decision, seen), decision.message, needed(decision, after),
            min(bad) if bad and due else "",
        )  # fmt: skip
        if wish.replace:
            memory = replace(memory, replaced_s=now_s)
        return wish, _acted(replace(memory, state=after), decision, now_s)

    def observe(
        self, scrape: Scrape | None, fleet: Fleet, memory: Memory, now_s: float
    ) -> tuple[Observation, Memory]:
        """Put together what `decide` is shown."""
        known_before = len(memory.serving)
        memory, fallen = _counted(memory, fleet, now_s)
        new = scrape is not None and scrape.at_s > memory.scraped_s
        if scrape is not None and new:
            memory = self._taken_in(scrape, memory, now_s)
        memory = self._looked_at(scrape, fleet, memory, now_s)
        sound = scrape is not None and _is_sound(scrape, min(known_before, fleet.serving))
        demand = Demand(None, None, _attained(memory.judged))
        if scrape is not None and sound:
            demand = replace(demand, waiting=scrape.waiting + scrape.gateway_waiting)
            if new:
                demand = _with_arrivals(demand, scrape, memory.judged)
        held = None if scrape is None else float(scrape.gateway_waiting)
        return Observation(
            service=self.service,
            sightings=(*_sightings(memory, scrape if sound else None), *fallen),
            demand=replace(demand, held=held),
            capacity_rps=memory.capacity_rps,
            start_up_s=_start_up_s(memory),
            findings=memory.findings,
        ), memory

    def _looked_at(
        self, scrape: Scrape | None, fleet: Fleet, memory: Memory, now_s: float
    ) -> Memory:
        """Let the detector look, as the live loop does."""
        reading = fleet_reading(scrape, fleet, self._expected.limits, memory.reading)
        watch, findings = memory.watch.seen(reading, self._expected, now_s)
        return replace(memory, watch=watch, reading=reading, findings=findings)

    def _taken_in(self, scrape: Scrape, memory: Memory, now_s: float) -> Memory:
        """Judge its requests, and look up what a replica carries of their lengths."""
        since_s = now_s - ATTAINMENT_WINDOW_S
        judged = tuple(j for j in memory.judged if j.at_s > since_s)
        ended = tuple(e for e in memory.ended if e.at_s > since_s)
        if scrape.input_tokens:
            sums = sum(scrape.input_tokens), sum(scrape.output_tokens)
            ended = (*ended, Ended(scrape.at_s, len(scrape.input_tokens), *sums))
        lengths, serving = _lengths(ended), len(memory.serving)
        capacity_rps = self._book.rate_rps(lengths, serving=serving) if lengths else None
        return replace(
            memory,
            judged=(*judged, *_judged(scrape, self.service.slo)),
            ended=ended,
            scraped_s=scrape.at_s,
            capacity_rps=capacity_rps or memory.capacity_rps,
        )


def service_of(served: Served, terms: Terms) -> Service:
    """Make the service that `decide` is told of: no standbys, for the terms are equal."""
    return Service(
        id=service_id("replay", "replayed"),
        name="replayed",
        namespace="replay",
        generation=1,
        model=served.profile.model,
        served_name=served.profile.model,
        gpu=served.profile.gpu,
        gpu_product=served.profile.gpu,
        engine=EngineType.VLLM,
        image="",
        command=(),
        args=(),
        slo=served.slo,
        bounds=Bounds(terms.min_replicas, terms.max_replicas),
        standbys=0,
        profile=served.profile,
        configuration=served.configuration,
        capacity=served.capacity,
        calm_rps=calm_capacity_rps(
            Station.of(served.profile, served.configuration), served.workload, served.slo
        ),
        workload=served.workload,
        origin=Origin.RECOMMENDED,
    )


def ours(served: Served, terms: Terms, interval_s: float = 15.0) -> Ours:
    """Make our policy for a replay."""
    return Ours(service_of(served, terms), interval_s)


# --- replicas, from counts ---


def _counted(memory: Memory, fleet: Fleet, now_s: float) -> tuple[Memory, tuple[Sighting, ...]]:
    """Bring what is remembered of replicas up to the counts; who is missing, as failed.

    Who got ready is the oldest start. Fewer serve than did: some died. Fewer start than should
    and no more serve: starts failed.
    """
    died = max(len(memory.serving) - fleet.serving, 0)
    got_ready = max(fleet.serving - len(memory.serving), 0)
    waiting = memory.starting[got_ready:]
    failed = max(len(waiting) - fleet.starting, 0)
    serving = memory.serving[: len(memory.serving) - died] + (now_s,) * got_ready
    lasted = tuple(now_s - asked_s for asked_s in memory.starting[:got_ready])
    fallen = tuple(
        _sighting(f"lost-{memory.lost + i}", Phase.FAILED, now_s, now_s if i < died else None)
        for i in range(died + failed)
    )
    starting = waiting[failed:] + (now_s,) * max(fleet.starting - len(waiting), 0)
    return replace(
        memory,
        serving=serving,
        starting=starting,
        start_ups_s=(*memory.start_ups_s, *lasted)[-_START_UPS_KEPT:],
        lost=memory.lost + died + failed,
    ), fallen


def _start_up_s(memory: Memory) -> float:
    return statistics.median(memory.start_ups_s) if memory.start_ups_s else memory.start_up_s


def _sighting(name: str, phase: Phase, created_s: float, ready_s: float | None) -> Sighting:
    return Sighting(Replica(ReplicaId(name), phase, created_s, ready_s))


def _sightings(memory: Memory, scrape: Scrape | None) -> tuple[Sighting, ...]:
    """Replicas in order of age, with the loads that were read in it."""
    samples = () if scrape is None else scrape.replicas
    serving = [
        _sighting(f"s{i}", Phase.SERVING, ready_s, ready_s)
        for i, ready_s in enumerate(memory.serving)
    ]
    loads = [Load(s.running, s.waiting, s.kv_usage_ratio, None) for s in samples]
    read = [replace(seen, load=load) for seen, load in zip(serving, loads, strict=False)] + serving[
        len(loads) :
    ]
    starting = (
        _sighting(f"c{i}", Phase.STARTING, asked_s, None)
        for i, asked_s in enumerate(memory.starting)
    )
    return (*read, *starting)


def _left(decision: Decision, seen: Observation) -> int:
    """Replicas that serve or start once the actions are carried out."""
    count = seen.count(Phase.SERVING, Phase.STARTING)
    gone = {s.replica.id for s in seen.sightings if s.replica.phase is Phase.FAILED}
    for action in decision.actions:
        match action:
            case Start(more):
                count += more
            case Drain():
                count -= 1
            case Remove(replica) if replica not in gone:
                count -= 1
    return count


def _acted(memory: Memory, decision: Decision, now_s: float) -> Memory:
    """Expect what the actions lead to: the youngest go first, as in the world."""
    serving, starting = memory.serving, memory.starting
    for action in decision.actions:
        match action:
            case Start(more):
                starting += (now_s,) * more
            case Drain():
                serving = serving[:-1]
            case Remove(replica) if str(replica).startswith("c"):
                starting = starting[:-1]
    return replace(memory, serving=serving, starting=starting)


# --- demand ---


def _is_sound(scrape: Scrape, serving: int) -> bool:
    """Whether everybody answered, in numbers; else demand is not known, as in the live loop."""
    values = [v for r in scrape.replicas for v in (r.running, r.waiting, r.kv_usage_ratio)]
    answered = serving > 0 and len(scrape.replicas) >= serving
    return answered and all(math.isfinite(v) and v >= 0 for v in values) and scrape.since_s > 0


def _judged(scrape: Scrape, slo: Slo) -> tuple[Judged, ...]:
    """The least of the shares within the bounds; nothing where no request tells."""
    bounded = ((scrape.ttft_s, slo.ttft_s), (scrape.itl_s, slo.itl_s), (scrape.e2e_s, slo.e2e_s))
    shares, most = [], 0
    for values, bound_s in bounded:
        known = [v for v in values if math.isfinite(v) and v >= 0]
        if bound_s is not None and known:
            shares.append(sum(v <= bound_s for v in known) / len(known))
            most = max(most, len(known))
    return (Judged(scrape.at_s, most, min(shares)),) if shares else ()


def _attained(judged: tuple[Judged, ...]) -> float | None:
    requests = sum(j.requests for j in judged)
    return sum(j.ratio * j.requests for j in judged) / requests if requests else None


def _with_arrivals(demand: Demand, scrape: Scrape, judged: tuple[Judged, ...]) -> Demand:
    """What came, and what ended, since the scrape before."""
    last = judged[-1] if judged and judged[-1].at_s == scrape.at_s else None
    return replace(
        demand,
        arrival_rps=scrape.arrivals / scrape.since_s,
        over_s=scrape.since_s,
        ended=0.0 if last is None else float(last.requests),
        missed=0.0 if last is None else last.requests * (1.0 - last.ratio),
    )


def _lengths(ended: tuple[Ended, ...]) -> Lengths | None:
    """Mean lengths over the latest scrapes that tell of enough requests, or over all there are."""
    requests = inputs = outputs = 0
    for each in reversed(ended):
        requests += each.requests
        inputs, outputs = inputs + each.input_tokens, outputs + each.output_tokens
        if requests >= ENOUGH_REQUESTS:
            break
    return Lengths(float(requests), inputs / requests, outputs / requests) if requests else None
