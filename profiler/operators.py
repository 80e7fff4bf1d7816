"""A step decomposed into operators: what each computes, reads and sends.

`decompose` lists them for one GPU of a replica and one step `Shape` (prefill, decode or
mixed alike); `analytical` prices the same operators into a `StepCost`. Formulas: 2 FLOPs
per weight and token; attention 4·h·hd per (query, key) pair; a ring all-reduce moves
2(n − 1)/n of its message, a gather or scatter (n − 1)/n.

With pipeline parallelism a step's duration is the sum over its stages, so nothing here is
divided by them; the twin lets stages overlap. With data parallelism a `Shape` is one
scheduler's step, and all step with the same number of tokens.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from profiler.architecture import Architecture
from profiler.hardware import Dtype, Gpu
from profiler.layout import ONE_GPU, Layout
from profiler.scheduler import Shape

Floats = NDArray[np.float64]
Numbers = float | Floats


class KvDtype(StrEnum):
    """How the KV cache is stored, as `--kv-cache-dtype` says it."""

    AUTO = "auto"
    FP8 = "fp8"

    @property
    def bytes(self) -> float:
        """Bytes an element."""
        return 1.0 if self is KvDtype.FP8 else 2.0


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Share of the data sheet that kernels reach, and the fixed costs around them.

    The defaults are what `efficiencies` knows of no engine, model or GPU in particular.
    """

    compute_bf16: float = 0.72
    compute_fp8: float = 0.65
    compute_fp4: float = 0.55
    """Of the dense peak."""
    weights: float = 0.90
    """Of the memory bandwidth, reading weights."""
    experts_compute: float = 0.15
    experts_weights: float = 0.90
    """The same for grouped matrices of routed experts, relative to the two above."""
    prefill_attention: float = 0.45
    kv: float = 0.80
    elementwise_bytes: float = 10.0
    """Moved by norms, activations and quantisation, per token, layer and hidden element."""
    link: float = 1.0
    link_latency_ratio: float = 1.0
    mixed_kv_ratio: float = 1.5
    padded_query_s: float = 0.0
    step_s: float = 1.5e-3
    layer_s: float = 5e-6
    expert_layer_s: float = 3e-5
    sequence_s: float = 8e-6
    request_s: float = 15e-3
    knee: float = 4.0
    """How sharply reading gives way to computing: 1 adds them up, infinity takes the longer."""

    def compute(self, dtype: Dtype) -> float:
        """Share of the peak for a number format."""
        if dtype is Dtype.FP4:
            return self.compute_fp4
        return self.compute_bf16 if dtype is Dtype.BF16 else self.compute_fp8


@dataclass(frozen=True, slots=True)
class Work:
    """Matrices on one GPU; numbers, or arrays over several steps."""

    flops: Numbers
    read_bytes: Numbers
    dtype: Dtype = Dtype.BF16
    grouped: bool = False
    """Many small matrices, as routed experts are."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of work in a step, summed over layers, on one GPU."""

    name: str
    flops: float = 0.0
    read_bytes: float = 0.0
    message_bytes: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Replica:
    """What a step runs on: a model shared out over GPUs of one type."""

    architecture: Architecture
    gpu: Gpu
    layout: Layout = ONE_GPU
    kv_dtype: KvDtype = KvDtype.AUTO
    efficiency: Efficiency = Efficiency()

    def work_s(self, work: Work) -> Floats:
        """Multiply or read, whichever takes longer, with a rounded knee between them."""
        e = self.efficiency
        compute_s = np.asarray(work.flops) / (self.gpu.flops(work.dtype) * e.compute(work.dtype))
        read_s = np.asarray(work.read_bytes) / (self.gpu.bandwidth_bytes_s * e.weights)
        if work.grouped:
            compute_s, read_s = compute_s / e.experts_compute, read_s / e.experts_weights
        longer = np.maximum(np.maximum(compute_s, read_s), 1e-30)
        share = np.minimum(compute_s, read_s) / longer
        seconds: Floats = longer * (1.0 + share**e.knee) ** (1.0 / e.knee)
        return seconds

    def _operator(self, name: str, work: Work) -> Operator:
        flops, read = float(work.flops), float(work.read_bytes)
        seconds = float(self.work_s(work)) if flops or read else 0.0
        return Operator(name, flops, read, 0.0, seconds)

    def _linear(self, tokens: Numbers, parameters: float, bits: float) -> Work:
        """Multiply `tokens` rows by a matrix shared out over the GPUs."""
        own = parameters / self.layout.tensor
        dtype = self.architecture.weights.compute if bits != 16 else Dtype.BF16
        return Work(2.0 * tokens * own, own * bits / 8, dtype)

    def projections_work(self, tokens: Numbers) -> Work:
        """Query, key, value and output projections of all layers."""
        a = self.architecture
        return self._linear(tokens, a.layers * a.attention_parameters, a.weights.linear_bits)

    def feed_forward_work(self, tokens: Numbers) -> Work:
        """Dense feed-forward blocks, shared experts and router."""
        a = self.architecture
        parameters = a.always_read_parameters - a.layers * a.attention_parameters
        return self._linear(tokens, parameters, a.weights.linear_bits)

    def experts_work(self, tokens: Numbers) -> Work:
        """Routed experts, with the tokens of all schedulers that share them."""
        a = self.architecture
        if a.experts is None:
            return Work(0.0 * tokens, 0.0)
        share = a.experts.per_token / a.experts.count
        all_tokens = tokens * self.layout.data
        touched = 1.0 - (1.0 - share) ** all_tokens
        own = a.expert_parameters / self.layout.expert_gpus
        read = own * touched * a.weights.expert_bits / 8
        return Work(2.0 * all_tokens * own * share, read, a.weights.compute, grouped=True)

    def attention_projections(self, shape: Shape) -> Operator:
        """Query, key, value and output projections of all layers."""
        return self._operator("projections", self.projections_work(shape.tokens))

    def feed_forward(self, shape: Shape) -> Operator:
        """Dense feed-forward blocks, shared experts and router."""
        return self._operator("feed-forward", self.feed_forward_work(shape.tokens))

    def experts(self, shape: Shape) -> Operator:
        """Routed experts, with the tokens of all schedulers that share them."""
        return self._operator("experts", self.experts_work(shape.tokens))

    def elementwise(self, shape: Shape) -> Operator:
        """Norms, rotary embeddings, activation functions, quantisation; all move bytes."""
        a = self.architecture
        moved = self.efficiency.elementwise_bytes * a.layers * a.hidden_size * shape.tokens
        return Operator("element-wise", 0.0, moved, 0.0, moved / self.gpu.bandwidth_bytes_s)

    def _attention_flops_per_pair(self) -> float:
        """FLOPs per (query, key) pair and layer on one GPU."""
        a = self.architecture
        if a.latent is None:
            return 4.0 * a.heads * a.head_size / self.layout.tensor
        sizes = a.latent.nope_size + a.latent.rope_size + a.latent.value_size
        return 2.0 * a.heads * sizes / self.layout.tensor

    def prefill_attention(self, shape: Shape) -> Operator:
        """Attention of prefill chunks; compute-bound."""
        a = self.architecture
        full = a.full_attention_layers * shape.prefill_token_pairs
        windowed = a.window_layers * shape.prefill_window_token_pairs
        flops = self._attention_flops_per_pair() * (full + windowed)
        peak = self.gpu.flops(Dtype.BF16) * self.efficiency.prefill_attention
        return Operator("prefill attention", flops, 0.0, 0.0, flops / peak)

    def decode_attention(self, shape: Shape) -> Operator:
        """Attention of decoding sequences; bound by reading the KV cache."""
        a = self.architecture
        per_layer = self.kv_dtype.bytes * a.kv_elements_per_token_and_gpu(self.layout.tensor)
        full = a.full_attention_layers * shape.kv_tokens
        read = per_layer * (full + a.window_layers * shape.kv_window_tokens)
        seconds = read / (self.gpu.bandwidth_bytes_s * self.efficiency.kv)
        if shape.prefill_sequences > 0:
            seconds *= max(self.efficiency.mixed_kv_ratio, 1.0)
        return Operator("decode attention", 0.0, read, 0.0, seconds)

    def linear_attention(self, shape: Shape) -> Operator:
        """Layers with a state of fixed size: each decode reads and writes it."""
        state = self.architecture.state_bytes_per_sequence / self.layout.tensor
        moved = 2.0 * state * shape.sequences
        rate = self.gpu.bandwidth_bytes_s * self.efficiency.kv
        return Operator("linear attention", 0.0, moved, 0.0, moved / rate)

    def output_head(self, shape: Shape) -> Operator:
        """Logits of one token per sequence."""
        a = self.architecture
        work = self._linear(shape.sequences, a.head_parameters, a.weights.other_bits)
        return self._operator("output head", work)

    def _message(self, name: str, message_bytes: float, calls: float) -> Operator:
        """Send over the link between the replica's GPUs."""
        rate = self.gpu.link_bytes_s * self.efficiency.link
        latency_s = self.gpu.link_latency_s * self.efficiency.link_latency_ratio
        seconds = calls * latency_s + message_bytes / rate
        return Operator(name, 0.0, 0.0, message_bytes, seconds)

    def all_reduce(self, shape: Shape) -> Operator:
        """After attention and after the feed-forward block of each layer; none on one GPU."""
        a, n = self.architecture, self.layout.tensor
        moe_layers = a.experts.layers if a.experts and self.layout.data > 1 else 0
        calls = 2 * a.layers - moe_layers
        if n == 1:
            return Operator("all-reduce")
        each = 2.0 * (n - 1) / n * shape.tokens * a.hidden_size * 2.0
        return self._message("all-reduce", calls * each, calls)

    def expert_exchange(self, shape: Shape) -> Operator:
        """Gather the tokens of all schedulers for the experts, and scatter the results back.

        vLLM's default, `allgather_reducescatter`.
        """
        a, n = self.architecture, self.layout.expert_gpus
        if a.experts is None or self.layout.data == 1:
            return Operator("expert exchange")
        tokens = shape.tokens * self.layout.data
        each = 2.0 * (n - 1) / n * tokens * a.hidden_size * 2.0
        return self._message("expert exchange", a.experts.layers * each, 2.0 * a.experts.layers)

    def stage_hops(self, shape: Shape) -> Operator:
        """Hand the activations from stage to stage."""
        hops = self.layout.pipeline - 1
        if hops == 0:
            return Operator("stage hops")
        message = hops * shape.tokens * self.architecture.hidden_size * 2.0
        return self._message("stage hops", message, hops)

    def overhead(self, shape: Shape) -> Operator:
        """Launching kernels, scheduling, sampling, detokenising."""
        seconds = self.overhead_s + self.efficiency.sequence_s * shape.sequences
        return Operator("overhead", seconds=seconds)

    @property
    def overhead_s(self) -> float:
        """Fixed cost of a step, whatever is in it."""
        e, a = self.efficiency, self.architecture
        expert_layers = a.experts.layers if a.experts else 0
        return e.step_s + e.layer_s * a.layers + e.expert_layer_s * expert_layers


def decompose(replica: Replica, shape: Shape) -> tuple[Operator, ...]:
    """List the operators of one step, in the order a layer runs them; absent ones left out."""
    operators = (
        replica.attention_projections(shape),
        replica.prefill_attention(shape),
        replica.decode_attention(shape),
        replica.linear_attention(shape),
        replica.feed_forward(shape),
        replica.experts(shape),
        replica.elementwise(shape),
        replica.all_reduce(shape),
        replica.expert_exchange(shape),
        replica.stage_hops(shape),
        replica.output_head(shape),
        replica.overhead(shape),
    )
    return tuple(o for o in operators if o.seconds > 0.0)
