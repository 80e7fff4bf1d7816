"""Where a GPU's memory goes, and how many tokens its KV cache holds.

    KV cache   = utilisation · total − weights − activation peak − non-torch
    activation = max(forward · T, hidden · T + sampling · S)

with T = max_num_batched_tokens and S = max_num_seqs, as vLLM's profiling run has them: a
forward pass of T tokens, then a sampler over S rows of logits. The sampler's sort is what
peaks on every model of a few billion parameters: 38 bytes per logit (2 logits in BF16, 4 in
FP32, 4 + 8 sorted with their indices, and 4 + 8 + 8 inside the sort); 38.2 meets seven
published vLLM start-up reports on an H100 (T 8192, S 1024) within 0.01 GiB.

Weights are the checkpoint's with what the engine adds: rotary tables, and for MXFP4 experts
the padding of its kernels (`_mxfp4_expert_bytes`). CUDA graphs are captured after the KV
cache and come out of the share that `gpu_memory_utilization` leaves.
"""

import math
from dataclasses import dataclass

from profiler.architecture import Architecture
from profiler.configuration import Configuration
from profiler.errors import DoesNotFit
from profiler.hardware import GIB, Gpu
from profiler.layout import ONE_GPU, Layout
from profiler.operators import KvDtype
from profiler.quantisation import Precision

_SAMPLING_BYTES_PER_LOGIT = 38.2
_LEAN_SAMPLING_BYTES_PER_LOGIT = 16.0
"""Where no logits are sorted. The one multimodal report shows it (FlashInfer's sampler)."""
_HIDDEN_BYTES = 2.7
"""Per token and element of the hidden state while sampling: BF16, and some of a copy."""
_NON_TORCH_ALONE_GIB = 0.13
_NON_TORCH_JOINED_GIB = 0.55
"""CUDA context beyond the first snapshot; with NCCL and its buffers."""
_SHORT_SEQUENCE_TOKENS = 1024
"""Length over which a sequence's fixed part is spread where nobody says how long they are."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What a replica needs on each of its GPUs, bytes."""

    total_bytes: float
    """What the card has."""
    weights_bytes: float
    activation_bytes_per_batched_token: float
    """Peak of the forward pass, per token of the largest step."""
    non_torch_bytes: float
    kv_bytes_per_token: float
    """What grows with a sequence: full-attention layers."""
    sampling_bytes_per_sequence: float = 0.0
    """Sampler's peak per sequence of `max_num_seqs`."""
    hidden_bytes_per_batched_token: float = 0.0
    """Hidden states held while sampling, per token of the largest step."""
    kv_bytes_per_sequence: float = 0.0
    """What a sequence holds whatever its length: sliding windows, linear-attention state."""

    def kv_bytes(self, configuration: Configuration) -> float:
        """What is left for the KV cache; negative when the rest does not fit."""
        activation = self.activation_bytes(configuration)
        budget = configuration.gpu_memory_utilization * self.total_bytes
        return budget - self.weights_bytes - activation - self.non_torch_bytes

    def activation_bytes(self, configuration: Configuration) -> float:
        """Peak of the largest step: its forward pass or its sampler."""
        tokens = configuration.max_num_batched_tokens
        sampling = self.sampling_bytes_per_sequence * configuration.max_num_seqs
        return max(
            self.activation_bytes_per_batched_token * tokens,
            self.hidden_bytes_per_batched_token * tokens + sampling,
        )

    def longest_tokens(self, configuration: Configuration) -> int:
        """Tokens of the longest sequence that the empty cache holds; whole blocks."""
        left = self.kv_bytes(configuration) - self.kv_bytes_per_sequence
        block = configuration.block_size
        return max(int(left // (self.kv_bytes_per_token * block)), 0) * block

    def kv_blocks(
        self, configuration: Configuration, sequence_tokens: float = _SHORT_SEQUENCE_TOKENS
    ) -> int:
        """Blocks that sequences of so many tokens share; 0 when nothing fits.

        Exact where sequences hold nothing but what grows with them; elsewhere their fixed
        part is spread over their tokens.
        """
        per_token = self.kv_bytes_per_token + self.kv_bytes_per_sequence / sequence_tokens
        return max(int(self.kv_bytes(configuration) // (per_token * configuration.block_size)), 0)


def predict_memory(
    architecture: Architecture,
    gpu: Gpu,
    layout: Layout = ONE_GPU,
    kv_dtype: KvDtype = KvDtype.AUTO,
) -> EngineMemory:
    """Predict what the fullest GPU of a replica holds: of a pipeline, its largest stage."""
    a = architecture
    stage_share = math.ceil(a.layers / layout.pipeline) / a.layers
    layer_kv = a.kv_elements_per_token_and_gpu(layout.tensor) * kv_dtype.bytes * stage_share
    growing, windowed = a.full_attention_layers, a.window_layers
    if growing == 0:  # one kind of layer: the engine keeps one kind of block
        growing, windowed = windowed, 0
    state = a.state_bytes_per_sequence / layout.tensor * stage_share
    lean = a.multimodal
    per_logit = _LEAN_SAMPLING_BYTES_PER_LOGIT if lean else _SAMPLING_BYTES_PER_LOGIT
    return EngineMemory(
        total_bytes=gpu.memory_bytes,
        weights_bytes=_weights_bytes(a, gpu, layout, stage_share),
        activation_bytes_per_batched_token=_forward_bytes_per_token(a, layout),
        non_torch_bytes=(_NON_TORCH_ALONE_GIB if layout.gpus == 1 else _NON_TORCH_JOINED_GIB) * GIB,
        kv_bytes_per_token=layer_kv * max(growing, 1),
        sampling_bytes_per_sequence=per_logit * a.vocab_size,
        hidden_bytes_per_batched_token=_HIDDEN_BYTES * a.hidden_size,
        kv_bytes_per_sequence=layer_kv * windowed * a.window_tokens + state,
    )


def _weights_bytes(a: Architecture, gpu: Gpu, layout: Layout, stage_share: float) -> float:
    """Weights on one GPU: layers by stage, the embedding and the head each on one stage."""
    experts = a.expert_bytes / layout.expert_gpus
    if a.weights.expert_bits == Precision.MXFP4.bits and a.experts is not None:
        experts = _mxfp4_expert_bytes(a, gpu, layout)
    linear = a.always_read_parameters * a.weights.linear_bits / 8 / layout.tensor
    tables = 1 if a.tied_embeddings or layout.pipeline > 1 else 2
    table = a.head_parameters * a.weights.other_bits / 8 / layout.tensor
    vision = 2.0 * a.vision_parameters / layout.tensor
    rotated = a.latent.rope_size if a.latent else a.head_size
    rotary = 2.0 * a.max_model_len * rotated
    return (experts + linear) * stage_share + tables * table + vision + rotary


def _forward_bytes_per_token(a: Architecture, layout: Layout) -> float:
    """BF16 tensors alive at once in a layer, per token: the larger of its two blocks.

    Residual and hidden state beside gate and up with their product, or queries, keys, values
    and the attention's output; routed experts hold theirs once per expert of a token.
    """
    tp, d = layout.tensor, a.hidden_size
    wide = 3 * a.intermediate_size / tp
    if a.experts is not None:
        own = 1 if layout.expert else layout.expert_gpus
        wide = a.experts.per_token * (3 * a.experts.intermediate_size / own + d)
    if a.latent is None:
        attention = (2 * a.heads + 2 * a.kv_heads) * a.head_size / tp
    else:
        m = a.latent
        attention = a.heads * (2 * (m.nope_size + m.rope_size) + 2 * m.value_size) / tp
    return 2.0 * (2 * d + max(wide, attention))


def _mxfp4_expert_bytes(a: Architecture, gpu: Gpu, layout: Layout) -> float:
    """Routed experts on one GPU as vLLM's MXFP4 kernels hold them.

    Values of 4 bits, one scale of 8 bits per 32, biases; by GPU generation (`Mxfp4MoEMethod`):
    Triton on Hopper rounds an expert's width to 64, swizzles the scales in rows of 256 and
    keeps the checkpoint's scales beside them; FlashInfer on data-centre Blackwell rounds all
    sizes to 256, Marlin elsewhere the width to 128 and the hidden size to 256.
    """
    experts = a.experts
    if experts is None:
        return 0.0
    sliced = 1 if layout.expert else layout.expert_gpus
    count = experts.count / (layout.expert_gpus if layout.expert else 1)
    hopper, blackwell = gpu.name.startswith(("H1", "H2", "GH")), gpu.name.startswith(("B", "GB"))
    width = _round_up(experts.intermediate_size / sliced, 64 if hopper else 128)
    hidden = a.hidden_size if hopper else _round_up(a.hidden_size, 256)
    if blackwell:
        width = _round_up(width, 256)
    values = 3 * width * hidden
    one = values / 2 + values / 32 + 4 * (2 * width + hidden)
    if hopper:
        one += _round_up(2 * width, 256) * hidden / 32 + _round_up(hidden, 256) * width / 32
    return experts.layers * count * one


def _round_up(size: float, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple


def check_fit(
    what: str, memory: EngineMemory, configuration: Configuration, longest_tokens: int
) -> int:
    """Blocks of the KV cache; raises `DoesNotFit`, saying what takes the room and the mend.

    As vLLM does, refuses a cache that cannot hold one sequence of `longest_tokens`.
    """
    capacity = memory.longest_tokens(configuration)
    if capacity >= longest_tokens:
        return memory.kv_blocks(configuration)
    budget = configuration.gpu_memory_utilization * memory.total_bytes
    activation = memory.activation_bytes(configuration)
    parts = (
        f"{what} does not fit: of {budget / GIB:.1f} GiB a GPU, weights take "
        f"{memory.weights_bytes / GIB:.1f}, activations {activation / GIB:.1f}, the rest "
        f"{memory.non_torch_bytes / GIB:.2f}"
    )
    spread = _spread(configuration)
    if capacity > 0:
        raise DoesNotFit(
            f"{parts}; the KV cache left holds {capacity} tokens, less than max_model_len "
            f"{longest_tokens}: set max_model_len to {capacity} or less, or {spread}"
        )
    if budget - memory.weights_bytes - memory.non_torch_bytes > 0.2 * activation:
        raise DoesNotFit(f"{parts}; lower {_driver(memory, configuration)}, or {spread}")
    raise DoesNotFit(f"{parts}; {spread} or take a larger GPU, or quantised weights")


def _driver(memory: EngineMemory, configuration: Configuration) -> str:
    """Option that the activation peak follows."""
    tokens = configuration.max_num_batched_tokens
    if memory.activation_bytes_per_batched_token * tokens < memory.activation_bytes(configuration):
        return f"max_num_seqs from {configuration.max_num_seqs}"
    return f"max_num_batched_tokens from {tokens}"


def _spread(configuration: Configuration) -> str:
    """Option that shares a replica out over more GPUs."""
    if configuration.data_parallel_size > 1 and not configuration.enable_expert_parallel:
        return "raise tensor_parallel_size or set enable_expert_parallel"
    return "raise tensor_parallel_size"
