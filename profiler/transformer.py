"""The shape of a decoder-only transformer, and what follows from it: parameters and bytes.

A value that `model_config` reads from a Hugging Face `config.json`; `operators` prices its
steps and `memory` its room. Nothing is read here.
"""

from dataclasses import dataclass

from profiler.quantisation import Weights


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts of the layers that have them."""

    count: int
    per_token: int
    intermediate_size: int
    shared_intermediate_size: int
    """Width of what every token passes besides its routed experts; 0 where there is none."""
    layers: int


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention: keys and values cached as one latent vector."""

    kv_rank: int
    rope_size: int
    nope_size: int
    value_size: int
    q_rank: int
    """0: queries are not compressed."""


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Gated delta-rule layers: a matrix per value head and sequence instead of a KV cache."""

    key_heads: int
    value_heads: int
    key_size: int
    value_size: int
    convolution: int
    """Taps of the short convolution over queries, keys and values."""

    @property
    def channels(self) -> int:
        """Queries, keys and values that one token makes."""
        return 2 * self.key_heads * self.key_size + self.value_heads * self.value_size

    @property
    def state_bytes(self) -> int:
        """One layer's state of one sequence: matrices in 32 bits, convolution inputs in 16."""
        matrices = self.value_heads * self.key_size * self.value_size
        return 4 * matrices + 2 * self.channels * (self.convolution - 1)


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape of a decoder-only transformer; counts and sizes in elements."""

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool
    weights: Weights
    max_model_len: int
    experts: Experts | None = None
    latent: LatentAttention | None = None
    window_tokens: int = 0
    """What sliding-window layers see; 0: there are none."""
    window_layers: int = 0
    linear_layers: int = 0
    """Layers with linear attention: a state of fixed size, no KV cache."""
    linear: LinearAttention | None = None
    """Their shape."""
    gated_attention: bool = False
    """Queries bring a gate of their own size for the attention's output."""
    multimodal: bool = False
    vision_parameters: int = 0
    """Vision tower and projector, in 16 bits."""

    @property
    def attention_parameters(self) -> int:
        """Linear parameters of one layer's attention; of a hybrid model, the mean."""
        others = self.layers - self.linear_layers
        total = others * self._softmax_parameters + self.linear_layers * self._linear_parameters
        return total // self.layers

    @property
    def _linear_parameters(self) -> int:
        """One layer of linear attention: inputs, gates (one as wide as the output), output."""
        if self.linear is None:
            return 0
        values = self.linear.value_heads * self.linear.value_size
        return self.hidden_size * (self.linear.channels + 2 * values + 2 * self.linear.value_heads)

    @property
    def _softmax_parameters(self) -> int:
        """One layer of ordinary or latent attention."""
        d = self.hidden_size
        if self.latent is None:
            queries = 3 if self.gated_attention else 2
            return d * self.head_size * (queries * self.heads + 2 * self.kv_heads)
        m = self.latent
        q_size = self.heads * (m.nope_size + m.rope_size)
        queries = d * m.q_rank + m.q_rank * q_size if m.q_rank else d * q_size
        keys = d * (m.kv_rank + m.rope_size) + m.kv_rank * self.heads * (m.nope_size + m.value_size)
        return queries + keys + self.heads * m.value_size * d

    @property
    def dense_layers(self) -> int:
        """Layers with an ordinary feed-forward block."""
        return self.layers - (self.experts.layers if self.experts else 0)

    @property
    def full_attention_layers(self) -> int:
        """Layers that attend to the whole context."""
        return self.layers - self.window_layers - self.linear_layers

    @property
    def always_read_parameters(self) -> int:
        """Linear parameters that every token passes, without embeddings and head."""
        d = self.hidden_size
        total = self.layers * self.attention_parameters
        total += self.dense_layers * 3 * d * self.intermediate_size
        if self.experts:
            per_layer = d * self.experts.count + 3 * d * self.experts.shared_intermediate_size
            total += self.experts.layers * per_layer
        return total

    @property
    def matrix_parameters(self) -> int:
        """The same without routers, which no checkpoint quantises."""
        routers = self.experts.layers * self.hidden_size * self.experts.count if self.experts else 0
        return self.always_read_parameters - routers

    @property
    def expert_parameters(self) -> int:
        """Parameters of all routed experts; 0 for a dense model."""
        if self.experts is None:
            return 0
        one = 3 * self.hidden_size * self.experts.intermediate_size
        return self.experts.layers * self.experts.count * one

    @property
    def active_parameters(self) -> int:
        """Linear parameters that one token multiplies, without the head."""
        if self.experts is None:
            return self.always_read_parameters
        share = self.experts.per_token / self.experts.count
        return self.always_read_parameters + int(self.expert_parameters * share)

    @property
    def head_parameters(self) -> int:
        """Output head."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters, embeddings and vision tower included."""
        embeddings = self.head_parameters * (1 if self.tied_embeddings else 2)
        own = self.always_read_parameters + self.expert_parameters + embeddings
        return own + self.vision_parameters

    @property
    def expert_bytes(self) -> float:
        """Bytes of the routed experts in memory."""
        return self.expert_parameters * self.weights.expert_bits / 8

    @property
    def weight_bytes(self) -> float:
        """Bytes of the whole checkpoint in memory."""
        bits = self.always_read_parameters * self.weights.linear_bits
        bits += self.head_parameters * (1 if self.tied_embeddings else 2) * self.weights.other_bits
        return bits / 8 + self.expert_bytes + 2.0 * self.vision_parameters

    @property
    def state_bytes_per_sequence(self) -> int:
        """What linear-attention layers keep of a sequence, over all GPUs of a replica."""
        return self.linear_layers * self.linear.state_bytes if self.linear else 0

    def kv_elements_per_token(self) -> int:
        """Elements that one layer caches per token, over all GPUs of a replica."""
        if self.latent is not None:
            return self.latent.kv_rank + self.latent.rope_size
        return 2 * self.kv_heads * self.head_size

    def kv_elements_per_token_and_gpu(self, tensor_parallel_size: int) -> float:
        """The same on each GPU: heads are shared out, a latent vector is on every GPU."""
        if self.latent is not None:
            return self.kv_elements_per_token()
        return 2 * max(self.kv_heads / tensor_parallel_size, 1) * self.head_size
