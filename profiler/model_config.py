"""Read a Hugging Face `config.json` into an `Architecture`.

A pure function of the fields: `architecture` finds and reads the file. Dense, grouped-query,
mixture of experts, multi-head latent attention (MLA), sliding windows, gated delta-rule
layers, tied embeddings, a vision tower's weights.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from profiler.errors import Refused
from profiler.quantisation import Precision, read_weights, weights_of
from profiler.transformer import Architecture, Experts, LatentAttention, LinearAttention


def parse_config(name: str, config: Mapping[str, Any]) -> Architecture:
    """Turn a config.json into an `Architecture`; `Refused` names the field that is wrong.

    Fields that say nothing about the shape are ignored; structures that nothing here models
    (Mamba layers, sparse attention) are refused, as a wrong figure is worse than none.
    """
    fields = _Fields(name, _flattened(config))
    _refuse_unmodelled(fields)
    layers = fields.count("num_hidden_layers", "n_layer", most=_MOST_LAYERS)
    heads = fields.count("num_attention_heads", "n_head")
    kv_heads = fields.count("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise Refused(
            f"{name}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    window_tokens, window_layers = _windows(fields, layers)
    linear = _linear_attention(fields)
    shape = Architecture(
        name=name,
        layers=layers,
        hidden_size=fields.count("hidden_size", "n_embd"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=_head_size(fields, heads),
        intermediate_size=_intermediate_size(fields),
        vocab_size=fields.count("vocab_size"),
        tied_embeddings=fields.flag("tie_word_embeddings", default="gemma" in fields.kind),
        weights=weights_of(Precision.BF16),
        max_model_len=fields.count("max_position_embeddings", "n_positions", default=4096),
        experts=_experts(fields, layers),
        latent=_latent(fields),
        window_tokens=window_tokens,
        window_layers=window_layers,
        linear_layers=_linear_layers(fields, layers) if linear else 0,
        linear=linear,
        gated_attention=fields.flag("attn_output_gate", default=False),
        multimodal="vision_config" in config,
        vision_parameters=_vision_parameters(fields, config.get("vision_config")),
    )
    weights = read_weights(
        name,
        fields.config,
        layers=layers,
        attention_share=layers * shape.attention_parameters / shape.matrix_parameters,
        has_experts=shape.experts is not None,
    )
    return replace(shape, weights=weights)


def _flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a multimodal model's text part over the rest."""
    flat = dict(config)
    for key in ("text_config", "llm_config", "language_config"):
        text = config.get(key)
        if isinstance(text, Mapping):
            flat |= {k: v for k, v in text.items() if v is not None}
    return flat


_UNMODELLED = {
    "hybrid_override_pattern": "Mamba layers",
    "mamba_num_heads": "Mamba layers",
    "mamba_d_state": "Mamba layers",
    "index_topk": "sparse attention with an indexer",
    "compress_ratios": "compressed attention",
    "global_head_dim": "attention heads of two sizes",
    "swa_num_key_value_heads": "attention heads of two kinds",
    "block_configs": "layers of different shapes",
    "linear_attn_config": "Kimi linear attention",
    "encoder_layers": "an encoder",
}


def _refuse_unmodelled(fields: "_Fields") -> None:
    for field, what in _UNMODELLED.items():
        if fields.get(field):
            raise Refused(f"{fields.name}: {field}: {what} are not modelled yet")
    kinds = fields.get("attn_type_list")
    if isinstance(kinds, list) and any(kind != 1 for kind in kinds):
        raise Refused(f"{fields.name}: attn_type_list: lightning attention is not modelled yet")


class _Fields:
    """Typed look-ups that name the field when it is missing or impossible."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.name = name
        self.config = config
        self.kind = str(config.get("model_type", ""))

    def get(self, *names: str, default: Any = None) -> Any:
        """First of `names` that is there and not null."""
        return next((v for n in names if (v := self.config.get(n)) is not None), default)

    def count(
        self, *names: str, default: int | None = None, least: int = 1, most: int = 1 << 40
    ) -> int:
        """Read an integer from `least` to `most`."""
        there = next((n for n in names if self.config.get(n) is not None), names[0])
        value = self.get(*names, default=default)
        if value is None:
            raise Refused(f"{self.name}: config.json has no {there}, so it is no language model")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise Refused(f"{self.name}: {there} must be an integer ≥ {least}, got {value!r}")
        if value > most:
            raise Refused(f"{self.name}: {there} must be at most {most}, got {value}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.get(name, default=default)
        if not isinstance(value, bool):
            raise Refused(f"{self.name}: {name} must be true or false, got {value!r}")
        return value

    def layer_types(self, layers: int) -> list[str]:
        """One kind per layer; empty where the config does not say."""
        kinds = self.get("layer_types", default=[])
        if not isinstance(kinds, list) or (kinds and len(kinds) != layers):
            raise Refused(f"{self.name}: layer_types must name each of the {layers} layers")
        unknown = {str(kind) for kind in kinds} - _LAYER_TYPES
        if unknown:
            raise Refused(
                f"{self.name}: layer_types {min(unknown)!r} is not one of "
                f"{', '.join(sorted(_LAYER_TYPES))}"
            )
        return kinds


_LAYER_TYPES = {
    "full_attention", "attention", "sliding_attention", "chunked_attention", "linear_attention",
}  # fmt: skip


def _head_size(fields: _Fields, heads: int) -> int:
    hidden = fields.count("hidden_size", "n_embd")
    if fields.get("head_dim") is None and fields.get("kv_lora_rank") is None and hidden % heads:
        raise Refused(
            f"{fields.name}: hidden_size {hidden} is no multiple of num_attention_heads {heads}, "
            "and there is no head_dim"
        )
    return fields.count("head_dim", default=max(hidden // heads, 1))


def _intermediate_size(fields: _Fields) -> int:
    """Width of dense feed-forward blocks; Llama 4 has another for its expert layers."""
    hidden = fields.count("hidden_size", "n_embd")
    return fields.count("intermediate_size_mlp", "intermediate_size", "n_inner", default=4 * hidden)


_EXPERT_COUNT = ("num_local_experts", "n_routed_experts", "num_experts")


def _experts(fields: _Fields, layers: int) -> Experts | None:
    if not fields.get(*_EXPERT_COUNT):  # some dense configs say 0
        return None
    count = fields.count(*_EXPERT_COUNT)
    per_token = fields.count("num_experts_per_tok", "experts_per_token", "num_experts_per_token")
    if per_token > count:
        raise Refused(
            f"{fields.name}: num_experts_per_tok {per_token} exceeds the {count} experts there are"
        )
    width = fields.count("moe_intermediate_size", "intermediate_size")
    shared = fields.count(
        "shared_expert_intermediate_size", "shared_intermediate_size", default=0, least=0
    )
    shared += width * fields.count("n_shared_experts", default=0, least=0)
    if fields.kind.startswith("llama4"):
        shared = width
    return Experts(count, per_token, width, shared, _expert_layers(fields, layers))


def _expert_layers(fields: _Fields, layers: int) -> int:
    """Layers with routed experts: not the first few, or every so many."""
    first = fields.count("first_k_dense_replace", default=0, least=0)
    step = fields.count("decoder_sparse_step", "interleave_moe_layer_step", default=1)
    dense = fields.get("mlp_only_layers", default=[])
    if not isinstance(dense, list):
        raise Refused(f"{fields.name}: mlp_only_layers must be a list, got {dense!r}")
    sparse = (i for i in range(first, layers) if (i + 1) % step == 0 and i not in dense)
    return sum(1 for _ in sparse)


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


def _linear_attention(fields: _Fields) -> LinearAttention | None:
    if fields.get("linear_num_value_heads") is None:
        return None
    return LinearAttention(
        key_heads=fields.count("linear_num_key_heads"),
        value_heads=fields.count("linear_num_value_heads"),
        key_size=fields.count("linear_key_head_dim"),
        value_size=fields.count("linear_value_head_dim"),
        convolution=fields.count("linear_conv_kernel_dim", default=4),
    )


def _linear_layers(fields: _Fields, layers: int) -> int:
    kinds = fields.layer_types(layers)
    if kinds:
        return kinds.count("linear_attention")
    return layers - layers // fields.count("full_attention_interval", default=4)


_WINDOW_PATTERN = {"gemma2": 2, "gpt_oss": 2, "gemma3": 6, "gemma3_text": 6, "llama4_text": 4}
"""Every so many layers sees everything, where a config leaves it to its model's code."""


def _windows(fields: _Fields, layers: int) -> tuple[int, int]:
    """What windowed layers see, and how many there are.

    Llama 4 attends within chunks instead, to half of one on average; its window is the chunk.
    """
    window = fields.count("sliding_window", "attention_chunk_size", default=0, least=0)
    kinds = fields.layer_types(layers)
    if not window or not fields.flag("use_sliding_window", default=True):
        return 0, 0
    if kinds:
        count = sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
        return (window, count) if count else (0, 0)
    usual = _WINDOW_PATTERN.get(fields.kind, 0)
    pattern = fields.count("sliding_window_pattern", default=usual, least=0)
    if pattern:
        return window, layers - layers // pattern
    if fields.kind.startswith("qwen2"):
        return window, max(layers - fields.count("max_window_layers", default=0, least=0), 0)
    return window, layers


def _vision_parameters(fields: _Fields, vision: object) -> int:
    """Parameters of a vision transformer and its projector; 0 where the config is silent."""
    if not isinstance(vision, Mapping):
        return 0
    own = _Fields(f"{fields.name}: vision_config", vision)
    if own.get("hidden_size", "vt_hidden_size", "embed_dim") is None:
        return 0
    width = own.count("hidden_size", "vt_hidden_size", "embed_dim")
    inner = own.count("intermediate_size", "vt_intermediate_size", default=4 * width)
    layers = own.count(*_VISION_LAYERS, default=1, most=_MOST_LAYERS)
    gated = own.kind == "pixtral" or own.get("hidden_act") == "silu"
    patch = 3 * own.count("patch_size", default=14) ** 2 * width
    text = fields.count("hidden_size", "n_embd")
    merge = own.count("spatial_merge_size", default=fields.count("spatial_merge_size", default=2))
    projector = merge**2 * width * width + width * text + text * text
    return layers * width * (4 * width + (3 if gated else 2) * inner) + patch + projector


_VISION_LAYERS = ("num_hidden_layers", "depth", "vt_num_hidden_layers", "num_layers")
_MOST_LAYERS = 10_000
