"""What a replica takes of a card's memory, awake and asleep, and how one card is shared out.

vLLM's budget, `gpu_memory_utilization` of the card, is counted from a first snapshot: the
CUDA context comes on top, and so do CUDA graphs where they are captured after the KV cache.
Two engines need two of each.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from profiler.hardware import GIB, Gpu
from profiler.scheduler import Limits
from recommender.sharing.tenant import Tenant

_CONTEXT_BYTES = 0.52 * GIB
"""An H100 has 79.18 GiB, of which the first vLLM process finds 78.66 free
(llm-d-fast-model-actuation#746)."""
_GRAPHS_BYTES = 1.0 * GIB
"""Reported: 0.52 GiB (Qwen3-8B on 24 GB, LMCache#3430) to 1.4 (Kimi-K2.6 TP8, vLLM#47654)."""
_ASLEEP_BYTES = 1.0 * GIB
"""Kernels loaded, workspaces and what PyTorch's allocator keeps. With the two above and
non-torch a sleeper holds 2.7 GiB; reported: 1.1 GB (30B TP4, vLLM 0.13, vLLM#32714), 1.3 GiB
(a model of 0.7 GiB on an H100, llm-d-fast-model-actuation#746), 4.3 GiB (llama-swap's guide),
6.8 GiB (Kimi-K2.6 TP8 on GB200, vLLM#47654)."""

PROCESS_BYTES = _CONTEXT_BYTES + _GRAPHS_BYTES
"""Outside the budget of a running engine."""
_GRAIN = 1000
"""A utilisation is given to three decimals."""


def base_bytes(tenant: Tenant) -> float:
    """Weights, activations and non-torch: what the budget must hold before any KV cache."""
    memory = tenant.profile.memory
    activation = memory.activation_bytes(tenant.configuration)
    return memory.weights_bytes + activation + memory.non_torch_bytes


def kv_bytes(tenant: Tenant, blocks: int = 0) -> float:
    """KV cache of so many blocks, and of the longest sequence at least."""
    memory, size = tenant.profile.memory, tenant.configuration.block_size
    longest = math.ceil(tenant.longest_tokens / size) * size
    one = memory.kv_bytes_per_sequence + longest * memory.kv_bytes_per_token
    full = replace(tenant.configuration, gpu_memory_utilization=1.0)
    held = memory.kv_blocks(full)
    per_block = memory.kv_bytes(full) / held if held > 0 else 0.0
    return max(one, blocks * per_block)


def awake_bytes(tenant: Tenant) -> float:
    """What its process holds of each GPU while it serves, as it is configured."""
    budget = tenant.configuration.gpu_memory_utilization * tenant.profile.memory.total_bytes
    return budget + PROCESS_BYTES


def asleep_bytes(tenant: Tenant) -> float:
    """What stays on each GPU in vLLM's sleep mode: context, graphs, communicators, leftovers.

    Level 1 offloads the weights and drops the KV cache, and nothing else (vLLM, "Sleep Mode").
    """
    return PROCESS_BYTES + _ASLEEP_BYTES + tenant.profile.memory.non_torch_bytes


def split(
    tenants: Sequence[Tenant], needs_bytes: Sequence[float], gpu: Gpu
) -> tuple[float, ...] | None:
    """Utilisation of each, all of the card given away; None when it does not suffice.

    needs_bytes: KV cache that each needs; what is to spare goes to them in proportion.
    """
    totals = [t.profile.memory.total_bytes for t in tenants]
    least = [
        math.ceil(_GRAIN * (base_bytes(t) + need) / total) / _GRAIN
        for t, need, total in zip(tenants, needs_bytes, totals, strict=True)
    ]
    taken = math.fsum(share * total for share, total in zip(least, totals, strict=True))
    spare = gpu.memory_bytes - len(tenants) * PROCESS_BYTES - taken
    if spare < 0:
        return None
    needed = math.fsum(needs_bytes)
    return tuple(
        min(share + math.floor(_GRAIN * spare * need / needed / total) / _GRAIN, 1.0)
        for share, need, total in zip(least, needs_bytes, totals, strict=True)
    )


def limits_at(tenant: Tenant, utilization: float) -> Limits:
    """What bounds the scheduler with that share of the card; raises `DoesNotFit`."""
    configuration = replace(tenant.configuration, gpu_memory_utilization=utilization)
    return tenant.profile.limits(configuration)
