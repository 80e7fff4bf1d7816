"""How a checkpoint stores its weights: bits per parameter, and what multiplies them.

Reads the `quantization_config` of a Hugging Face `config.json` (or ModelOpt's
`hf_quant_config.json`) as vLLM does: FP8, NVFP4, MXFP4, INT8 and INT4 in the dialects of
ModelOpt, compressed-tensors, AWQ, GPTQ, FBGEMM and bitsandbytes. Modules that a checkpoint
leaves alone count with the bits of its other weights.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from profiler.errors import Refused
from profiler.hardware import Dtype

_PLAIN_BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0}


class Precision(StrEnum):
    """Formats that models are served in."""

    BF16 = "bf16"
    FP8 = "fp8"
    NVFP4 = "nvfp4"
    MXFP4 = "mxfp4"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> float:
        """Bits per parameter with its scales.

        One of 8 bits per 16 (NVFP4) or 32 values (MXFP4), one of 16 bits per 128 (INT4); per
        channel or block of 128 × 128: nothing.
        """
        return _FORMATS[self][0]

    @property
    def compute(self) -> Dtype:
        """What the tensor cores multiply; weight-only formats are widened to BF16 first."""
        return _FORMATS[self][1]

    @classmethod
    def named(cls, name: str) -> "Precision":
        """Understand the names of engines and benchmarks: `fp8_block`, `int4_wo`, `fp4`.

        Raises `Refused` for anything else.
        """
        folded = name.strip().lower()
        found = _NAMES.get(folded)
        if found is None:
            raise Refused(f"precision: {name!r} is not one of {', '.join(sorted(_NAMES))}")
        return found


_FORMATS: dict[Precision, tuple[float, Dtype]] = {
    Precision.BF16: (16.0, Dtype.BF16),
    Precision.FP8: (8.0, Dtype.FP8),
    Precision.NVFP4: (4.5, Dtype.FP4),
    Precision.MXFP4: (4.25, Dtype.BF16),
    Precision.INT8: (8.0, Dtype.INT8),
    Precision.INT4: (4.125, Dtype.BF16),
}

_NAMES = {
    **{precision.value: precision for precision in Precision},
    "bfloat16": Precision.BF16, "float16": Precision.BF16, "fp16": Precision.BF16,
    "fp8_block": Precision.FP8, "fp8_static": Precision.FP8, "fp8_ootb": Precision.FP8,
    "fp4": Precision.NVFP4, "w4a16_mxfp4": Precision.MXFP4, "w4a8_mxfp4_mxfp8": Precision.MXFP4,
    "int8_wo": Precision.INT8, "int4_wo": Precision.INT4, "w4afp8": Precision.INT4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Weights:
    """How the checkpoint stores its weights; bits per parameter."""

    linear_bits: float
    """Attention, dense feed-forward blocks and shared experts; their mean where they differ."""
    expert_bits: float
    other_bits: float
    """Embeddings, norms and the output head."""
    compute: Dtype
    """What the tensor cores multiply in linear layers of fewer than 16 bits."""
    block: int = 0
    """Side of the square blocks that share a scale; a GPU's slice of a matrix must be whole
    blocks. 0: scales do not bind."""


def weights_of(linear: Precision, experts: Precision | None = None) -> Weights:
    """Weights in the given precisions; experts as the rest unless said otherwise."""
    routed = linear if experts is None else experts
    compute = routed.compute if linear is Precision.BF16 else linear.compute
    return Weights(linear.bits, routed.bits, 16.0, compute)


def read_weights(
    name: str,
    config: Mapping[str, Any],
    *,
    layers: int,
    attention_share: float,
    has_experts: bool,
) -> Weights:
    """Read the weights of a config.json.

    `attention_share` is the part of the non-expert linear parameters that attention has (0 to
    1): what a checkpoint leaves unquantised is weighed by it. Raises `Refused` for a format
    that is not known.
    """
    stored = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16")
    if stored not in _PLAIN_BITS:
        raise Refused(f"{name}: torch_dtype {stored!r} is not one of {', '.join(_PLAIN_BITS)}")
    other = min(_PLAIN_BITS[stored], 16.0)  # engines serve float32 checkpoints in 16 bits
    quantised = config.get("quantization_config")
    if quantised is None:
        return Weights(other, other, other, Dtype.BF16)
    if not isinstance(quantised, Mapping):
        raise Refused(f"{name}: quantization_config must be an object, got {quantised!r}")
    if str(quantised.get("quant_method", "")).lower() == "mxfp4":  # experts only
        mxfp4 = Precision.MXFP4
        return Weights(other, mxfp4.bits if has_experts else other, other, mxfp4.compute)
    bits, compute = _bits(name, quantised)
    linear = _linear_bits(quantised, layers, attention_share, (bits, other))
    return Weights(linear, bits, other, compute, _block(name, quantised))


def _block(name: str, quantised: Mapping[str, Any]) -> int:
    sides = quantised.get("weight_block_size")
    if sides is None:
        return 0
    if not isinstance(sides, list) or not sides or not all(isinstance(x, int) for x in sides):
        raise Refused(
            f"{name}: quantization_config.weight_block_size must be a list of integers, got "
            f"{sides!r}"
        )
    return int(max(sides))


def _bits(name: str, quantised: Mapping[str, Any]) -> tuple[float, Dtype]:
    """Bits per quantised parameter, and what multiplies them."""
    method = str(quantised.get("quant_method", "")).lower()
    algorithm = str(quantised.get("quant_algo") or "").upper()
    if algorithm:
        return _modelopt_bits(name, algorithm)
    groups = quantised.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        return _group_bits(name, next(iter(groups.values())))
    if method in ("fp8", "fbgemm_fp8"):
        return Precision.FP8.bits, Dtype.FP8
    if method == "bitsandbytes":  # 4 bits with one 32-bit scale per 64 values, or 8
        return (8.0, Dtype.INT8) if quantised.get("load_in_8bit") else (4.5, Dtype.BF16)
    if method in ("awq", "gptq", "compressed-tensors", "gptq_marlin", "awq_marlin", "auto-round"):
        bits = _positive(name, quantised, "bits", 4)
        return bits + 16.0 / _positive(name, quantised, "group_size", 128), Dtype.BF16
    raise Refused(
        f"{name}: quantization_config.quant_method {method!r} is not known "
        "(fp8, mxfp4, modelopt, awq, gptq, compressed-tensors, bitsandbytes)"
    )


def _modelopt_bits(name: str, algorithm: str) -> tuple[float, Dtype]:
    known = {
        "FP8": (8.0, Dtype.FP8), "FP8_PB_WO": (8.0, Dtype.FP8),
        "FP8_PER_CHANNEL_PER_TOKEN": (8.0, Dtype.FP8), "NVFP4": (4.5, Dtype.FP4),
        "NVFP4_AWQ": (4.5, Dtype.FP4), "MXFP8": (8.25, Dtype.FP8), "W4A16_AWQ": (4.125, Dtype.BF16),
        "W4A8_AWQ": (4.125, Dtype.FP8), "INT4_AWQ": (4.125, Dtype.BF16),
    }  # fmt: skip
    if algorithm not in known:
        raise Refused(
            f"{name}: quantization_config.quant_algo {algorithm!r} is not known "
            f"({', '.join(known)})"
        )
    return known[algorithm]


def _group_bits(name: str, group: object) -> tuple[float, Dtype]:
    """Read one group of compressed-tensors: `weights` and `input_activations`."""
    group = group if isinstance(group, Mapping) else {}
    weights = group.get("weights")
    if not isinstance(weights, Mapping):
        raise Refused(f"{name}: quantization_config.config_groups has a group without weights")
    bits = _positive(name, weights, "num_bits", 4)
    size = weights.get("group_size") or 0
    is_float = weights.get("type") == "float"
    scales = (8.0 if is_float else 16.0) / size if isinstance(size, int) and size > 0 else 0.0
    computes = {(8, True): Dtype.FP8, (8, False): Dtype.INT8, (4, True): Dtype.FP4}
    weight_only = not group.get("input_activations")
    compute = Dtype.BF16 if weight_only else computes.get((int(bits), is_float), Dtype.BF16)
    if weight_only and is_float and bits == 8:  # the dialect of early FP8 checkpoints
        compute = Dtype.FP8
    return bits + scales, compute


def _positive(name: str, fields: Mapping[str, Any], field: str, default: int) -> float:
    value = fields.get(field)
    value = default if value is None or value == -1 else value  # -1: one group per channel
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 20:
        raise Refused(
            f"{name}: quantization_config.{field} must be a positive integer, got {value!r}"
        )
    return float(value)


_ATTENTION = re.compile(r"(self_attn|linear_attn|attention)[.*$\\]*$")
_FEED_FORWARD = re.compile(r"(shared_experts?|mlp)[.*$\\]*$|mlp.*down")
_LAYER = re.compile(r"layers\.(\d+)\.")


def _linear_bits(
    quantised: Mapping[str, Any], layers: int, attention_share: float, bits: tuple[float, float]
) -> float:
    """Mean bits of the non-expert linear weights; `bits` are (quantised, left alone)."""
    lists = (quantised.get(key) for key in _LEFT_ALONE)
    patterns = [str(p) for names in lists if isinstance(names, list) for p in names]
    attention = _share_left_alone(filter(_ATTENTION.search, patterns), layers)
    feed_forward = _share_left_alone(filter(_FEED_FORWARD.search, patterns), layers)
    alone = attention_share * attention + (1.0 - attention_share) * feed_forward
    return bits[0] * (1.0 - alone) + bits[1] * alone if alone < 0.999 else bits[1]


_LEFT_ALONE = ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers")


def _share_left_alone(patterns: Iterable[str], layers: int) -> float:
    """Share of the layers that the patterns name; one without a number names all."""
    named: set[int] = set()
    for pattern in patterns:
        found = _LAYER.search(pattern)
        if found is None:
            return 1.0
        named.add(int(found.group(1)))
    return min(len(named) / layers, 1.0)
