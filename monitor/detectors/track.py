"""What the detector remembers of one replica, and how a look at it is taken in.

Called by `Watch.seen` alone: first every replica is followed by itself, then the new windows of
all are priced in one go and put on their charts, for each is held against its peers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from monitor.detectors.degraded import LEAST_GAPS, Chart, Window, usual_of_peers
from monitor.detectors.expected import Lengths, Windows, expected_gap_s
from monitor.detectors.gpu import GpuTrack, track
from monitor.detectors.pulse import Pulse, pulse
from monitor.detectors.reading import Expectation, ReplicaReading
from monitor.detectors.trend import Trend
from monitor.detectors.wedged import Vitals
from monitor.signals import EngineSignals
from profiler.scheduler import Limits
from profiler.step_cost import StepCost

WARM_S = 30.0
"""How long after it got ready a replica's steps are not judged: it compiles and fills caches."""


@dataclass(frozen=True, slots=True)
class Track:
    """What is remembered of one replica."""

    signals: EngineSignals | None = None
    at_s: float | None = None
    pulse: Pulse | None = None
    """Its latest window."""
    fresh: bool = False
    """Whether that window is new at this look."""
    vitals: Vitals = field(default_factory=Vitals)
    chart: Chart = field(default_factory=Chart)
    gpus: Mapping[str, GpuTrack] = field(default_factory=lambda: MappingProxyType({}))


def followed(
    replica: ReplicaReading, before: Track | None, expected: Expectation, now_s: float
) -> Track:
    """Take in a page, where it is new, a probe and the GPUs' state."""
    old = before or Track()
    signals, at_s, vitals = replica.signals, replica.at_s, old.vitals
    gpus = {g.index: track(g, old.gpus.get(g.index), now_s) for g in replica.gpus}
    if signals is not None and signals.asleep:
        return Track(signals, at_s, gpus=gpus)
    new = signals is not None and at_s is not None and (old.at_s is None or at_s > old.at_s)
    if signals is None or at_s is None or not new:
        return replace(old, fresh=False, vitals=vitals.probed(replica.canary), gpus=gpus)
    window = None
    if old.signals is not None and old.at_s is not None:
        window = pulse(old.signals, signals, at_s - old.at_s, expected.slo)
    return Track(
        signals=signals,
        at_s=at_s,
        pulse=window,
        fresh=window is not None,
        vitals=vitals.seen(signals, at_s).probed(replica.canary),
        chart=old.chart,
        gpus=gpus,
    )


def lengths_now(trend: Trend, expected: Expectation) -> Lengths:
    """What requests are like: as seen lately, else as planned."""
    prompt = trend.mean_input_tokens or expected.mean_input_tokens
    answer = trend.mean_output_tokens or expected.mean_output_tokens
    return Lengths(float(prompt), float(trend.context_tokens or prompt + answer / 2))


def charted(
    replicas: Sequence[ReplicaReading],
    tracks: dict[str, Track],
    lengths: Lengths,
    expected: Expectation,
    quiet: bool,
) -> dict[str, Track]:
    """Put new windows on their replicas' charts."""
    judged = [(r, p) for r in replicas if (p := _judged(r, tracks[r.id])) is not None]
    if not judged:
        return tracks
    found: dict[str, tuple[float, float]] = {}
    for kind in {r.kind for r, _ in judged}:
        of_kind = [(r.id, p) for r, p in judged if r.kind == kind]
        found |= _residuals(of_kind, lengths, *expected.steps(kind))
    peers = sorted(t.chart.residual for t in tracks.values() if t.chart.windows)
    for replica, p in judged:
        kept, (gap_s, residual) = tracks[replica.id], found[replica.id]
        if not math.isfinite(residual):
            continue
        window = Window(kept.at_s or 0.0, p.window_s, gap_s, residual)
        usual = usual_of_peers(kept.chart, peers)
        chart = kept.chart.seen(window, usual, expected.slo.itl_s, quiet)
        tracks[replica.id] = Track(
            kept.signals, kept.at_s, kept.pulse, kept.fresh, kept.vitals, chart, kept.gpus
        )
    return tracks


def _residuals(
    judged: Sequence[tuple[str, Pulse]], lengths: Lengths, cost: StepCost, limits: Limits
) -> dict[str, tuple[float, float]]:
    """Mean gap of each one's window, and log of it over what its own batch should take."""
    windows = Windows(*np.array(
        [(p.window_s, p.itl_count, p.itl_sum_s, p.prompt_tokens or 0.0) for _, p in judged],
        np.float64,
    ).T.copy())  # fmt: skip
    should_s = np.empty(len(judged))
    expected_gap_s(cost, limits, lengths, windows, should_s)
    gaps_s = windows.gaps_s / windows.gaps
    names = (name for name, _ in judged)
    pairs = zip(gaps_s.tolist(), np.log(gaps_s / should_s).tolist(), strict=True)
    return dict(zip(names, pairs, strict=True))


def _judged(replica: ReplicaReading, kept: Track) -> Pulse | None:
    """Its new window, where that tells how long its steps take."""
    p = kept.pulse
    if not kept.fresh or p is None or p.itl_count is None or not p.itl_sum_s:
        return None
    warm = replica.ready_s is None or (kept.at_s or 0.0) - replica.ready_s >= WARM_S
    return p if warm and p.itl_count >= LEAST_GAPS else None
