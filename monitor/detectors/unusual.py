"""Find a service whose load, batch, cache and latencies no longer move together as they did.

The multivariate detector (`monitor.detectors.anomaly`) beside the others: it knows no fault by
name, and so tells what none of them has words for. Once a minute it is shown ten smoothed numbers
of the service; it learns from calm hours alone, anew every few hours, and forgets after a day.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from monitor.detectors.anomaly import Detector, History, Metric, Score, fit
from monitor.detectors.anomaly.windows import Floats
from monitor.detectors.gate import Suspicion
from monitor.detectors.trend import Trend
from monitor.findings import Evidence, Finding, Kind, Severity

SAMPLE_S = 60.0
LEARN_S = 3600.0
"""How often it is asked whether there is enough that is new to learn from."""
LEAST_BLOCKS, ANEW_BLOCKS = 4, 6
"""Calm hours before the first baseline, and between one and the next."""
ADAPTED_S = 2 * 3600.0
"""What has been unusual for so long and was told as nothing else is how the service is now."""

METRICS = (
    ("arrivals_per_replica", "1/s"), ("running", ""), ("waiting", ""), ("kv_usage_ratio", ""),
    ("context_tokens", "tokens"), ("mean_input_tokens", "tokens"),
    ("mean_output_tokens", "tokens"), ("attained_ratio", ""), ("mean_gap_s", "s"),
    ("preemptions_per_request", ""),
)  # fmt: skip
_NAMES = tuple(Metric(name) for name, _ in METRICS)
_UNITS = dict(METRICS)


def sample(trend: Trend, admitted: int) -> Floats:
    """A service's numbers now: [metrics], NaN where not known."""
    return np.array([
        _over(trend.demand_rps, admitted), trend.running, trend.waiting, trend.kv_usage_ratio,
        _known(trend.context_tokens), _known(trend.mean_input_tokens),
        _known(trend.mean_output_tokens), _over(trend.within, trend.judged),
        _over(trend.itl_sum_s, trend.itl_count), _over(trend.preemptions, trend.finished),
    ])  # fmt: skip


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _over(part: float | None, whole: float) -> float:
    return math.nan if part is None or not whole > 0 else part / whole


@dataclass(frozen=True, slots=True)
class Unusual:
    """What it remembers of one service: a day of calm minutes, and the baseline they gave."""

    offset_ratio: float = 0.0
    """0 to 1: so that a thousand services are not all sampled and learned at the same moments."""
    sample_due_s: float | None = None
    learn_due_s: float = math.inf
    history: History = field(default_factory=History)
    learned_blocks: int = 0
    """Hours that had been collected when the baseline was fitted."""
    detector: Detector | None = None
    score: Score | None = None
    """Of the last sample."""

    def seen(self, trend: Trend, admitted: int, calm: bool, now_s: float) -> "Unusual":
        """Take in a look; calm is false while something harmful holds or a rollout goes on."""
        if self.sample_due_s is None:
            return replace(
                self,
                sample_due_s=now_s + (1.0 + self.offset_ratio) * SAMPLE_S,
                learn_due_s=now_s + (1.0 + self.offset_ratio) * LEARN_S,
            )
        if now_s < self.sample_due_s or not admitted or not trend.whole:
            return self
        # after a pause the beat goes on from now
        late = now_s - self.sample_due_s > SAMPLE_S
        due_s = (now_s if late else self.sample_due_s) + SAMPLE_S
        return replace(self, sample_due_s=due_s)._sampled(sample(trend, admitted), calm, now_s)

    def _sampled(self, numbers: Floats, calm: bool, now_s: float) -> "Unusual":
        detector, score = self.detector, None
        if detector is not None:
            detector, score = detector.seen(numbers, now_s)
        history = self.history.seen(numbers, calm and not _new(score, now_s))
        after = replace(self, history=history, detector=detector, score=score)
        return after._learned() if now_s >= self.learn_due_s else after

    def _learned(self) -> "Unusual":
        """Fit anew where enough was collected since."""
        later = replace(self, learn_due_s=self.learn_due_s + LEARN_S)
        blocks, samples = self.history.collected, self.history.samples
        enough = LEAST_BLOCKS if self.detector is None else self.learned_blocks + ANEW_BLOCKS
        if samples is None or blocks < enough:
            return later
        try:
            baseline = fit(samples, SAMPLE_S, _NAMES)
        except ValueError:  # too many gaps
            return later
        return replace(later, detector=Detector(baseline), learned_blocks=blocks)


def _new(score: Score | None, now_s: float) -> bool:
    """Whether it is unusual, and has not been for long."""
    return score is not None and score.since_s is not None and now_s - score.since_s < ADAPTED_S


def unusual(state: Unusual, now_s: float) -> Suspicion | None:
    """Suspect what the last sample says, while an incident of its own holds."""
    score = state.score
    if score is None or score.since_s is None or not score.evidence:
        return None
    told = " and ".join(c.metric for c in score.evidence)
    rate = score.false_alarms_per_day or 0.0
    return Suspicion(
        Finding(
            kind=Kind.ANOMALY,
            cause="Unusual",
            subject="",
            severity=Severity.INFO,
            confidence_ratio=1.0 / (1.0 + rate),
            since_s=score.since_s,
            evidence=tuple(
                Evidence(c.metric, c.seen, c.usual, _UNITS[c.metric]) for c in score.evidence
            ),
            message=f"{told} do not move together as in this service's calm hours",
        ),
        0.0,
    )
