"""What came of a replay: figures, series, and every wish that changed something; frozen.

Made by `run.py` from a world that has ended. Nothing is judged here but against the SLO.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.replay.ledger import Fate, Ledger
from controller.replay.replica import Life
from controller.replay.world import Queued
from profiler.slo import Slo

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MINUTE_S = 60.0
_SHARES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Change:
    """A wish that changed how many replicas there are."""

    at_s: float
    before: int
    """Serving and starting."""
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A latency over all requests that were judged, seconds; a token that never came: infinite."""

    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Each request of the trace; [requests], in its order."""

    judged: Bools
    """Whether the service existed when it came."""
    attained: Bools
    cut: Bools
    """Its replica died while it was being answered."""
    ended: Bools
    ttft_s: Floats
    """From its arrival; infinite where no token came, NaN where it was not judged."""
    itl_s: Floats
    """Mean gap between its tokens; NaN where it made one or was not finished."""
    e2e_s: Floats
    """Infinite where it was not finished, NaN where it was not judged."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Minute by minute, [minutes]; NaN where there is nothing to say."""

    arrivals: Ints
    serving: Floats
    """Replicas in the router, averaged over the minute."""
    starting: Floats
    queue: Floats
    """Requests waiting in engines and at the gateway, averaged over its scrapes."""
    ttft_p95_s: Floats
    """Of the requests that came in it, as the next."""
    attained_ratio: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a policy made of a trace."""

    policy: str
    requests: int
    """Judged: those that came while the service existed."""
    turned_away: int
    """The others."""
    attained: int
    cut: int
    unserved: int
    """Neither finished nor cut when the replay ended."""
    attained_ratio: float
    """Of the requests judged; NaN where there were none."""
    replica_s: float
    """From the start of each start-up to the end of the drain, summed."""
    gpu_hours: float
    scale_ups: int
    scale_downs: int
    longest_outage_s: float
    """From the first to the last of requests in a row that all missed their TTFT."""
    mean_replicas: float
    """Paid for, over the time until the policy was last asked."""
    peak_replicas: int
    ttft_s: Quantiles
    itl_s: Quantiles
    e2e_s: Quantiles
    end_s: float
    """When the policy was last asked; what was under way was still finished."""
    meets_slo: bool
    """Whether the SLO is one that an idle replica keeps; no fleet keeps it otherwise."""
    changes: tuple[Change, ...]
    lives: tuple[Life, ...]
    """Of each replica, in order of asking."""
    series: Series
    each: Requests


@dataclass(frozen=True, slots=True)
class Account:
    """What a world leaves behind."""

    ledger: Ledger
    lives: tuple[Life, ...]
    queued: Sequence[Queued]
    changes: tuple[Change, ...]
    end_s: float


def judge(policy: str, account: Account, slo: Slo, gpus: int, meets_slo: bool) -> Outcome:
    """Count it all up; `gpus`: of one replica."""
    each = _requests(account.ledger, slo)
    judged = int(each.judged.sum())
    attained, cut = int(each.attained.sum()), int(each.cut.sum())
    replica_s = float(sum(life.gone_s - life.asked_s for life in account.lives))
    changes = account.changes
    return Outcome(
        policy=policy,
        requests=judged,
        turned_away=each.judged.size - judged,
        attained=attained,
        cut=cut,
        unserved=int((each.judged & ~each.ended & ~each.cut).sum()),
        attained_ratio=attained / judged if judged else float("nan"),
        replica_s=replica_s,
        gpu_hours=replica_s * gpus / 3600.0,
        scale_ups=sum(change.after > change.before for change in changes),
        scale_downs=sum(change.after < change.before for change in changes),
        longest_outage_s=_longest_outage_s(account.ledger, each, slo),
        mean_replicas=replica_s / account.end_s if account.end_s > 0 else float("nan"),
        peak_replicas=_peak(account.lives),
        ttft_s=_quantiles(each.ttft_s),
        itl_s=_quantiles(each.itl_s),
        e2e_s=_quantiles(each.e2e_s),
        end_s=account.end_s,
        meets_slo=meets_slo,
        changes=changes,
        lives=account.lives,
        series=_series(account, each),
        each=each,
    )


def _requests(ledger: Ledger, slo: Slo) -> Requests:
    judged = ledger.fate != Fate.TURNED_AWAY
    cut, came = ledger.fate == Fate.CUT, ledger.trace.arrival_s
    ttft_s = np.where(judged, np.nan_to_num(ledger.first_s - came, nan=np.inf), np.nan)
    ended_s = np.where(ledger.ended, ledger.token_s - came, np.inf)
    e2e_s = np.where(judged, ended_s, np.nan)
    several = ledger.ended & (ledger.made > 1)
    gaps = np.maximum(ledger.made - 1, 1)
    itl_s = np.where(several, (ledger.token_s - ledger.first_s) / gaps, np.nan)
    good = judged & ledger.ended
    for latency_s, bound_s in ((ttft_s, slo.ttft_s), (itl_s, slo.itl_s), (e2e_s, slo.e2e_s)):
        if bound_s is not None:
            good &= ~(latency_s > bound_s)
    return Requests(judged, good, cut, ledger.ended.copy(), ttft_s, itl_s, e2e_s)


def _quantiles(values: Floats) -> Quantiles:
    known = values[~np.isnan(values)]
    if not known.size:
        return Quantiles(*(float("nan"),) * len(_SHARES))
    return Quantiles(*(float(q) for q in np.quantile(known, _SHARES, method="inverted_cdf")))


def _longest_outage_s(ledger: Ledger, each: Requests, slo: Slo) -> float:
    if slo.ttft_s is None:
        return 0.0
    came_s = ledger.trace.arrival_s[each.judged]
    late = np.concatenate([[False], each.ttft_s[each.judged] > slo.ttft_s, [False]])
    edges = np.flatnonzero(np.diff(late.astype(np.int8)))
    first, last = edges[::2], edges[1::2] - 1
    return float(np.max(came_s[last] - came_s[first], initial=0.0))


def _peak(lives: Sequence[Life]) -> int:
    """Most replicas at once; one that goes makes room for one that comes at that moment."""
    steps = [(life.asked_s, 1) for life in lives] + [(life.gone_s, -1) for life in lives]
    counts = np.cumsum([by for _, by in sorted(steps)])
    return int(np.max(counts, initial=0))


def _series(account: Account, each: Requests) -> Series:
    minutes = int(account.end_s // MINUTE_S) + 1
    came = (account.ledger.trace.arrival_s // MINUTE_S).astype(np.int64)
    came = np.where(each.judged, np.minimum(came, minutes - 1), minutes)
    p95_s, attained = np.full(minutes, np.nan), np.full(minutes, np.nan)
    order = np.argsort(came, kind="stable")
    edges = np.searchsorted(came[order], np.arange(minutes + 1))
    for minute in range(minutes):
        rows = order[edges[minute] : edges[minute + 1]]
        if rows.size:
            p95_s[minute] = _quantiles(each.ttft_s[rows]).p95
            attained[minute] = each.attained[rows].mean()
    lives = account.lives
    starts = [(life.asked_s, min(life.ready_s, life.gone_s)) for life in lives]
    serves = [(life.ready_s, life.drained_s) for life in lives if life.ready_s < np.inf]
    return Series(
        arrivals=np.bincount(came, minlength=minutes + 1)[:minutes],
        serving=_averaged(serves, minutes, account.end_s),
        starting=_averaged(starts, minutes, account.end_s),
        queue=_queue(account.queued, minutes),
        ttft_p95_s=p95_s,
        attained_ratio=attained,
    )


def _averaged(spans: Sequence[tuple[float, float]], minutes: int, end_s: float) -> Floats:
    """How many spans there were at once, averaged over each minute up to the end."""
    edges = np.minimum(np.arange(minutes + 1) * MINUTE_S, max(end_s, 1e-9))
    total = np.zeros(minutes)
    for from_s, to_s in spans:
        inside = np.clip(edges, from_s, max(to_s, from_s))
        total += np.diff(inside)
    lasts_s = np.diff(edges)
    mean: Floats = np.divide(total, lasts_s, out=np.full(minutes, np.nan), where=lasts_s > 0)
    return mean


def _queue(queued: Sequence[Queued], minutes: int) -> Floats:
    at = np.array([int(each.at_s // MINUTE_S) for each in queued], np.int64)
    inside = at < minutes
    values = np.array([each.requests for each in queued], np.float64)[inside]
    counts = np.bincount(at[inside], minlength=minutes)
    sums = np.bincount(at[inside], values, minlength=minutes)
    mean: Floats = np.divide(sums, counts, out=np.full(minutes, np.nan), where=counts > 0)
    return mean
