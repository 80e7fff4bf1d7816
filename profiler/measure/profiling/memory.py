"""The memory of a profile, made to agree with the KV cache that the engine reports."""

from dataclasses import replace

from profiler.architecture import Architecture
from profiler.measure.profiling.phases import CacheFacts
from profiler.memory import EngineMemory

_UTILIZATION = 0.9
"""vLLM's default, where the engine does not say."""
_KV_BYTES_PER_TOKEN = 131_072.0
"""That of an 8 B model with grouped-query attention, where nothing is known."""


def measured_memory(
    prior: EngineMemory, cache: CacheFacts, batched_tokens: int
) -> tuple[EngineMemory, tuple[str, ...]]:
    """Set what lies outside the framework so that the KV cache is the engine's, and notes.

    A number of blocks that was overridden for a test says nothing about memory: the prior
    stays.
    """
    if cache.capacity_tokens is None:
        return prior, ("KV capacity: not published; memory is the prior's",)
    if cache.blocks_overridden:
        return prior, ("KV capacity: num_gpu_blocks_override is set; memory is the prior's",)
    utilization = cache.gpu_memory_utilization or _UTILIZATION
    free = utilization * prior.total_bytes - prior.weights_bytes
    kv = cache.capacity_tokens * prior.kv_bytes_per_token
    prior = replace(prior, sampling_bytes_per_sequence=0.0, hidden_bytes_per_batched_token=0.0)
    activation = prior.activation_bytes_per_batched_token * batched_tokens
    rest = free - kv - activation
    if rest >= 0:
        return replace(prior, non_torch_bytes=rest), ()
    if free >= kv:  # the engine's activations are smaller than the prior's
        per_token = (free - kv) / batched_tokens
        return replace(prior, activation_bytes_per_batched_token=per_token, non_torch_bytes=0.0), ()
    return replace(
        prior,
        weights_bytes=max(prior.weights_bytes + free - kv, 0.0),
        activation_bytes_per_batched_token=0.0,
        non_torch_bytes=0.0,
    ), ("KV capacity: larger than weights allow; weights were lowered to agree with it",)


def generic_memory(architecture: Architecture | None, cache: CacheFacts) -> EngineMemory:
    """Memory of an engine on a card that no catalogue knows: what its own report implies."""
    capacity = cache.capacity_tokens or 0
    kv = _KV_BYTES_PER_TOKEN
    weights = 0.0
    if architecture is not None:
        layers = architecture.layers - architecture.linear_layers
        kv = 2.0 * architecture.kv_elements_per_token() * layers
        weights = architecture.weight_bytes
    elif cache.cache_bytes is not None and capacity:
        kv = cache.cache_bytes / capacity
    utilization = cache.gpu_memory_utilization or _UTILIZATION
    # half a block more, so that rounding to bytes does not lose the last one
    held = (capacity + 0.5 * (cache.block_tokens or 16)) * kv
    return EngineMemory(
        total_bytes=max((weights + held) / utilization, 1.0),
        weights_bytes=weights,
        activation_bytes_per_batched_token=0.0,
        non_torch_bytes=0.0,
        kv_bytes_per_token=kv,
    )
