"""The share of requests that met their objective, from an engine's own histograms.

Called with two pages of a replica by the observation.
Where there is nothing to judge the answer is None, never 0 and never 1: silence is neither
an outage nor a success.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from monitor.histogram import Histogram
from monitor.rates import restarted
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
    bounded = [
        (name, bound_s, _added(before, after, signal))
        for name, bound_s, signal in (
            ("ttft_ratio", slo.ttft_s, _ttft),
            ("itl_ratio", slo.itl_s, _tpot if before.tpot and after.tpot else _itl),
            ("e2e_ratio", slo.e2e_s, _e2e),
        )
        if bound_s is not None
    ]
    requests = _requests(before, after)
    if (
        requests is None
        or restarted(before, after)
        or any(added is None for _, _, added in bounded)
    ):
        return None
    shares = {n: added.share_within(bound_s) for n, bound_s, added in bounded if added is not None}
    if all(share is None for share in shares.values()):
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


def _added(
    before: EngineSignals,
    after: EngineSignals,
    signal: Callable[[EngineSignals], Histogram | None],
) -> Histogram | None:
    then, now = signal(before), signal(after)
    return None if then is None or now is None else now.since(then)


def _requests(before: EngineSignals, after: EngineSignals) -> float | None:
    """The most requests that any histogram of requests took up; None when none did.

    A first token is counted before its request ends, so the histograms differ a little.
    """
    added = (_added(before, after, signal) for signal in (_ttft, _e2e, _tpot))
    most = max((a.count for a in added if a is not None), default=0.0)
    return most if most > 0 else None


def _ttft(signals: EngineSignals) -> Histogram | None:
    return signals.ttft


def _e2e(signals: EngineSignals) -> Histogram | None:
    return signals.e2e


def _tpot(signals: EngineSignals) -> Histogram | None:
    """What the objective means: a request's mean gap."""
    return signals.tpot


def _itl(signals: EngineSignals) -> Histogram | None:
    """The next best: every gap counted alike, so that long requests weigh more."""
    return signals.itl
