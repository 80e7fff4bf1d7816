"""The share of requests that met their objective, from an engine's own histograms.

Called with two pages of a replica by the observation.
Where there is nothing to judge the answer is None, never 0 and never 1: silence is neither
an outage nor a success.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from monitor.arrivals import restarted
from monitor.histogram import Histogram
from monitor.signals import EngineSignals
from profiler.slo import Slo


@dataclass(frozen=True, slots=True)
class Attainment:
    """Shares (0–1) within the bounds of an `Slo`; None: not bounded, or no such request."""

    requests: float
    """Requests judged: the weight of these shares beside those of other replicas."""
    ttft_ratio: float | None = None
    itl_ratio: float | None = None
    e2e_ratio: float | None = None
    window_s: float | None = None
    """The time between the two pages; None when it was not given."""

    def __post_init__(self) -> None:
        """Reject what judges nothing; that is None, not an attainment."""
        if not self.requests > 0 or self.ttft_ratio is self.itl_ratio is self.e2e_ratio is None:
            raise ValueError("an attainment needs a request and a share")

    @property
    def ratio(self) -> float:
        """The least of the shares: at most this many requests met the whole objective."""
        return min(r for r in (self.ttft_ratio, self.itl_ratio, self.e2e_ratio) if r is not None)


def attainment(
    before: EngineSignals, after: EngineSignals, slo: Slo, window_s: float | None = None
) -> Attainment | None:
    """Judge the requests that ended between two pages of one replica.

    None when no request ended, when the engine restarted in between, or when it does not
    publish what the objective bounds: a part of an objective is not reported as the whole.
    """
    if restarted(before, after):
        return None
    ttft = before.ttft, after.ttft
    tpot = before.tpot, after.tpot
    e2e = before.e2e, after.e2e
    # every gap counted alike is the next best, so that long requests weigh more
    itl = tpot if before.tpot and after.tpot else (before.itl, after.itl)
    # a first token is counted before its request ends, so the histograms differ a little
    requests = max(_came(*ttft), _came(*tpot), _came(*e2e))
    shares: dict[str, float | None] = {}
    for name, bound_s, pair in (
        ("ttft_ratio", slo.ttft_s, ttft),
        ("itl_ratio", slo.itl_s, itl),
        ("e2e_ratio", slo.e2e_s, e2e),
    ):
        if bound_s is None:
            continue
        added = _added(*pair)
        if added is None:
            return None
        shares[name] = added.share_within(bound_s)
    if not requests > 0 or all(share is None for share in shares.values()):
        return None
    return Attainment(requests, window_s=window_s, **shares)


def merge(attainments: Iterable[Attainment | None]) -> Attainment | None:
    """One attainment for several replicas, weighted by requests; None without any."""
    known = [a for a in attainments if a is not None]
    if not known:
        return None
    windows = [a.window_s for a in known if a.window_s is not None]
    return Attainment(
        requests=sum(a.requests for a in known),
        ttft_ratio=_weighted((a.ttft_ratio, a.requests) for a in known),
        itl_ratio=_weighted((a.itl_ratio, a.requests) for a in known),
        e2e_ratio=_weighted((a.e2e_ratio, a.requests) for a in known),
        window_s=max(windows, default=None),
    )


def _weighted(shares: Iterable[tuple[float | None, float]]) -> float | None:
    known = [(share, weight) for share, weight in shares if share is not None]
    total = sum(weight for _, weight in known)
    return sum(share * weight for share, weight in known) / total if total > 0 else None


def _came(before: Histogram | None, after: Histogram | None) -> float:
    return 0.0 if before is None or after is None else after.count - before.count


def _added(before: Histogram | None, after: Histogram | None) -> Histogram | None:
    return None if before is None or after is None else after.since(before)
