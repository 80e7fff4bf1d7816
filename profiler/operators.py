"""A step decomposed into operators: what each computes, reads and sends.

`decompose` lists them for one GPU of a replica and one step `Shape` (prefill, decode or
mixed alike); `analytical` adds the same terms up into the constants of a `StepCost`.
Formulas: 2 FLOPs per weight and token; attention 4·h·hd per (query, key) pair; a ring
all-reduce moves 2(n − 1)/n of its message.
"""

from dataclasses import dataclass

from profiler.architecture import Architecture
from profiler.hardware import Dtype, Gpu
from profiler.scheduler import Shape


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Share of the data sheet that kernels reach, 0 to 1, and the fixed costs around them."""

    compute: float = 0.72
    weights: float = 0.90
    prefill_attention: float = 0.45
    kv: float = 0.80
    mixed_kv_ratio: float = 1.5
    step_s: float = 1.5e-3
    layer_s: float = 5e-6
    sequence_s: float = 8e-6
    request_s: float = 15e-3


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of work in a step, summed over layers, on one GPU."""

    name: str
    flops: float
    read_bytes: float
    message_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Replica:
    """What a step runs on: a model on `tensor_parallel_size` GPUs."""

    architecture: Architecture
    gpu: Gpu
    tensor_parallel_size: int
    efficiency: Efficiency = Efficiency()

    def _linear(self, name: str, tokens: float, parameters: float, bits: float) -> Operator:
        """Multiply `tokens` rows by a matrix shared out over the GPUs."""
        dtype = self.architecture.weights.compute if bits != 16 else Dtype.BF16
        flops = 2.0 * tokens * parameters / self.tensor_parallel_size
        read = parameters * bits / 8 / self.tensor_parallel_size
        seconds = max(
            flops / (self.gpu.flops(dtype) * self.efficiency.compute),
            read / (self.gpu.bandwidth_bytes_s * self.efficiency.weights),
        )
        return Operator(name, flops, read, 0.0, seconds)

    def attention_projections(self, shape: Shape) -> Operator:
        """Query, key, value and output projections of all layers."""
        a = self.architecture
        parameters = a.layers * a.attention_parameters
        return self._linear("projections", shape.tokens, parameters, a.weights.linear_bits)

    def feed_forward(self, shape: Shape) -> list[Operator]:
        """Dense feed-forward blocks, shared experts, router and routed experts."""
        a = self.architecture
        dense = a.always_read_parameters - a.layers * a.attention_parameters
        operators = [self._linear("feed-forward", shape.tokens, dense, a.weights.linear_bits)]
        if a.experts is None:
            return operators
        share = a.experts.per_token / a.experts.count
        touched = 1.0 - (1.0 - share) ** shape.tokens
        flops = 2.0 * shape.tokens * a.expert_parameters * share / self.tensor_parallel_size
        read = a.expert_parameters * touched * a.weights.expert_bits / 8 / self.tensor_parallel_size
        seconds = max(
            flops / (self.gpu.flops(a.weights.compute) * self.efficiency.compute),
            read / (self.gpu.bandwidth_bytes_s * self.efficiency.weights),
        )
        return [*operators, Operator("experts", flops, read, 0.0, seconds)]

    def _attention_flops_per_pair(self) -> float:
        """FLOPs per (query, key) pair and layer on one GPU."""
        a = self.architecture
        if a.latent is None:
            return 4.0 * a.heads * a.head_size / self.tensor_parallel_size
        sizes = a.latent.nope_size + a.latent.rope_size + a.latent.value_size
        return 2.0 * a.heads * sizes / self.tensor_parallel_size

    def prefill_attention(self, shape: Shape) -> Operator:
        """Attention of prefill chunks; compute-bound."""
        a = self.architecture
        full = (a.layers - a.window_layers) * shape.prefill_token_pairs
        windowed = a.window_layers * shape.prefill_window_token_pairs
        flops = self._attention_flops_per_pair() * (full + windowed)
        peak = self.gpu.flops(Dtype.BF16) * self.efficiency.prefill_attention
        return Operator("prefill attention", flops, 0.0, 0.0, flops / peak)

    def decode_attention(self, shape: Shape) -> Operator:
        """Attention of decoding sequences; bound by reading the KV cache."""
        a = self.architecture
        per_layer = 2.0 * a.kv_elements_per_token_and_gpu(self.tensor_parallel_size)
        full = (a.layers - a.window_layers) * shape.kv_tokens
        read = per_layer * (full + a.window_layers * shape.kv_window_tokens)
        seconds = read / (self.gpu.bandwidth_bytes_s * self.efficiency.kv)
        if shape.prefill_sequences > 0:
            seconds *= self.efficiency.mixed_kv_ratio
        return Operator("decode attention", 0.0, read, 0.0, seconds)

    def output_head(self, shape: Shape) -> Operator:
        """Logits of one token per sequence."""
        a = self.architecture
        return self._linear("output head", shape.sequences, a.head_parameters, a.weights.other_bits)

    def all_reduce(self, shape: Shape) -> Operator:
        """Two all-reduces a layer over the link domain; nothing on a single GPU."""
        a, n = self.architecture, self.tensor_parallel_size
        if n == 1:
            return Operator("all-reduce", 0.0, 0.0, 0.0, 0.0)
        message = 2.0 * a.layers * 2.0 * (n - 1) / n * shape.tokens * a.hidden_size * 2.0
        seconds = 2.0 * a.layers * self.gpu.link_latency_s + message / self.gpu.link_bytes_s
        return Operator("all-reduce", 0.0, 0.0, message, seconds)

    def overhead(self, shape: Shape) -> Operator:
        """Launching kernels, scheduling, sampling, detokenising."""
        e = self.efficiency
        seconds = e.step_s + e.layer_s * self.architecture.layers + e.sequence_s * shape.sequences
        return Operator("overhead", 0.0, 0.0, 0.0, seconds)


def decompose(replica: Replica, shape: Shape) -> tuple[Operator, ...]:
    """List the operators of one step, in the order a layer runs them."""
    return (
        replica.attention_projections(shape),
        replica.prefill_attention(shape),
        replica.decode_attention(shape),
        *replica.feed_forward(shape),
        replica.all_reduce(shape),
        replica.output_head(shape),
        replica.overhead(shape),
    )
