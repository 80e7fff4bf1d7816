"""The least an engine must do for each request, and by when it counts.

A step's time is bounded from below by a sum over its tokens, so that whoever serves a request
within its objective spends at least that much of a replica on it, whatever else is in the
batch. The argument is in `docs/replay.md`; read by `bound`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.replay.served import Served, slowed
from controller.replay.terms import Terms
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.step_cost import GRID_TOKENS, StepCost, dense_at_s
from profiler.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PLACES = 64


class Work(NamedTuple):
    """[requests] each, in the trace's order; those that came while the service existed."""

    prefill_s: Floats
    """Least replica seconds for the prompt."""
    decode_s: Floats
    """And for the tokens after the first."""
    from_s: Floats
    """When the scheduler sees it first."""
    first_by_s: Floats
    """Its first token counts until then; infinite where nothing bounds it."""
    last_by_s: Floats


class Share(NamedTuple):
    """What of a step's fixed part and dense work falls to its tokens, at least; seconds."""

    token_s: float
    """To each new token."""
    decode_s: float
    """To each decoding sequence besides."""
    kv_token_s: float
    """To each token of context that is decoded from, besides."""


class Tokens(NamedTuple):
    """[requests] each."""

    new: Ints
    """Prompt tokens to compute when all that was seen before is cached."""
    cached: Ints
    prompt: Ints
    decoded: Ints
    """Tokens after the first."""


def least_work(trace: Trace, served: Served, terms: Terms) -> Work:
    """Bound the work of each request of a trace."""
    cost, limits = _fastest(served.cost, terms), served.limits
    alive = (trace.arrival_s >= terms.appears_s) & (trace.arrival_s < terms.vanishes_s)
    tokens = Tokens(*(each[alive] for each in _tokens(trace, limits)))
    share = _share(cost, limits, tokens, shared_blocks=trace.hashes is not None)
    stages = limits.pipeline_depth
    from_s = trace.arrival_s[alive] + cost.request_s
    first_by_s, last_by_s = _deadlines(trace.arrival_s[alive], tokens, served.slo)
    return Work(
        prefill_s=_prefill_s(cost, tokens, share) / stages,
        decode_s=_decode_s(cost, tokens, share) / stages,
        from_s=from_s,
        first_by_s=first_by_s,
        last_by_s=last_by_s,
    )


def _fastest(cost: StepCost, terms: Terms) -> StepCost:
    """The cost of the fastest replica there can be: faults may speed one up, too."""
    factor = min([1.0, *(slow.factor for slow in terms.faults.slow_replicas)])
    return slowed(cost, factor)


def _tokens(trace: Trace, limits: Limits) -> Tokens:
    cached = _cached(trace) if limits.prefix_caching else np.zeros(len(trace), np.int64)
    cached = np.minimum(cached, trace.input_tokens - 1)
    decoded = np.maximum(trace.output_tokens, 1) - 1
    return Tokens(trace.input_tokens - cached, cached, trace.input_tokens, decoded)


def _cached(trace: Trace) -> Ints:
    """Prompt tokens that came before in the trace, whichever replica saw them."""
    if trace.hashes is None:
        return trace.prefix_tokens
    hashes, seen = trace.hashes, set[int]()
    found = np.zeros(len(trace), np.int64)
    for row in range(len(trace)):
        ids = hashes.ids[hashes.offsets[row] : hashes.offsets[row + 1]].tolist()
        known = next((i for i, each in enumerate(ids) if each not in seen), len(ids))
        found[row] = known * hashes.block_tokens
        seen.update(ids)
    return found


def _deadlines(came_s: Floats, tokens: Tokens, slo: Slo) -> tuple[Floats, Floats]:
    e2e_by_s = came_s + (np.inf if slo.e2e_s is None else slo.e2e_s)
    first_by_s = np.minimum(came_s + (np.inf if slo.ttft_s is None else slo.ttft_s), e2e_by_s)
    with np.errstate(invalid="ignore"):
        answer_s = np.inf if slo.itl_s is None else slo.itl_s * tokens.decoded
        last_by_s = np.minimum(first_by_s + answer_s, e2e_by_s)
    return first_by_s, np.where(tokens.decoded > 0, last_by_s, first_by_s)


def _prefill_s(cost: StepCost, tokens: Tokens, share: Share) -> Floats:
    """Σ over chunks of what only this prompt's tokens cost, at the cheapest cut into chunks."""
    pair_s = min(cost.prefill_pair_s, cost.kv_token_s)  # a chunk of one token counts as decode
    window_pair_s = min(cost.prefill_window_pair_s, cost.kv_window_token_s)
    read_s = min(cost.prefill_kv_s, cost.kv_token_s - pair_s)
    begin, end = tokens.cached.astype(np.float64), tokens.prompt.astype(np.float64)
    window = float(cost.window_tokens)
    return np.asarray(
        cost.sequence_s
        + (share.token_s + cost.token_link_s) * tokens.new
        + pair_s * (end**2 - begin**2) / 2
        + window_pair_s * (_integral(end, window) - _integral(begin, window))
        + read_s * end
    )


def _integral(x: Floats, window: float) -> Floats:
    """∫ min(u, window) du from 0 to x."""
    inside = np.minimum(x, window)
    return np.asarray(inside**2 / 2 + np.maximum(x - window, 0.0) * min(window, 1e12))


def _decode_s(cost: StepCost, tokens: Tokens, share: Share) -> Floats:
    n, mixed = tokens.decoded.astype(np.float64), min(cost.mixed_kv_ratio, 1.0)
    context = _contexts(tokens)
    window = float(cost.window_tokens)
    # each context is at least what the integral up to it began with
    begin = tokens.prompt.astype(np.float64)
    seen = _integral(begin + n, window) - _integral(begin, window)
    per_token_s = share.token_s + share.decode_s + cost.token_link_s + cost.sequence_s
    return np.asarray(
        per_token_s * n
        + (mixed * cost.kv_token_s + share.kv_token_s) * context
        + mixed * cost.kv_window_token_s * seen
    )


def _contexts(tokens: Tokens) -> Floats:
    """Σ of the contexts that the tokens after the first are decoded from."""
    n = tokens.decoded.astype(np.float64)
    return np.asarray(n * tokens.prompt + n * (n + 1) / 2)


def _share(cost: StepCost, limits: Limits, tokens: Tokens, *, shared_blocks: bool) -> Share:
    """The shares that make this trace's work largest: each is a bound, so is the best.

    With T tokens and D ≤ min(T, max_num_seqs) decodes over K ≤ cache tokens of context,
    fixed + dense(T) ≥ token·T + decode·D + kv·K: checked where the left side has its corners.
    """
    budget, seqs = float(limits.max_num_batched_tokens), float(limits.max_num_seqs)
    corners = np.array([t for t in (*GRID_TOKENS, seqs, budget) if t <= budget])
    hidden = limits.overlap_ratio if limits.async_scheduling else 0.0
    fixed_s = cost.step_overhead_s * (1.0 - min(hidden, 1.0))
    step_s = np.array([fixed_s + dense_at_s(cost, t) for t in corners])
    capacity = float(limits.num_blocks * limits.block_size)
    contexts, decoded = float(_contexts(tokens).sum()), float(tokens.decoded.sum())
    every = float(tokens.new.sum()) + decoded
    best, found = -1.0, Share(0.0, 0.0, 0.0)
    kv_places = (0.0,) if shared_blocks else np.linspace(0.0, float(step_s.min()), _PLACES)
    for kv_s in kv_places:
        left_s = step_s - kv_s
        for token_s in np.linspace(0.0, max(float((left_s / corners).min()), 0.0), _PLACES):
            spare_s = (left_s - token_s * corners) / np.minimum(corners, seqs)
            decode_s = max(float(spare_s.min()), 0.0)
            total = token_s * every + decode_s * decoded + kv_s / capacity * contexts
            if total > best:
                best, found = total, Share(float(token_s), decode_s, float(kv_s) / capacity)
    return found
