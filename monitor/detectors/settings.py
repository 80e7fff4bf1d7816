"""Find a configuration that the traffic does not fit, and say what to change.

Settings are the service's, so its replicas are judged together. The twin's step cost says
whether a change would pay: a batch that may not grow within the objective is no
misconfiguration, and neither is a queue behind a GPU that computes at its limit.
"""

from collections.abc import Iterator

from monitor.detectors.gate import Suspicion
from monitor.detectors.reading import Expectation
from monitor.detectors.trend import PEAK_S, Trend
from monitor.findings import Evidence, Finding, Kind, Severity
from profiler.scheduler import Limits, Shape
from profiler.step_cost import step_s

HOLD_S = 45.0
PREEMPTED_RATIO = 0.05
"""Preemptions per finished request; each computes a prompt twice."""
REJECTED_RATIO = 0.01
SPARE_KV = 0.7
"""Below this share in use the cache has room for more requests."""
IDLE_KV = 0.25
"""Share that would be in use at full load, below which memory lies idle."""
_LEAST = 5.0
_PAYS = 1.25
"""What a larger batch or budget must give in throughput."""

_Fault = tuple[str, Severity, Evidence, str, str]


def settings(trend: Trend, admitted: int, expected: Expectation, now_s: float
             ) -> Iterator[Suspicion]:  # fmt: skip
    """Suspect settings of the service."""
    for cause, severity, evidence, message, mend in (
        *_preemptions(trend, expected.limits),
        *_rejected(trend),
        *_queues(trend, expected),
        *_idle_memory(trend, admitted, expected, now_s),
    ):
        finding = Finding(
            kind=Kind.MISCONFIGURATION,
            cause=cause,
            subject="",
            severity=severity,
            confidence_ratio=0.8,
            since_s=now_s,
            evidence=(evidence, Evidence("kv_usage_ratio", trend.kv_usage_ratio, None, "")),
            message=message,
            mend=mend,
        )
        yield Suspicion(finding, HOLD_S)


def _preemptions(trend: Trend, limits: Limits) -> Iterator[_Fault]:
    if trend.preemptions < _LEAST or trend.preemptions < PREEMPTED_RATIO * trend.finished:
        return
    per_request = trend.preemptions / max(trend.finished, 1.0)
    tokens = limits.num_blocks * limits.block_size
    fits = min(int(tokens / _longest_context(trend)), limits.max_num_seqs - 1)
    yield (
        "Preemptions",
        Severity.WARNING,
        Evidence("preemptions_per_request", per_request, PREEMPTED_RATIO, ""),
        f"the KV cache is too small for the batch: {per_request:.2f} preemptions per request",
        f"set max_num_seqs to {max(fits, 1)} or give the KV cache more memory",
    )


def _longest_context(trend: Trend) -> float:
    """KV tokens of a request at its end, or what one holds on average."""
    whole = (trend.mean_input_tokens or 0.0) + (trend.mean_output_tokens or 0.0)
    return max(whole, trend.context_tokens or 0.0, 1.0)


def _rejected(trend: Trend) -> Iterator[_Fault]:
    asked = trend.finished + trend.rejected
    if trend.rejected < _LEAST or trend.rejected < REJECTED_RATIO * asked:
        return
    yield (
        "RejectedLengths",
        Severity.WARNING,
        Evidence("rejected_ratio", trend.rejected / asked, REJECTED_RATIO, ""),
        f"{trend.rejected / asked:.1%} of requests are longer than the context allows",
        "raise max_model_len",
    )


def _queues(trend: Trend, expected: Expectation) -> Iterator[_Fault]:
    """A queue while the KV cache has room."""
    limits = expected.limits
    if trend.waiting < 1 or trend.kv_usage_ratio > SPARE_KV or trend.finished < _LEAST:
        return
    if trend.running >= 0.9 * limits.max_num_seqs:
        more = _larger_batch(trend, expected)
        if more is not None:
            yield (
                "MaxNumSeqsBound",
                Severity.WARNING,
                Evidence("running", trend.running, float(limits.max_num_seqs), "requests"),
                f"{trend.waiting:.1f} requests wait at each replica, the batch is full "
                f"and {1 - trend.kv_usage_ratio:.0%} of the KV cache is free",
                f"raise max_num_seqs from {limits.max_num_seqs} to {more}",
            )
    elif trend.running < 0.8 * limits.max_num_seqs:
        more = _larger_budget(trend, expected)
        if more is not None:
            yield (
                "QueueWithSpareKv",
                Severity.WARNING,
                Evidence("waiting", trend.waiting, 0.0, "requests"),
                f"{trend.waiting:.1f} requests wait at each replica though batch and KV cache "
                "have room: prompts wait for tokens of a step",
                f"raise max_num_batched_tokens from {limits.max_num_batched_tokens} to {more}",
            )


def _larger_batch(trend: Trend, expected: Expectation) -> int | None:
    """A batch that the cache holds, that keeps the ITL bound and that pays; None: there is none."""
    now = expected.limits.max_num_seqs
    fits = int(now * 0.9 / max(trend.kv_usage_ratio, 0.05))
    context = trend.context_tokens or expected.mean_input_tokens
    before_s = _decode_s(expected, now, context)
    while fits > now:
        lasts_s = _decode_s(expected, fits, context)
        pays = (fits / lasts_s) / (now / before_s) >= _PAYS
        if pays and lasts_s <= (expected.slo.itl_s or lasts_s):
            return fits
        fits = (fits + now) // 2 if fits > now + 1 else now
    return None


def _larger_budget(trend: Trend, expected: Expectation) -> int | None:
    """A token budget that lets prompts through faster within the ITL bound."""
    now = expected.limits.max_num_batched_tokens
    before_s = _prefill_s(expected, now, trend)
    for budget in (4 * now, 2 * now):
        lasts_s = _prefill_s(expected, budget, trend)
        pays = (budget / lasts_s) / (now / before_s) >= _PAYS
        if pays and lasts_s <= (expected.slo.itl_s or lasts_s):
            return budget
    return None


def _decode_s(expected: Expectation, batch: int, context: float) -> float:
    seen = min(context, expected.cost.window_tokens)
    return float(
        step_s(expected.cost, Shape(batch, batch, 0, 0.0, 0.0, batch * context, batch * seen))
    )


def _prefill_s(expected: Expectation, budget: int, trend: Trend) -> float:
    """A step full of prompts, beside the batch there is."""
    batch, context = round(trend.running), trend.context_tokens or 0.0
    prompt = max(trend.mean_input_tokens or expected.mean_input_tokens, 1.0)
    prompts = max(1, round(budget / prompt))
    pairs = budget * min(prompt, budget) / 2
    shape = Shape(
        budget, batch + prompts, prompts, pairs, pairs, batch * context, batch * context,
        float(budget), int(min(prompt, budget)),
    )  # fmt: skip
    return float(step_s(expected.cost, shape))


def _idle_memory(
    trend: Trend, admitted: int, expected: Expectation, now_s: float
) -> Iterator[_Fault]:
    """Cache that even full load would leave unused."""
    full_rps = admitted * expected.capacity_rps
    if now_s - trend.began_s < PEAK_S or not full_rps > 0 or not trend.kv_peak.value > 0:
        return
    load = trend.demand_peak.value / full_rps
    if load < 0.3:  # too far to reckon from
        return
    needed = trend.kv_peak.value / min(load, 1.0)
    if needed >= IDLE_KV:
        return
    tokens = expected.limits.num_blocks * expected.limits.block_size
    yield (
        "IdleMemory",
        Severity.INFO,
        Evidence("kv_peak_ratio", trend.kv_peak.value, IDLE_KV, ""),
        f"full load would use {needed:.0%} of the KV cache of {tokens} tokens",
        f"give the KV cache {int(1.5 * needed * tokens)} tokens (gpu_memory_utilization) and "
        "share the GPU, or serve on a smaller one",
    )
