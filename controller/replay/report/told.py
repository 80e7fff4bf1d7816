"""All that a replay has to tell, and what it says in sentences."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from controller.replay.clairvoyant import Clairvoyant
from controller.replay.counted import Counted
from controller.replay.outcome import Outcome
from controller.replay.served import Served
from controller.replay.terms import Faults, Span, Terms
from recommender.report.wording import counted, number, objective, percent

OURS = "whaleflux"


@dataclass(frozen=True, slots=True)
class Told:
    """What was replayed, under which terms, and what came of it."""

    source: str
    """Of the requests, as people call it."""
    outcomes: tuple[Outcome, ...]
    """One at least."""
    terms: Terms
    served: Served
    known: Clairvoyant | None = None
    history: Counted | None = None
    """What engines really counted, where the trace was rebuilt from that."""
    notes: tuple[str, ...] = ()

    @property
    def target_ratio(self) -> float:
        """Share of requests that the objective asks for."""
        return self.served.slo.percentile

    @property
    def best(self) -> Outcome | None:
        """The cheapest that attains it; the better of two that cost the same."""
        good = (o for o in self.outcomes if o.attained_ratio >= self.target_ratio)
        return min(good, key=lambda o: (o.gpu_hours, -o.attained_ratio), default=None)

    def over_bound(self, outcome: Outcome) -> float:
        """GPU-hours over the bound's; NaN where there is no bound to compare with."""
        least = 0.0 if self.known is None else self.known.bound.gpu_hours
        enough = outcome.attained_ratio >= self.target_ratio
        return outcome.gpu_hours / least if least > 0 and enough else float("nan")

    @property
    def real_gpu_hours(self) -> float:
        """What really ran, counted as GPUs of the replica replayed; NaN: unknown."""
        if self.history is None:
            return float("nan")
        return self.history.replica_s * self.served.gpus / 3600.0

    @property
    def real_ttft_ratio(self) -> float:
        """Share of first tokens that really came in time; NaN: unknown."""
        if self.history is None:
            return float("nan")
        return self.history.attained_ttft_ratio(self.served.slo.ttft_s)


def verdict(told: Told) -> Iterator[str]:
    """Who serves well for least, what could be done at best, and what really was."""
    if not told.served.meets_slo:
        yield (
            f"No fleet keeps this objective ({objective(told.served.slo)}): not even an idle "
            "replica does. Loosen it, or take a faster GPU or layout; below, fleets are sized by "
            "throughput."
        )
    best, target = told.best, percent(told.target_ratio)
    if best is not None:
        yield (
            f"{best.policy} is the cheapest that attains {target}: {number(best.gpu_hours)} "
            f"GPU-hours, {percent(best.attained_ratio, 1)} of requests."
        )
    elif told.served.meets_slo:
        most = max(told.outcomes, key=lambda o: (o.attained_ratio, -o.gpu_hours))
        yield (
            f"Nobody attains {target}: {most.policy} comes nearest with "
            f"{percent(most.attained_ratio, 1)} for {number(most.gpu_hours)} GPU-hours."
        )
    yield from _clairvoyant(told)
    yield from _history(told)


def _clairvoyant(told: Told) -> Iterator[str]:
    known = told.known
    if known is None:
        return
    found = known.outcome
    reaches = "attains it" if known.reached else f"attains {percent(found.attained_ratio, 1)}"
    yield (
        f"Nobody who attains {percent(known.bound.attained_ratio)} can pay less than "
        f"{number(known.bound.gpu_hours)} GPU-hours, whatever he knows; the best schedule found "
        f"that knows the future {reaches} for {number(found.gpu_hours)}."
    )


def _history(told: Told) -> Iterator[str]:
    history = told.history
    if history is None:
        return
    mean = history.replica_s / max(history.known_s, 1e-9)
    ratio = told.real_ttft_ratio
    first = "" if math.isnan(ratio) else f", and {percent(ratio, 1)} of first tokens came in time"
    yield (
        f"As it was: {number(mean, 1)} engines on average, {number(told.real_gpu_hours)} GPU-hours "
        f"if each is such a replica{first}."
    )


def terms_said(told: Told) -> Iterator[tuple[str, str]]:
    """Terms by name, faults after them."""
    terms, c = told.terms, told.served.configuration
    capacity = told.served.capacity.rate_rps
    yield "Objective", objective(told.served.slo)
    yield "Replica", f"{told.served.profile.gpu} × {told.served.gpus}, {' '.join(c.engine_args())}"
    yield (
        "It carries",
        f"{number(capacity)} req/s within the objective"
        if (told.served.meets_slo)
        else f"{number(capacity)} req/s at all",
    )
    yield "Start-up", f"{terms.start_up_s:g} s"
    yield "Scrapes", f"every {terms.scrape_s:g} s"
    yield "Replicas", f"{terms.initial} at first, {terms.min_replicas} to {terms.max_replicas}"
    for fault in faults_said(terms.faults):
        yield "Fault", fault


def faults_said(faults: Faults) -> Iterator[str]:
    """What goes wrong, each in a few words."""
    yield from (f"node {f.node} is lost at {f.at_s:g} s" for f in faults.node_losses)
    for slow in faults.slow_replicas:
        factor, span = slow.factor, _during(slow.span)
        yield f"replica {slow.replica} takes {factor:g} times as long a step{span}"
    yield from (
        f"starts take {f.factor:g} times as long{_during(f.span)}" for f in faults.long_starts
    )
    yield from (f"{percent(f.ratio)} of starts fail{_during(f.span)}" for f in faults.failed_starts)
    yield from (f"scrapes show {f.value:g}{_during(f.span)}" for f in faults.garbled)
    yield from (f"scrapes are missed{_during(span)}" for span in faults.missed_scrapes)
    if faults.missed_ratio:
        yield f"{percent(faults.missed_ratio)} of scrapes are missed"
    if faults.silent_ratio:
        yield f"a replica leaves {percent(faults.silent_ratio)} of scrapes unanswered"


def _during(span: Span) -> str:
    return f" from {span.from_s:g} to {span.to_s:g} s"


def moves(outcome: Outcome) -> str:
    """How often it scaled."""
    return f"{counted(outcome.scale_ups, 'time')} up, {counted(outcome.scale_downs, 'time')} down"
