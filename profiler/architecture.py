"""Find a model's architecture: a bundled name, a folder, a `config.json`; in any precision.

Nothing is fetched: a name is looked up among the bundled facts (`models.json`), a path is
read from disk.
"""

import json
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from profiler.errors import Refused
from profiler.model_config import parse_config
from profiler.quantisation import Precision, Weights, weights_of
from profiler.transformer import Architecture, Experts, LatentAttention, LinearAttention

__all__ = [
    "PUBLISHED",
    "Architecture",
    "Experts",
    "LatentAttention",
    "LinearAttention",
    "Precision",
    "Weights",
    "bundled_models",
    "load_architecture",
    "parse_config",
    "quantised",
    "served_as",
]


def quantised(
    architecture: Architecture, precision: Precision, experts: Precision | None = None
) -> Architecture:
    """Give the same model with weights in another precision; embeddings and head in BF16.

    `experts`: the routed experts alone, where a checkpoint treats them differently; the usual
    NVFP4 or INT4 mixture leaves the rest in BF16: `quantised(a, BF16, experts=NVFP4)`.
    """
    return replace(architecture, weights=weights_of(precision, experts))


def served_as(model: str, linear: str = "", experts: str = "") -> Architecture:
    """Read `model` as a benchmark served it, in the precisions that the benchmark names.

    An empty name, or the width that the checkpoint has already, leaves it as published; a
    published checkpoint of that width comes next (`PUBLISHED`); otherwise all linear layers
    and experts are taken as quantised. Raises `Refused` for a name that is not known.
    """
    architecture = load_architecture(model)
    if not linear:
        return architecture
    wanted = Precision.named(linear)
    routed = Precision.named(experts) if experts and architecture.experts else wanted
    have = architecture.weights
    widest = have.expert_bits if architecture.experts else have.linear_bits
    if _width(widest) == _width(routed.bits):
        return architecture
    published = PUBLISHED.get((architecture.name, routed))
    return load_architecture(published) if published else quantised(architecture, wanted, routed)


def _width(bits: float) -> int:
    """Bits of a value without its scales."""
    return next(width for width in (4, 8, 16, 32) if bits < 1.5 * width)


PUBLISHED: dict[tuple[str, Precision], str] = {
    ("MiniMaxAI/MiniMax-M2.5", Precision.NVFP4): "nvidia/MiniMax-M2.5-NVFP4",
    ("Qwen/Qwen3-235B-A22B", Precision.FP8): "Qwen/Qwen3-235B-A22B-FP8",
    ("Qwen/Qwen3-235B-A22B", Precision.NVFP4): "nvidia/Qwen3-235B-A22B-NVFP4",
    ("Qwen/Qwen3-30B-A3B", Precision.FP8): "Qwen/Qwen3-30B-A3B-FP8",
    ("Qwen/Qwen3-32B", Precision.FP8): "Qwen/Qwen3-32B-FP8",
    ("Qwen/Qwen3.5-397B-A17B", Precision.FP8): "Qwen/Qwen3.5-397B-A17B-FP8",
    ("Qwen/Qwen3.5-397B-A17B", Precision.NVFP4): "nvidia/Qwen3.5-397B-A17B-NVFP4",
    ("moonshotai/Kimi-K2.5", Precision.NVFP4): "nvidia/Kimi-K2.5-NVFP4",
}
"""Checkpoints that treat layers differently: attention and shared experts often stay wider."""


def load_architecture(model: str) -> Architecture:
    """Read `model`: a bundled name, a folder with a `config.json`, or such a file.

    Raises `Refused` when it is none of these or describes no decoder-only transformer.
    """
    path = Path(model).expanduser()
    if path.is_dir() or path.suffix == ".json":
        file = path / "config.json" if path.is_dir() else path
        return parse_config(model, _with_modelopt(file, _read_json(file)))
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


def _with_modelopt(file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Add what ModelOpt says in a file of its own, where config.json is silent."""
    beside = file.with_name("hf_quant_config.json")
    if config.get("quantization_config") is not None or not beside.is_file():
        return config
    return {**config, "quantization_config": _read_json(beside).get("quantization")}


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
