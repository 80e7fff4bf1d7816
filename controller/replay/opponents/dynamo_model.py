"""Step time as the load loop of NVIDIA Dynamo's planner learns it, for an aggregated engine.

Called by `dynamo`. A regression of step time on prompt tokens and cached decode tokens in the
batch, over at most 64 observations kept spread over a 4 × 4 grid. The planner has a forward-pass
record per engine, and begins with a benchmark's; the protocol has neither. So an observation is
the fleet's of one scrape: the mean gap between tokens as the step's time, prompt tokens per step
and cached tokens per replica. Of the benchmark the prefill rate is known: it gives the cost of a
prompt token, and the rest is regressed on cached tokens. The planner drops a fit in which more
load costs less time; means over requests show that by chance, where its sweep of steps would not,
and here the slope is then zero.

Source: ai-dynamo/dynamo `components/src/dynamo/planner/core/perf_model/`: `base.py`, `agg.py`.
"""

from collections import Counter
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from controller.replay.opponents.common import mean
from controller.replay.policy import Known, Scrape

Observation = tuple[float, float, float]
"""Prompt tokens in the step, cached decode tokens, seconds."""

BUCKETS_PER_AXIS = 4


@dataclass(frozen=True, slots=True)
class Learned:
    """What the regression keeps."""

    observations: tuple[Observation, ...] = ()
    input_tokens: tuple[float, ...] = ()
    """Mean prompts, by observation."""
    decode_tokens: tuple[float, ...] = ()
    """Mean cached tokens of a running request, by observation."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step as a plane over the two kinds of tokens, with the means it is asked at."""

    base_s: float
    prompt_token_s: float
    cached_token_s: float
    input_tokens: float
    decode_tokens: float
    prompt_tokens_per_step: float

    def seconds(self, prompt_tokens: float, cached_tokens: float) -> float:
        """Predict one step."""
        varying = self.prompt_token_s * prompt_tokens + self.cached_token_s * cached_tokens
        return max(1e-6, self.base_s + varying)

    def ttft_s(self, queued_tokens: float, cached_tokens: float, step_tokens: int) -> float:
        """Time to first token behind a queue: its prompt and the queue's, step by step."""
        left, total = queued_tokens + self.input_tokens, 0.0
        for _ in range(ceil(left / step_tokens)):
            total += self.seconds(min(left, step_tokens), cached_tokens)
            left -= step_tokens
        return total

    def itl_s(self, cached_tokens: float) -> float:
        """Gap between tokens with one request more."""
        return self.seconds(self.prompt_tokens_per_step, cached_tokens + self.decode_tokens)


def learn(learned: Learned, scrape: Scrape, known: Known, limit: int) -> Learned:
    """Add one scrape's observation, where it shows a step."""
    step_s, count = mean(scrape.itl_s), len(scrape.replicas)
    if step_s is None or step_s <= 0.0 or not count or scrape.running <= 0:
        return learned
    steps = max(scrape.since_s / step_s, 1.0)
    cached = sum(replica.kv_usage_ratio for replica in scrape.replicas) * known.kv_capacity_tokens
    seen = (scrape.prompt_tokens / steps / count, cached / count, step_s)
    prompts = mean(scrape.input_tokens)
    return replace(
        learned,
        observations=_retired((*learned.observations, seen), limit),
        input_tokens=(*learned.input_tokens, prompts)[-limit:] if prompts else learned.input_tokens,
        decode_tokens=(*learned.decode_tokens, cached / scrape.running)[-limit:],
    )


def fit(learned: Learned, prefill_tokens_s: float, least: int) -> StepTime | None:
    """Fit what a step costs beside its prompts; None with too few observations."""
    if len(learned.observations) < least:
        return None
    rows = np.asarray(learned.observations)
    cached, rest_s = rows[:, 1], rows[:, 2] - rows[:, 0] / prefill_tokens_s
    spread = cached - cached.mean()
    varied = float(spread @ spread)
    slope_s = max(float(spread @ rest_s) / varied, 0.0) if varied > 0.0 else 0.0
    return StepTime(
        base_s=max(float(rest_s.mean() - slope_s * cached.mean()), 0.0),
        prompt_token_s=1.0 / prefill_tokens_s,
        cached_token_s=slope_s,
        input_tokens=mean(learned.input_tokens) or 0.0,
        decode_tokens=mean(learned.decode_tokens) or 0.0,
        prompt_tokens_per_step=float(rows[:, 0].mean()),
    )


def _retired(observations: tuple[Observation, ...], limit: int) -> tuple[Observation, ...]:
    """Retire the oldest of the fullest bucket, so that one operating point cannot fill all."""
    if len(observations) <= limit:
        return observations
    points = np.asarray(observations)[:, :2]
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    places = (points - low) / np.where(span > 0.0, span, 1.0) * BUCKETS_PER_AXIS
    keys = [tuple(row) for row in np.minimum(places.astype(int), BUCKETS_PER_AXIS - 1).tolist()]
    fullest = Counter(keys).most_common(1)[0][0]
    oldest = keys.index(fullest)
    return (*observations[:oldest], *observations[oldest + 1 :])
