"""Judge one sample after another against a frozen baseline; memory is one window.

Called by whoever reads the signals, once a sample. It decides whether this is an incident and
which metrics say so; what to do about it is the controller's. It never learns.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from monitor.detectors.anomaly.baseline import Baseline, Metric
from monitor.detectors.anomaly.windows import WINDOW_SAMPLES, Floats, windows

FALSE_ALARMS_PER_DAY = 0.5
"""One needless look in two days. Of 1, 0.5, 0.25 and 0.1 the best event F1 on both families of
labelled servers; they then raised fewer, for their history was not free of incidents either."""

NAMED_METRICS = 3
LATE_STEPS = 1.5
"""A sample later than that many steps leaves a gap, which is filled with missing samples."""


class Finding(StrEnum):
    """What a sample says beside its score. Append only."""

    ANOMALY = "Anomaly"
    METRICS_MISSING = "MetricsMissing"
    SAMPLES_MISSING = "SamplesMissing"
    TOO_LITTLE_SEEN = "TooLittleSeen"
    OUT_OF_ORDER = "OutOfOrder"


@dataclass(frozen=True, slots=True)
class Contribution:
    """A metric's part in a score."""

    metric: Metric
    share_ratio: float
    seen: float
    """The last sample in the metric's unit; NaN if missing."""

    usual: float
    """What the nearest regime has there."""


@dataclass(frozen=True, slots=True)
class Score:
    """One sample judged."""

    at_s: float
    findings: tuple[Finding, ...] = ()
    value: float | None = None
    """0 is the median of calm, 1 its 99 % quantile; None where too little is seen."""

    false_alarms_per_day: float | None = None
    """What a threshold at this value would cost on calm days."""

    since_s: float | None = None
    """When the present incident was first alarmed; None when calm."""

    evidence: tuple[Contribution, ...] = ()
    missing: tuple[Metric, ...] = ()

    @property
    def anomalous(self) -> bool:
        """Whether this very sample is over the threshold."""
        return Finding.ANOMALY in self.findings


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """A baseline and the last window. `seen` gives the successor; nothing is changed in place."""

    baseline: Baseline
    per_day: float = FALSE_ALARMS_PER_DAY
    recent: Floats | None = None
    """[at most WINDOW_SAMPLES, modelled metrics], scaled, oldest first."""

    last_s: float | None = None
    alarmed_s: float | None = None
    """When the present incident was last over the threshold."""

    since_s: float | None = None

    def seen(self, sample: Floats, now_s: float) -> tuple["Detector", Score]:
        """Take in a sample [metrics], NaN where missing: the state after it, and its score."""
        if self.last_s is not None and now_s <= self.last_s:
            return self, Score(now_s, (Finding.OUT_OF_ORDER,), since_s=self.since_s)
        lost = self._lost(now_s)
        used = np.asarray(sample, dtype=np.float64)[self.baseline.modelled]
        recent = self._push(used, lost)
        value, evidence = _judge(self.baseline, recent, used)
        over = value is not None and value >= self.baseline.tail.threshold(self.per_day)
        state = self._after(recent, now_s, over)
        names = [self.baseline.metrics[place] for place in self.baseline.modelled]
        missing = tuple(n for n, part in zip(names, used, strict=True) if np.isnan(part))
        findings = (
            (over, Finding.ANOMALY),
            (bool(missing), Finding.METRICS_MISSING),
            (lost > 0, Finding.SAMPLES_MISSING),
            (value is None, Finding.TOO_LITTLE_SEEN),
        )
        rate = None if value is None else self.baseline.tail.rate_per_day(value)
        said = tuple(finding for holds, finding in findings if holds)
        return state, Score(now_s, said, value, rate, state.since_s, evidence, missing)

    def _lost(self, now_s: float) -> int:
        """Samples that should have come since the last one; a window of them at most."""
        if self.last_s is None or now_s - self.last_s <= LATE_STEPS * self.baseline.step_s:
            return 0
        return min(round((now_s - self.last_s) / self.baseline.step_s) - 1, WINDOW_SAMPLES)

    def _push(self, used: Floats, lost: int) -> Floats:
        """The last window with lost samples and this one at its end."""
        gap = np.full((lost, used.size), np.nan)
        parts = [gap, self.baseline.scale(used)[None, :]]
        before = parts if self.recent is None else [self.recent, *parts]
        return np.vstack(before)[-WINDOW_SAMPLES:].copy()

    def _after(self, recent: Floats, now_s: float, over: bool) -> "Detector":
        """An incident ends after a window without an alarm."""
        if over:
            since_s = now_s if self.since_s is None else self.since_s
            return replace(self, recent=recent, last_s=now_s, alarmed_s=now_s, since_s=since_s)
        calm_s = WINDOW_SAMPLES * self.baseline.step_s
        if self.alarmed_s is not None and now_s - self.alarmed_s > calm_s:
            return replace(self, recent=recent, last_s=now_s, alarmed_s=None, since_s=None)
        return replace(self, recent=recent, last_s=now_s)


def _judge(
    base: Baseline, recent: Floats, used: Floats
) -> tuple[float | None, tuple[Contribution, ...]]:
    """The score of the last window and the metrics that make most of it."""
    window = windows(recent)[-1:]
    energies = base.regimes.energies(window)
    value = float(base.values(energies)[0])
    if np.isnan(value):
        return None, ()
    centre = base.regimes.nearest(window)[0].reshape(-1, WINDOW_SAMPLES)[:, -1]
    usual = base.scale.usual + base.scale.spread * centre
    shares = base.shares(energies)[0]
    most = np.argsort(-shares, kind="stable")[:NAMED_METRICS]
    return value, tuple(
        Contribution(
            base.metrics[base.modelled[place]],
            float(shares[place]),
            float(used[place]),
            float(usual[place]),
        )
        for place in most
        if shares[place] > 0.0
    )


def score_all(baseline: Baseline, samples: Floats) -> Floats:
    """What `seen` would say of each sample in turn: [samples], NaN where it says None.

    samples: [samples, metrics], one each step; for replays and benchmarks.
    """
    scaled = baseline.scale(samples[:, baseline.modelled])
    return baseline.values(baseline.regimes.energies(windows(scaled)))
