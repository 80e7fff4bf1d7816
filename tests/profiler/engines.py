"""Engines and requests to try them with: costs, limits and traces that hypothesis draws."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from profiler.scheduler import Limits
from profiler.step_cost import NO_WINDOW, StepCost, roofline_curve
from profiler.trace import Hashes, Trace

COST = StepCost(
    step_overhead_s=1e-3,
    sequence_s=1e-5,
    dense_s=roofline_curve(2e-5, 5e-3),
    token_link_s=0.0,
    prefill_pair_s=1e-9,
    prefill_window_pair_s=0.0,
    kv_token_s=5e-8,
    kv_window_token_s=0.0,
    mixed_kv_ratio=1.5,
    window_tokens=NO_WINDOW,
    request_s=0.0,
    prefill_kv_s=2e-8,
    mixed_sequence_s=3e-6,
    padded_query_s=1e-9,
)

LONGEST = 340
"""Tokens of the longest request that `traces` draws."""

VARIANTS: dict[str, dict[str, Any]] = {
    "vLLM": {},
    "priorities": {"priority_scheduling": 1},
    "whole prompts": {"chunked_prefill": 0, "max_num_batched_tokens": LONGEST},
    "short chunks": {"long_prefill_token_threshold": 24},
    "async": {"async_scheduling": 1, "overlap_ratio": 0.7},
    "async with priorities": {"async_scheduling": 1, "priority_scheduling": 1},
    "pipeline": {"pipeline_depth": 3},
    "async pipeline": {"pipeline_depth": 2, "async_scheduling": 1},
    "SGLang": {"prefill_first": 1},
    "SGLang, bold": {"prefill_first": 1, "schedule_conservativeness": 0.1},
    "SGLang, whole prompts": {"prefill_first": 1, "chunked_prefill": 0},
    "SGLang, async": {"prefill_first": 1, "async_scheduling": 1},
}


@st.composite
def limits(draw: st.DrawFn, /, **fixed: Any) -> Limits:
    """Little memory, few places, small budgets."""
    block_size = draw(st.sampled_from([4, 16]))
    drawn = {
        "max_num_seqs": draw(st.integers(1, 8)),
        "max_num_batched_tokens": draw(st.integers(16, 256)),
        "num_blocks": draw(st.integers(LONGEST + 2 * block_size, 960)) // block_size,
        "block_size": block_size,
        "prefix_caching": draw(st.sampled_from([1, 1, 1, 0])),
    }
    return Limits(**{**drawn, **fixed})


@st.composite
def traces(draw: st.DrawFn, *, hashed: bool | None = None) -> Trace:
    """Up to 40 requests, from sparse to far too many; with hashes, some begin alike."""
    n = draw(st.integers(1, 40))
    gap_s = draw(st.sampled_from([0.0, 0.002, 0.01, 0.1]))
    longest = draw(st.sampled_from([20, 100, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    prompts = rng.integers(1, longest + 1, n)
    hashed = draw(st.booleans()) if hashed is None else hashed
    return Trace.of(
        np.cumsum(rng.exponential(1.0, n) * gap_s * rng.integers(0, 2, n)),
        prompts,
        rng.integers(0, LONGEST - longest + 1, n) if longest < 300 else rng.integers(0, 41, n),
        rng.integers(0, prompts + 1),
        priority=rng.integers(0, 3, n),
        hashes=families(rng, prompts) if hashed else None,
    )


def families(rng: np.random.Generator, prompts: NDArray[np.int64]) -> Hashes:
    """Prompts of three families have a beginning in common, of any length."""
    size = int(rng.choice([4, 8, 16, 32]))
    ids = []
    for number, prompt in enumerate(prompts):
        blocks = max(-(-int(prompt) // size) - int(rng.integers(0, 2)), 0)
        alike, family = int(rng.integers(0, blocks + 1)), int(rng.integers(0, 3))
        own = [10_000 + 100 * number + j for j in range(alike, blocks)]
        ids.append([1000 * family + j for j in range(alike)] + own)
    return Hashes.of(ids, size)


def steady(n: int = 50, gap_s: float = 0.05, prompt: int = 200, output: int = 50) -> Trace:
    """The same request again and again."""
    return Trace.of(np.arange(n) * gap_s, np.full(n, prompt), np.full(n, output))
