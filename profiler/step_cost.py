"""What one engine step costs, in seconds, as a handful of constants.

The twin, the emulator and the search all price a step with `step_s`. The constants come
from `analytical` (GPU catalogue and architecture) or from an `EngineProfile`; the formula:

    dense     = max(tokens · token_compute_s, weights read) with
                weights read = weights_s + expert_weights_s · (1 − expert_miss_ratio^tokens)
    prefill   = prefill_pair_s · Σ a(k + a/2), attention of chunks
    decode    = kv_token_s · Σ context, attention of decodes; × mixed_kv_ratio in a step
                that prefills too, where both fight over bandwidth
    step      = step_overhead_s + sequence_s · sequences + token_link_s · tokens
                + dense + prefill + decode

Sliding-window layers have constants of their own over windowed contexts. All constants are
non-negative; the step time never falls when a step grows (held by a property test).
"""

from typing import NamedTuple

from numba import njit

from profiler.scheduler import Shape

NO_WINDOW = 1 << 40
"""`window_tokens` of a model without sliding windows: longer than any context."""


class StepCost(NamedTuple):
    """Constants of the step-cost formula; seconds per unit, ratios, tokens."""

    step_overhead_s: float
    """Launching, scheduling, sampling set-up and message latency of any step."""
    sequence_s: float
    """Per sequence in the step: sampling, detokenising."""
    token_compute_s: float
    """Dense FLOPs of one token, where compute binds."""
    weights_s: float
    """Reading the weights that every step needs, where bandwidth binds."""
    expert_weights_s: float
    """Reading all routed experts; 0 for a dense model."""
    expert_miss_ratio: float
    """Share of the routed experts that one token does not touch."""
    token_link_s: float
    """Messages between GPUs, per token."""
    prefill_pair_s: float
    """Attention per (new token × token it sees), full-attention layers."""
    prefill_window_pair_s: float
    """The same for sliding-window layers."""
    kv_token_s: float
    """Reading one token's KV in decode, full-attention layers."""
    kv_window_token_s: float
    """The same for sliding-window layers."""
    mixed_kv_ratio: float
    """How much dearer decode attention is in a step that also prefills, ≥ 1."""
    window_tokens: int
    """What sliding-window layers see."""
    request_s: float
    """API time of a request before the scheduler sees it."""


@njit(cache=True)
def step_s(cost: StepCost, shape: Shape) -> float:
    """Duration of one step of the given `Shape` (a kernel: no validation)."""
    weights = cost.weights_s
    if cost.expert_weights_s > 0.0:
        weights += cost.expert_weights_s * (1.0 - cost.expert_miss_ratio**shape.tokens)
    dense = max(shape.tokens * cost.token_compute_s, weights)
    prefill = (
        cost.prefill_pair_s * shape.prefill_token_pairs
        + cost.prefill_window_pair_s * shape.prefill_window_token_pairs
    )
    decode = cost.kv_token_s * shape.kv_tokens + cost.kv_window_token_s * shape.kv_window_tokens
    if shape.prefill_sequences > 0:
        decode *= cost.mixed_kv_ratio
    fixed = cost.step_overhead_s + cost.sequence_s * shape.sequences
    return fixed + cost.token_link_s * shape.tokens + dense + prefill + decode
