"""Where a GPU's memory goes, and how many tokens its KV cache holds.

    KV cache = utilisation · total − weights − activation peak − non-torch

The priors meet seven of eight published vLLM V1 start-up reports on an H100 (0.9 of
79.18 GiB) within 0.01 GiB: activation peak 4.8 GiB for Llama-like dense models up to 5.6
(it grows with the vocabulary: the logits of a profiling batch), 7.4 with experts, 2.1
multimodal; non-torch 0.13 GiB on one GPU, 0.55 where GPUs communicate.
"""

import math
from dataclasses import dataclass

from profiler.architecture import Architecture
from profiler.configuration import Configuration
from profiler.errors import DoesNotFit
from profiler.hardware import GIB, Gpu
from profiler.layout import ONE_GPU, Layout
from profiler.operators import KvDtype

_ACTIVATION_DENSE_GIB = 4.8
_ACTIVATION_LARGE_VOCABULARY_GIB = 5.6
_ACTIVATION_EXPERTS_GIB = 7.4
_ACTIVATION_MULTIMODAL_GIB = 2.1
_LARGE_VOCABULARY = 150_000
_NON_TORCH_ALONE_GIB = 0.13
_NON_TORCH_JOINED_GIB = 0.55
_PROFILED_BATCHED_TOKENS = 8192
"""Batch of the reports above; the peak is proportional to the batch profiled."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What a replica needs on each of its GPUs, bytes."""

    total_bytes: float
    """What the card has."""
    weights_bytes: float
    activation_bytes_per_batched_token: float
    non_torch_bytes: float
    kv_bytes_per_token: float

    def kv_bytes(self, configuration: Configuration) -> float:
        """What is left for the KV cache; negative when the rest does not fit."""
        activation = self.activation_bytes(configuration)
        budget = configuration.gpu_memory_utilization * self.total_bytes
        return budget - self.weights_bytes - activation - self.non_torch_bytes

    def activation_bytes(self, configuration: Configuration) -> float:
        """Peak of the largest step."""
        return self.activation_bytes_per_batched_token * configuration.max_num_batched_tokens

    def kv_blocks(self, configuration: Configuration) -> int:
        """Blocks of the KV cache; 0 when nothing fits."""
        per_block = self.kv_bytes_per_token * configuration.block_size
        return max(int(self.kv_bytes(configuration) // per_block), 0)


def predict_memory(
    architecture: Architecture,
    gpu: Gpu,
    layout: Layout = ONE_GPU,
    kv_dtype: KvDtype = KvDtype.AUTO,
) -> EngineMemory:
    """Predict what the fullest GPU of a replica holds: of a pipeline, its largest stage."""
    stage_share = math.ceil(architecture.layers / layout.pipeline) / architecture.layers
    kv_layers = (architecture.layers - architecture.linear_layers) * stage_share
    kv_elements = architecture.kv_elements_per_token_and_gpu(layout.tensor)
    alone = layout.gpus == 1
    experts = architecture.expert_bytes / layout.expert_gpus
    rest = (architecture.weight_bytes - architecture.expert_bytes) / layout.tensor
    return EngineMemory(
        total_bytes=gpu.memory_bytes,
        weights_bytes=(experts + rest) * stage_share,
        activation_bytes_per_batched_token=_activation_gib(architecture)
        * GIB
        / _PROFILED_BATCHED_TOKENS,
        non_torch_bytes=(_NON_TORCH_ALONE_GIB if alone else _NON_TORCH_JOINED_GIB) * GIB,
        kv_bytes_per_token=kv_elements * kv_dtype.bytes * kv_layers,
    )


def _activation_gib(architecture: Architecture) -> float:
    if architecture.experts is not None:
        return _ACTIVATION_EXPERTS_GIB
    if architecture.multimodal:
        return _ACTIVATION_MULTIMODAL_GIB
    if architecture.vocab_size >= _LARGE_VOCABULARY:
        return _ACTIVATION_LARGE_VOCABULARY_GIB
    return _ACTIVATION_DENSE_GIB


def check_fit(
    what: str, memory: EngineMemory, configuration: Configuration, longest_tokens: int
) -> int:
    """Blocks of the KV cache; raises `DoesNotFit`, saying what takes the room.

    As vLLM does, refuses a cache that cannot hold one sequence of `longest_tokens`.
    """
    blocks = memory.kv_blocks(configuration)
    capacity = blocks * configuration.block_size
    if capacity >= longest_tokens:
        return blocks
    budget = configuration.gpu_memory_utilization * memory.total_bytes
    parts = (
        f"{what} does not fit: of {budget / GIB:.1f} GiB a GPU, weights take "
        f"{memory.weights_bytes / GIB:.1f}, activations "
        f"{memory.activation_bytes(configuration) / GIB:.1f}, the rest "
        f"{memory.non_torch_bytes / GIB:.2f}"
    )
    if capacity == 0:
        raise DoesNotFit(f"{parts}; raise tensor_parallel_size or take a larger GPU")
    raise DoesNotFit(
        f"{parts}; the KV cache left holds {capacity} tokens, less than max_model_len "
        f"{longest_tokens}: set max_model_len to {capacity} or less, or raise "
        "tensor_parallel_size"
    )
