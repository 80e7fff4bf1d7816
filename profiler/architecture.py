"""A model's architecture, read from a Hugging Face `config.json`.

Dense, grouped-query, mixture of experts, multi-head latent attention (MLA), sliding
windows, tied embeddings and quantised weights. Nothing is fetched: a name is looked up
among the bundled facts (`models.json`), a path is read from disk.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from profiler.errors import Refused
from profiler.hardware import Dtype


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
class Weights:
    """How the checkpoint stores its weights; bits per parameter."""

    linear_bits: float
    expert_bits: float
    other_bits: float
    """Embeddings, norms and the output head."""
    compute: Dtype
    """What the tensor cores multiply in linear layers."""


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
    multimodal: bool = False

    @property
    def attention_parameters(self) -> int:
        """Linear parameters of one layer's attention."""
        d = self.hidden_size
        if self.latent is None:
            return d * self.head_size * (2 * self.heads + 2 * self.kv_heads)
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
        """All parameters, embeddings included."""
        embeddings = self.head_parameters * (1 if self.tied_embeddings else 2)
        return self.always_read_parameters + self.expert_parameters + embeddings

    @property
    def expert_bytes(self) -> float:
        """Bytes of the routed experts in memory."""
        return self.expert_parameters * self.weights.expert_bits / 8

    @property
    def weight_bytes(self) -> float:
        """Bytes of the whole checkpoint in memory."""
        bits = self.always_read_parameters * self.weights.linear_bits
        bits += self.head_parameters * (1 if self.tied_embeddings else 2) * self.weights.other_bits
        return bits / 8 + self.expert_bytes

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


def load_architecture(model: str) -> Architecture:
    """Read `model`: a bundled name, a folder with a `config.json`, or such a file.

    Raises `Refused` when it is none of these or describes no decoder-only transformer.
    """
    path = Path(model).expanduser()
    if path.is_dir() or path.suffix == ".json":
        file = path / "config.json" if path.is_dir() else path
        return parse_config(model, _read_json(file))
    bundled = bundled_models()
    for name, config in bundled.items():
        if model.lower() in (name.lower(), name.split("/")[-1].lower()):
            return parse_config(name, config)
    raise Refused(
        f"model: {model!r} is neither a folder with a config.json nor a bundled model "
        f"(bundled: {', '.join(sorted(bundled))})"
    )


@cache
def bundled_models() -> dict[str, dict[str, Any]]:
    """Config facts of popular open models by hub name."""
    text = files("profiler").joinpath("models.json").read_text(encoding="utf-8")
    configs: dict[str, dict[str, Any]] = json.loads(text)
    return configs


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"model: cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"model: {file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refused(f"model: {file} holds no JSON object, so it is no model's config.json")
    return content


def parse_config(name: str, config: Mapping[str, Any]) -> Architecture:
    """Turn a config.json into an `Architecture`; `Refused` names the field that is wrong."""
    text = config.get("text_config")
    fields = _Fields(name, {**config, **text} if isinstance(text, Mapping) else config)
    layers, hidden = fields.count("num_hidden_layers", "n_layer"), fields.count("hidden_size")
    heads = fields.count("num_attention_heads", "n_head")
    kv_heads = fields.count("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise Refused(
            f"{name}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    experts = _experts(fields, layers)
    window_tokens, window_layers = _windows(fields, layers)
    return Architecture(
        name=name,
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=fields.count("head_dim", default=max(hidden // heads, 1)),
        intermediate_size=fields.count("intermediate_size", "n_inner", default=4 * hidden),
        vocab_size=fields.count("vocab_size"),
        tied_embeddings=bool(fields.get("tie_word_embeddings", default=False)),
        weights=_weights(fields, experts is not None),
        max_model_len=fields.count("max_position_embeddings", default=4096),
        experts=experts,
        latent=_latent(fields),
        window_tokens=window_tokens,
        window_layers=window_layers,
        multimodal="vision_config" in config,
    )


class _Fields:
    """Typed look-ups that name the field when it is missing or impossible."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.name = name
        self._config = config

    def get(self, *names: str, default: Any = None) -> Any:
        """First of `names` that is there and not null."""
        return next((v for n in names if (v := self._config.get(n)) is not None), default)

    def count(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """Read an integer ≥ `least`."""
        value = self.get(*names, default=default)
        if value is None:
            raise Refused(f"{self.name}: config.json has no {names[0]}, so it is no language model")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise Refused(f"{self.name}: {names[0]} must be an integer ≥ {least}, got {value!r}")
        return value


def _experts(fields: _Fields, layers: int) -> Experts | None:
    if fields.get("num_local_experts", "n_routed_experts", "num_experts") is None:
        return None
    width = fields.count("moe_intermediate_size", "intermediate_size")
    shared = fields.count("shared_expert_intermediate_size", default=0, least=0)
    shared += width * fields.count("n_shared_experts", default=0, least=0)
    dense_first = fields.count("first_k_dense_replace", default=0, least=0)
    return Experts(
        count=fields.count("num_local_experts", "n_routed_experts", "num_experts"),
        per_token=fields.count("num_experts_per_tok", "experts_per_token"),
        intermediate_size=width,
        shared_intermediate_size=shared,
        layers=layers - min(dense_first, layers),
    )


def _latent(fields: _Fields) -> LatentAttention | None:
    if fields.get("kv_lora_rank") is None:
        return None
    return LatentAttention(
        kv_rank=fields.count("kv_lora_rank"),
        rope_size=fields.count("qk_rope_head_dim"),
        nope_size=fields.count("qk_nope_head_dim"),
        value_size=fields.count("v_head_dim"),
        q_rank=fields.count("q_lora_rank", default=0, least=0),
    )


def _windows(fields: _Fields, layers: int) -> tuple[int, int]:
    window = fields.count("sliding_window", default=0, least=0)
    if not window or fields.get("use_sliding_window", default=True) is False:
        return 0, 0
    kinds = fields.get("layer_types")
    if isinstance(kinds, list):
        return window, sum(kind == "sliding_attention" for kind in kinds)
    pattern = fields.count("sliding_window_pattern", default=0, least=0)
    return window, layers - layers // pattern if pattern else layers


def _weights(fields: _Fields, has_experts: bool) -> Weights:
    plain = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}
    stored = str(fields.get("torch_dtype", "dtype", default="bfloat16"))
    if stored not in plain:
        raise Refused(f"{fields.name}: torch_dtype {stored!r} is not one of {', '.join(plain)}")
    other = min(plain[stored], 16.0)
    quantised = fields.get("quantization_config")
    if not isinstance(quantised, Mapping):
        return Weights(other, other, other, Dtype.BF16)
    method = str(quantised.get("quant_method", "")).lower()
    if method == "mxfp4":  # 4-bit values, one 8-bit scale per 32; experts only
        return Weights(other, 4.25 if has_experts else other, other, Dtype.BF16)
    if method in ("fp8", "fbgemm_fp8") or _group_bits(quantised) == 8:
        return Weights(8.0, 8.0, other, Dtype.FP8)
    if method in ("awq", "gptq", "compressed-tensors", "gptq_marlin", "awq_marlin"):
        bits = float(quantised.get("bits", _group_bits(quantised) or 4))
        scales = 16.0 / float(quantised.get("group_size", 128) or 128)
        return Weights(bits + scales, bits + scales, other, Dtype.BF16)
    raise Refused(
        f"{fields.name}: quantization_config.quant_method {method!r} is not known "
        "(fp8, mxfp4, awq, gptq, compressed-tensors)"
    )


def _group_bits(quantised: Mapping[str, Any]) -> int | None:
    """Read the weight bits of a compressed-tensors config."""
    groups = quantised.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        return None
    weights = next(iter(groups.values())).get("weights") or {}
    bits = weights.get("num_bits")
    return int(bits) if isinstance(bits, int) else None
