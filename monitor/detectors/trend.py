"""A service's load as it has been lately: smoothed sums over its replicas, in fixed memory.

Fed with the windows between pages; read by the detectors that judge a service as a whole. A rate
with an admitted replica unread is a lower bound, and marked so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from monitor.detectors.pulse import Pulse

LOAD_S, SLO_S, MIX_S = 30.0, 60.0, 300.0
"""Time constants: of load, of attainment, of lengths and preemptions."""
PEAK_S = 1800.0


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest value of the last `PEAK_S` to twice that."""

    began_s: float = -math.inf
    now: float = 0.0
    before: float = 0.0

    def seen(self, value: float, at_s: float) -> "Peak":
        """Take in a value."""
        if at_s - self.began_s >= PEAK_S:
            return Peak(at_s, value, self.now)
        return replace(self, now=max(self.now, value)) if value > self.now else self

    @property
    def value(self) -> float:
        """The largest."""
        return max(self.now, self.before)


@dataclass(frozen=True, slots=True)
class Trend:
    """Means are per replica; sums fade with their time constant."""

    at_s: float | None = None
    began_s: float = 0.0
    demand_rps: float | None = None
    """Of the service; None: not known yet."""
    whole: bool = False
    """Whether every admitted replica's part is in it."""
    waiting: float = 0.0
    running: float = 0.0
    kv_usage_ratio: float = 0.0
    context_tokens: float | None = None
    """KV tokens per request in a batch."""
    demand_peak: Peak = Peak()
    kv_peak: Peak = Peak()
    judged: float = 0.0
    within: float = 0.0
    finished: float = 0.0
    preemptions: float = 0.0
    rejected: float = 0.0
    rejected_total: float | None = None
    inputs: float = 0.0
    input_tokens: float = 0.0
    outputs: float = 0.0
    output_tokens: float = 0.0
    itl_count: float = 0.0
    itl_sum_s: float = 0.0

    def seen(self, new: Sequence[Pulse], latest: Sequence[Pulse], admitted: int,
             now_s: float) -> "Trend":  # fmt: skip
        """Take in windows: those that are new, and each admitted replica's latest."""
        if not new or not latest:
            return replace(self, whole=False) if len(latest) < admitted else self
        passed_s = 0.0 if self.at_s is None else max(now_s - self.at_s, 0.0)
        first = self.at_s is None
        rates = [p.arrived / p.window_s for p in latest if p.arrived is not None]
        demand = sum(rates) if rates else None
        load = 1.0 if first else 1.0 - math.exp(-passed_s / LOAD_S)
        kv = _mean([p.kv_usage_ratio for p in latest])
        return replace(
            self,
            at_s=now_s,
            began_s=now_s if first else self.began_s,
            whole=len(rates) == admitted,
            demand_rps=_smooth(self.demand_rps, demand, load),
            waiting=_smooth(self.waiting, _mean([p.waiting for p in latest]), load) or 0.0,
            running=_smooth(self.running, _mean([p.running for p in latest]), load) or 0.0,
            kv_usage_ratio=_smooth(self.kv_usage_ratio, kv, load) or 0.0,
            context_tokens=_smooth(self.context_tokens, _context(latest), load),
            kv_peak=self.kv_peak if kv is None else self.kv_peak.seen(kv, now_s),
            **_sums(self, new, passed_s),
        )._peaked(now_s)

    def _peaked(self, now_s: float) -> "Trend":
        if self.demand_rps is None:
            return self
        return replace(self, demand_peak=self.demand_peak.seen(self.demand_rps, now_s))

    def refused(self, total: float | None, passed_s: float) -> "Trend":
        """Take in the count of refused requests; one that went back began anew."""
        faded = self.rejected * math.exp(-passed_s / MIX_S)
        if total is None or not 0 <= total < math.inf:
            return replace(self, rejected=faded)
        before = total if self.rejected_total is None else min(self.rejected_total, total)
        return replace(self, rejected=faded + total - before, rejected_total=total)

    @property
    def mean_input_tokens(self) -> float | None:
        """Over the last minutes; None where nobody told."""
        return self.input_tokens / self.inputs if self.inputs >= 1 else None

    @property
    def mean_output_tokens(self) -> float | None:
        """The same for answers."""
        return self.output_tokens / self.outputs if self.outputs >= 1 else None


_FADING = {
    "judged": SLO_S, "within": SLO_S, "itl_count": SLO_S, "itl_sum_s": SLO_S,
    "finished": MIX_S, "preemptions": MIX_S,
    "inputs": MIX_S, "input_tokens": MIX_S, "outputs": MIX_S, "output_tokens": MIX_S,
}  # fmt: skip


def _sums(before: Trend, new: Sequence[Pulse], passed_s: float) -> dict[str, Any]:
    """Fade what was counted and add the new windows."""
    keeps = {tau_s: math.exp(-passed_s / tau_s) for tau_s in (SLO_S, MIX_S)}
    return {
        name: getattr(before, name) * keeps[tau_s] + sum(getattr(p, name) or 0.0 for p in new)
        for name, tau_s in _FADING.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return sum(told) / len(told) if told else None


def _smooth(before: float | None, value: float | None, share: float) -> float | None:
    if value is None:
        return before
    return value if before is None else before + share * (value - before)


def _context(latest: Sequence[Pulse]) -> float | None:
    """KV tokens held per request in a batch, over replicas."""
    held = running = 0.0
    for p in latest:
        if p.running and p.kv_usage_ratio is not None and p.kv_capacity_tokens is not None:
            held += p.kv_usage_ratio * p.kv_capacity_tokens
            running += p.running
    return held / running if running else None
