"""What a replica carries in closed form: to rank candidates and to begin a search, no more.

The steady state of a rate: a step takes as long as the requests that it serves make it, and
they are as many as arrive while their answers last (Little's law). On top of the means:

- prompts wait for those before them as in an M/G/1 queue whose service is a prompt's share of a
  full step (Pollaczek and Khinchine; gaps of another dispersion by Kingman's
  factor), and a share of the prompts is too long for the TTFT whatever they wait;
- the batch of a request fluctuates with the number of requests in flight, and its steps with
  the prompts that come in between.

Within a fifth of the twin as a rule, worse near an objective that cannot be met; whatever is
recommended has been through the twin itself.
"""

from typing import NamedTuple, Self

import numpy as np
from numba import njit
from scipy.special import ndtri

from profiler.scheduler import Limits, Shape
from profiler.slo import Slo
from profiler.step_cost import StepCost, step_s
from recommender.workload import Workload

_ROUNDS = 60
_KV_IN_USE = 0.97
"""Blocks are held whole, and some are about to be freed."""
_WEIGHTS = (*(0.1,) * 8, *(0.05,) * 3, *(0.02,) * 2, 0.01)
"""Shares of the prompts that one length stands for: finer where percentiles are asked of."""


class Moments(NamedTuple):
    """A workload's means, as the steady state needs them; tokens per request."""

    cv: float
    prefill: float
    """Prompt tokens to compute, prefix hits left out."""
    prefill_squared: float
    """Mean of their squares."""
    pairs: float
    """Token pairs of a prompt's attention."""
    window_pairs: float
    decodes: float
    """Steps in which a request decodes."""
    context: float
    """Tokens in the cache of a decoding request."""
    window_context: float
    prompts: tuple[float, ...]
    """Tokens to compute of prompts from short to long, `_WEIGHTS` of all each."""
    long_decodes: float
    """Steps of an answer at the objective's percentile."""
    percentile: float
    deviations: float
    """The percentile in standard deviations."""

    @classmethod
    def of(cls, workload: Workload, slo: Slo, window_tokens: int) -> Self:
        """Take the means over the workload's pairs of lengths."""
        prompts = workload.input_tokens.astype(np.float64)
        hits = np.minimum(workload.hit_ratio * prompts, prompts - 1)
        new, steps = prompts - hits, np.maximum(workload.output_tokens - 1.0, 0.0)
        mean_seen = hits + new / 2
        total = max(float(steps.sum()), 1.0)
        context = prompts + steps / 2
        places = np.cumsum(_WEIGHTS) - np.array(_WEIGHTS) / 2
        return cls(
            cv=workload.cv,
            prefill=float(new.mean()),
            prefill_squared=float((new * new).mean()),
            pairs=float((new * mean_seen).mean()),
            window_pairs=float((new * np.minimum(mean_seen, window_tokens)).mean()),
            decodes=float(steps.mean()),
            context=float((steps * context).sum()) / total,
            window_context=float((steps * np.minimum(context, window_tokens)).sum()) / total,
            prompts=tuple(np.quantile(new, places).tolist()),
            long_decodes=float(np.quantile(steps, slo.percentile)),
            percentile=slo.percentile,
            deviations=float(ndtri(slo.percentile)),
        )


class Objective(NamedTuple):
    """Bounds in seconds; infinite where there is none."""

    ttft_s: float
    itl_s: float
    e2e_s: float

    @classmethod
    def of(cls, slo: Slo) -> Self:
        """Take an SLO's bounds."""
        return cls(*(np.inf if b is None else b for b in (slo.ttft_s, slo.itl_s, slo.e2e_s)))


class Steady(NamedTuple):
    """One scheduler's steps at one rate; `step_s` is infinite where the rate is too high.

    With pipeline stages, one of the series of steps that are under way at once.
    """

    rate_rps: float
    """Of the requests in this series of steps."""
    step_s: float
    """Mean duration of a step."""
    decoding: float
    """Sequences that decode in it."""
    busy: float
    """Share of the steps that prefill too."""
    chunk: float
    """Prompt tokens of such a step."""
    prompts: float
    """Prompts in it."""
    mixed_s: float
    """Its duration."""
    plain_s: float
    """Duration of a step that only decodes."""
    room: float
    """Sequences that there is place for."""


@njit(cache=True, nogil=True)
def _shape(w: Moments, decoding: float, prefill: float, prompts: float) -> Shape:
    """One step of so many decodes, prompt tokens and prompts; means, so no whole numbers."""
    share = prefill / max(w.prefill, 1.0)
    return Shape(
        prefill + decoding,  # type: ignore[arg-type]
        decoding + prompts,  # type: ignore[arg-type]
        prompts,  # type: ignore[arg-type]
        w.pairs * share,
        w.window_pairs * share,
        decoding * w.context,
        decoding * w.window_context,
        prefill,
        prefill / max(prompts, 1.0),  # type: ignore[arg-type]
    )


@njit(cache=True, nogil=True)
def steady(cost: StepCost, limits: Limits, w: Moments, rate_rps: float) -> Steady:
    """Find the steady state of a rate (a kernel)."""
    budget = float(limits.max_num_batched_tokens)
    kv_tokens = float(limits.num_blocks * limits.block_size)
    room = min(float(limits.max_num_seqs), _KV_IN_USE * kv_tokens / (w.context + limits.block_size))
    # with pipeline stages as many steps are under way, each with its part of the requests
    rate_rps, room = rate_rps / limits.pipeline_depth, room / limits.pipeline_depth
    plain_s = step_s(cost, _shape(w, 1.0, 0.0, 0.0))
    mean_s = plain_s  # from below, to the least that is steady
    mixed_s, busy, chunk, prompts, decoding = 0.0, 0.0, 0.0, 1.0, 0.0
    for _ in range(_ROUNDS):
        decoding, wanted = rate_rps * w.decodes * mean_s, rate_rps * w.prefill * mean_s
        if decoding > room or wanted > budget:
            mean_s = np.inf
            break
        arriving = rate_rps * mean_s
        busy = 1.0 - np.exp(-arriving * max(w.prefill / budget, 1.0))
        chunk = min(wanted / busy, budget)
        prompts = max(arriving / busy, chunk / max(w.prefill, 1.0))
        mixed_s = step_s(cost, _shape(w, decoding, chunk, prompts))
        plain_s = step_s(cost, _shape(w, max(decoding, 1.0), 0.0, 0.0))
        # a long step holds up those behind it in every stage
        held_up = 1.0 - (1.0 - busy) ** limits.pipeline_depth
        last_s, mean_s = mean_s, held_up * mixed_s + (1.0 - held_up) * plain_s
        if abs(mean_s - last_s) < 1e-3 * mean_s:
            break
    return Steady(rate_rps, mean_s, decoding, busy, chunk, prompts, mixed_s, plain_s, room)


@njit(cache=True, nogil=True)
def ttft_share(cost: StepCost, limits: Limits, w: Moments, at: Steady, bound_s: float) -> float:
    """Share of the requests whose first token comes within the bound (a kernel)."""
    budget = float(limits.max_num_batched_tokens)
    token_s = step_s(cost, _shape(w, at.decoding, budget, budget / max(w.prefill, 1.0))) / budget
    load = at.rate_rps * w.prefill * token_s
    if load >= 1.0:
        return 0.0
    kingman = (1.0 + w.cv * w.cv) / 2.0
    wait_s = kingman * token_s * w.prefill_squared / (2.0 * w.prefill * (1.0 - load))
    slots = at.decoding / at.room
    full_s = kingman * at.step_s * (w.decodes / at.room) * slots**8 / max(1.0 - slots, 1e-3)
    wait_s = max(wait_s + full_s, 1e-9)
    fixed_s = cost.request_s + 0.5 * at.step_s
    share = 0.0
    for i in range(len(_WEIGHTS)):
        # chunks follow each other through the stages
        more = max(w.prompts[i] / budget - 1.0, 0.0) / limits.pipeline_depth
        tokens = min(w.prompts[i], budget)
        own_s = (1.0 + more) * step_s(cost, _shape(w, at.decoding, tokens, 1.0))
        left_s = bound_s - fixed_s - own_s
        if left_s > 0.0:
            share += _WEIGHTS[i] * (1.0 - load * np.exp(-left_s / wait_s))
    return share


@njit(cache=True, nogil=True)
def itl_at_s(cost: StepCost, w: Moments, at: Steady) -> float:
    """Mean gap of a request at the objective's percentile (a kernel)."""
    crowd = min(at.decoding + w.deviations * w.cv * np.sqrt(at.decoding), at.room)
    mixed_s = step_s(cost, _shape(w, crowd, at.chunk, at.prompts))
    plain_s = step_s(cost, _shape(w, max(crowd, 1.0), 0.0, 0.0))
    mean_s = at.busy * mixed_s + (1.0 - at.busy) * plain_s
    token_s = (at.mixed_s - at.plain_s) / max(at.chunk, 1.0)
    variance = at.rate_rps * at.step_s * w.prefill_squared * (w.cv * token_s) ** 2
    return float(mean_s + w.deviations * np.sqrt(variance / max(w.decodes, 1.0)))


@njit(cache=True, nogil=True)
def attains(cost: StepCost, limits: Limits, w: Moments, bounds: Objective, at: Steady) -> bool:
    """Whether enough requests keep within the bounds (a kernel)."""
    if at.step_s == np.inf or itl_at_s(cost, w, at) > bounds.itl_s:
        return False
    if bounds.e2e_s < np.inf:
        left_s = bounds.e2e_s - w.long_decodes * at.step_s
        if ttft_share(cost, limits, w, at, left_s) < 0.5:
            return False
    if bounds.ttft_s == np.inf:
        return True
    return ttft_share(cost, limits, w, at, bounds.ttft_s) >= w.percentile


@njit(cache=True, nogil=True)
def carried_rps(cost: StepCost, limits: Limits, w: Moments, bounds: Objective) -> float:
    """Highest rate within the objective (a kernel), to 1 %; 0 where even 1e-4 is too high."""
    low, high = 1e-4, 1e-4
    if not attains(cost, limits, w, bounds, steady(cost, limits, w, low)):
        return 0.0
    while high < 1e6:
        high = low * 8.0
        if not attains(cost, limits, w, bounds, steady(cost, limits, w, high)):
            break
        low = high
    while high > 1.01 * low:
        middle = np.sqrt(low * high)
        if attains(cost, limits, w, bounds, steady(cost, limits, w, middle)):
            low = middle
        else:
            high = middle
    return low
