"""What a run came to: latencies, throughput, and the share that met the objective.

Called with the outcomes of `profiler.measure.openloop`. Latencies count from the scheduled
arrival, so that a late sender cannot hide a queue; those from the sending stand beside them.
A request that was lost, cut or timed out has no latency and did not attain its objective.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from profiler.measure.client import Outcome, Status
from profiler.measure.openloop import Pace
from profiler.slo import Slo


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in seconds; percentiles are interpolated between neighbours."""

    count: int
    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float

    @classmethod
    def of(cls, values_s: Iterable[float | None]) -> "Spread | None":
        """Of the known values; None without any."""
        known = np.array([v for v in values_s if v is not None], dtype=np.float64)
        if not known.size:
            return None
        return cls(
            known.size, float(known.mean()), *np.quantile(known, (0.5, 0.9, 0.95, 0.99)).tolist()
        )


@dataclass(frozen=True, slots=True)
class Report:
    """A run's figures; None: there was nothing to take it from."""

    sent: int
    ok: int
    lost: int
    """Failed before their first token."""
    cut: int
    """Broke off after their first token."""
    timed_out: int
    duration_s: float
    """From the first scheduled arrival to the last token."""
    requests_rps: float | None
    """Answered in full, per second of the duration."""
    input_tokens_s: float | None
    """Prompt tokens of those, per second."""
    output_tokens_s: float | None
    """Generated tokens of those, per second."""
    ttft: Spread | None
    """Scheduled arrival to first token."""
    e2e: Spread | None
    """Scheduled arrival to last token."""
    ttft_from_sent: Spread | None
    e2e_from_sent: Spread | None
    itl: Spread | None
    """Gaps between token events, all requests together."""
    tpot: Spread | None
    """A request's mean time per output token after the first."""
    slo: Slo | None
    attained_ratio: float | None
    """Requests within every bound, of all sent; None when a bound cannot be judged."""
    pace: Pace
    errors: tuple[tuple[str, int], ...]
    """The commonest error texts, and how often each came."""

    @property
    def failed(self) -> int:
        """Requests without a full answer."""
        return self.sent - self.ok

    @property
    def slo_met(self) -> bool | None:
        """Whether enough requests attained; None when that is unknown."""
        if self.slo is None or self.attained_ratio is None:
            return None
        return self.attained_ratio >= self.slo.percentile

    def as_dict(self) -> dict[str, Any]:
        """For JSON; every latency in seconds, and missing figures as null."""
        pace = {**asdict(self.pace), "warning": self.pace.warning}
        return {**asdict(self), "failed": self.failed, "slo_met": self.slo_met, "pace": pace}


def summarise(outcomes: Sequence[Outcome], slo: Slo | None = None) -> Report:
    """Sum up a run."""
    done = [o for o in outcomes if o.status is Status.OK]
    duration_s = _duration_s(outcomes)
    return Report(
        sent=len(outcomes),
        ok=len(done),
        lost=_count(outcomes, Status.ERROR),
        cut=_count(outcomes, Status.CUT),
        timed_out=_count(outcomes, Status.TIMEOUT),
        duration_s=duration_s,
        requests_rps=_per(len(done), duration_s),
        input_tokens_s=_per(sum(o.input_tokens for o in done), duration_s),
        output_tokens_s=_per(sum(o.output_tokens for o in done), duration_s),
        ttft=Spread.of(ttft_s(o) for o in done),
        e2e=Spread.of(e2e_s(o) for o in done),
        ttft_from_sent=Spread.of(_since(o.first_token_s, o.sent_s) for o in done),
        e2e_from_sent=Spread.of(_since(o.last_token_s, o.sent_s) for o in done),
        itl=Spread.of(np.concatenate([o.gaps_s for o in done]) if done else ()),
        tpot=Spread.of(o.tpot_s for o in done),
        slo=slo,
        attained_ratio=None if slo is None else attained_ratio(outcomes, slo),
        pace=Pace.of(outcomes),
        errors=_commonest(outcomes),
    )


def ttft_s(outcome: Outcome) -> float | None:
    """Scheduled arrival to first token."""
    return _since(outcome.first_token_s, outcome.scheduled_s)


def e2e_s(outcome: Outcome) -> float | None:
    """Scheduled arrival to last token."""
    return _since(outcome.last_token_s, outcome.scheduled_s)


def attained_ratio(outcomes: Sequence[Outcome], slo: Slo) -> float | None:
    """The share of requests within every bound.

    None without requests or bounds, or when answers in one piece hide what is bounded.
    """
    verdicts = [_attained(outcome, slo) for outcome in outcomes]
    bounded = any(bound is not None for bound in (slo.ttft_s, slo.itl_s, slo.e2e_s))
    if not verdicts or not bounded or any(verdict is None for verdict in verdicts):
        return None
    return sum(map(bool, verdicts)) / len(verdicts)


def _attained(outcome: Outcome, slo: Slo) -> bool | None:
    """Whether a request was answered within bounds; a single token has no gap to judge."""
    if outcome.status is not Status.OK:
        return False
    tpot_s = 0.0 if outcome.output_tokens < 2 else outcome.tpot_s
    pairs = ((ttft_s(outcome), slo.ttft_s), (tpot_s, slo.itl_s), (e2e_s(outcome), slo.e2e_s))
    bounded = [(value, bound) for value, bound in pairs if bound is not None]
    if any(value is None for value, _ in bounded):
        return None
    return all(value <= bound for value, bound in bounded if value is not None)


def as_table(report: Report) -> Table:
    """The report for a terminal; latencies in milliseconds."""
    table = Table(title="whaleflux bench", title_justify="left")
    for name in ("", "mean", "p50", "p90", "p95", "p99"):
        table.add_column(name, justify="right" if name else "left")
    for name, spread in (
        ("TTFT, ms", report.ttft),
        ("  from sending, ms", report.ttft_from_sent),
        ("ITL, ms", report.itl),
        ("TPOT, ms", report.tpot),
        ("E2E, ms", report.e2e),
        ("  from sending, ms", report.e2e_from_sent),
    ):
        table.add_row(name, *_cells(spread))
    table.add_section()
    for name, text in _facts(report):
        table.add_row(name, text)
    return table


def _cells(spread: Spread | None) -> list[str]:
    if spread is None:
        return ["–"] * 5
    values = (spread.mean_s, spread.p50_s, spread.p90_s, spread.p95_s, spread.p99_s)
    return [f"{value * 1e3:.1f}" for value in values]


def _facts(report: Report) -> list[tuple[str, str]]:
    """The figures that are no distribution."""
    facts = [
        ("requests sent", str(report.sent)),
        ("ok", str(report.ok)),
        ("lost before a token", str(report.lost)),
        ("cut mid-stream", str(report.cut)),
        ("timed out", str(report.timed_out)),
        ("rate wanted, req/s", _figure(report.pace.wanted_rps)),
        ("rate sent, req/s", _figure(report.pace.achieved_rps)),
        ("sent late, p99 ms", _figure(_ms(report.pace.lateness_p99_s))),
        ("answered, req/s", _figure(report.requests_rps)),
        ("output, tokens/s", _figure(report.output_tokens_s)),
    ]
    if report.slo is not None:
        met = {True: "met", False: "missed", None: "unknown"}[report.slo_met]
        share = "–" if report.attained_ratio is None else f"{report.attained_ratio:.2%}"
        facts.append((f"SLO at {report.slo.percentile:.0%}: {met}", share))
    return facts


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * 1e3


def _since(end_s: float | None, start_s: float) -> float | None:
    return None if end_s is None else end_s - start_s


def _per(amount: float, duration_s: float) -> float | None:
    return amount / duration_s if duration_s > 0 else None


def _count(outcomes: Sequence[Outcome], status: Status) -> int:
    return sum(o.status is status for o in outcomes)


def _duration_s(outcomes: Sequence[Outcome]) -> float:
    if not outcomes:
        return 0.0
    ends_s = [o.sent_s if o.last_token_s is None else o.last_token_s for o in outcomes]
    return max(ends_s) - min(o.scheduled_s for o in outcomes)


def _commonest(outcomes: Sequence[Outcome], most: int = 5) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(o.error for o in outcomes if o.error is not None).most_common(most))
