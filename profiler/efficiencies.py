"""What kernels reach of the data sheet: a population, and how its members differ from it.

`efficiencies.json` holds constants fitted on public end-to-end measurements, and effects: by
how much an engine, a version of it, a GPU, a model's shape, and a combination of these were
off, shrunk towards none where few rows said so. An unknown member has no effect, and the
spread of its kin becomes its uncertainty.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from profiler.architecture import Architecture
from profiler.estimate import DATA_SHEET, Uncertainty
from profiler.operators import Efficiency

EFFECTS: dict[str, tuple[str, ...]] = {
    "compute": ("compute_bf16", "compute_fp8", "compute_fp4", "prefill_attention"),
    "bandwidth": ("weights", "kv"),
    "experts": ("experts_compute", "experts_weights"),
    "overhead": ("step_s", "layer_s", "expert_layer_s", "sequence_s"),
    "mixed": ("mixed_kv_ratio",),
    "request": ("request_s",),
}
"""Fields of `Efficiency` that each effect multiplies."""

LEVELS = ("engine", "version", "gpu", "shape", "deployment")


@dataclass(frozen=True, slots=True)
class Population:
    """Constants of everybody, and the effects of those that were seen."""

    base: Efficiency
    effects: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Level → member → effect → logarithm of its factor."""
    spread: Mapping[str, Mapping[str, float]]
    """Level → effect → standard deviation of that logarithm between members."""
    error: Mapping[str, float]
    """Effect → what is left even where all members are known."""


def members(architecture: Architecture, gpu: str, engine: str, version: str) -> dict[str, str]:
    """Name what a deployment is a member of, level by level."""
    experts = architecture.experts.count if architecture.experts else 0
    shape = (
        f"{architecture.layers} layers of {architecture.hidden_size}, "
        f"{architecture.heads} heads, {experts} experts"
    )
    return {
        "engine": engine,
        "version": f"{engine} {version}",
        "gpu": gpu,
        "shape": shape,
        "deployment": f"{shape} on {gpu}, {engine}",
    }


def with_effects(base: Efficiency, effects: Mapping[str, float]) -> Efficiency:
    """Multiply the fields of each effect by exp of its logarithm."""
    changes = {
        field: getattr(base, field) * math.exp(effects.get(effect, 0.0))
        for effect, fields in EFFECTS.items()
        for field in fields
    }
    return replace(base, **changes)


def find_efficiency(
    architecture: Architecture, gpu: str, engine: str = "vllm", version: str = ""
) -> tuple[Efficiency, Uncertainty]:
    """Best guess for a deployment nobody measured here, and how far to trust it."""
    known = population()
    total = dict.fromkeys(EFFECTS, 0.0)
    variance = {effect: known.error[effect] ** 2 for effect in EFFECTS}
    for level, member in members(architecture, gpu, engine, version).items():
        seen = known.effects[level].get(member)
        for effect in EFFECTS:
            if seen is None:
                variance[effect] += known.spread[level][effect] ** 2
            else:
                total[effect] += seen[effect]
    error = {effect: math.sqrt(v) for effect, v in variance.items()}
    uncertainty = replace(
        DATA_SHEET,
        weights=math.hypot(error["bandwidth"], error["experts"] if architecture.experts else 0.0),
        compute=math.hypot(error["compute"], error["experts"] if architecture.experts else 0.0),
        decode_attention=max(error["bandwidth"], 0.15),
        prefill_attention=max(error["compute"], 0.25),
        mixed=max(error["mixed"], 0.2),
        overhead=error["overhead"],
        sequence=error["overhead"],
        request=error["request"],
    )
    return with_effects(known.base, total), uncertainty


@cache
def population() -> Population:
    """Read what is shipped."""
    text = files("profiler").joinpath("efficiencies.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return Population(
        base=Efficiency(**content["base"]),
        effects=content["effects"],
        spread=content["spread"],
        error=content["error"],
    )
