"""The `EngineProfile`: what is known of one model on one GPU type under one engine.

A frozen value inside (`EngineProfile`), a Kubernetes-style document outside
(`EngineProfileSpec`): floats are decimal strings there, as the API conventions ask. Every
room that predicts takes one; where none was measured, `resolve_profile` makes the
analytical one.
"""

import re
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from pydantic.alias_generators import to_camel

from profiler.analytical import analytical_cost
from profiler.architecture import load_architecture
from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.hardware import find_gpu
from profiler.memory import EngineMemory, check_fit, predict_memory
from profiler.operators import Replica
from profiler.scheduler import Limits
from profiler.step_cost import StepCost

API_VERSION = "serving.whaleflux.io/v1alpha1"
KIND = "EngineProfile"

_START_UP_FIXED_S = 25.0
_LOAD_BYTES_S = 2e9
"""Priors: process start, compilation and graph capture; reading weights from a local disk."""
_WAKE_UP_S = 3.0


class Source(StrEnum):
    """Where a profile's constants come from."""

    ANALYTICAL = "analytical"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Constants of one model × GPU × tensor parallel size × engine."""

    model: str
    gpu: str
    tensor_parallel_size: int
    cost: StepCost
    memory: EngineMemory
    max_model_len: int
    """Longest sequence the model allows, tokens."""
    start_up_s: float
    """From process start to ready; a prior until starts were measured."""
    wake_up_s: float = _WAKE_UP_S
    engine: str = "vllm"
    engine_version: str = ""
    source: Source = Source.ANALYTICAL

    def limits(self, configuration: Configuration) -> Limits:
        """What bounds the scheduler under `configuration`; raises `DoesNotFit`."""
        longest = configuration.max_model_len or self.max_model_len
        if not configuration.enable_chunked_prefill and (
            longest > configuration.max_num_batched_tokens
        ):
            raise Refused(
                f"max_num_batched_tokens {configuration.max_num_batched_tokens} must be at least "
                f"max_model_len {longest} without chunked prefill: raise it or enable that"
            )
        what = f"{self.model} on {self.tensor_parallel_size} × {self.gpu}"
        return Limits(
            max_num_seqs=configuration.max_num_seqs,
            max_num_batched_tokens=configuration.max_num_batched_tokens,
            num_blocks=check_fit(what, self.memory, configuration, longest),
            block_size=configuration.block_size,
            chunked_prefill=int(configuration.enable_chunked_prefill),
            prefix_caching=int(configuration.enable_prefix_caching),
        )


def resolve_profile(model: str, gpu: str, tensor_parallel_size: int = 1) -> EngineProfile:
    """Make the analytical profile; raises `Refused` for an unknown model or GPU."""
    architecture, card = load_architecture(model), find_gpu(gpu)
    if architecture.heads % tensor_parallel_size:
        raise Refused(
            f"tensor_parallel_size: {tensor_parallel_size} does not divide the "
            f"{architecture.heads} attention heads of {architecture.name}"
        )
    if tensor_parallel_size > card.link_domain:
        raise Refused(
            f"tensor_parallel_size: {tensor_parallel_size} exceeds the {card.link_domain} "
            f"{card.name} that one node joins by {card.link}"
        )
    return EngineProfile(
        model=architecture.name,
        gpu=card.name,
        tensor_parallel_size=tensor_parallel_size,
        cost=analytical_cost(Replica(architecture, card, tensor_parallel_size)),
        memory=predict_memory(architecture, card, tensor_parallel_size),
        max_model_len=architecture.max_model_len,
        start_up_s=_START_UP_FIXED_S + architecture.weight_bytes / _LOAD_BYTES_S,
    )


DecimalString = Annotated[
    str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$", max_length=40)
]


class Document(BaseModel):
    """Base of what users write: camelCase outside, frozen, no unknown fields."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class StepCostSpec(Document):
    """Constants of the step-cost formula, decimal strings in seconds or ratios."""

    step_overhead_s: DecimalString
    """Fixed cost of any step."""
    sequence_s: DecimalString = "0"
    """Per sequence in the step."""
    token_compute_s: DecimalString
    """Dense compute of one token."""
    weights_s: DecimalString
    """Reading the weights that every step needs."""
    expert_weights_s: DecimalString = "0"
    """Reading all routed experts."""
    expert_miss_ratio: DecimalString = "0"
    """Share of the routed experts that one token does not touch."""
    token_link_s: DecimalString = "0"
    """Messages between GPUs, per token."""
    prefill_pair_s: DecimalString = "0"
    """Prefill attention per pair of tokens."""
    prefill_window_pair_s: DecimalString = "0"
    """The same for sliding-window layers."""
    kv_token_s: DecimalString = "0"
    """Decode attention per token of context."""
    kv_window_token_s: DecimalString = "0"
    """The same for sliding-window layers."""
    mixed_kv_ratio: DecimalString = "1"
    """How much dearer decode attention is beside prefill."""
    window_tokens: PositiveInt = 1 << 40
    """What sliding-window layers see."""
    request_s: DecimalString = "0"
    """API time of a request before the scheduler sees it."""


class MemorySpec(Document):
    """Bytes on each GPU of a replica."""

    total_bytes: PositiveInt
    """Memory of the card."""
    weights_bytes: NonNegativeInt
    """Weights."""
    activation_bytes_per_batched_token: NonNegativeInt = 0
    """Activation peak per token of the largest step."""
    non_torch_bytes: NonNegativeInt = 0
    """Driver, communication and other memory outside the framework."""
    kv_bytes_per_token: PositiveInt
    """KV cache of one token."""


class EngineProfileSpec(Document):
    """What is known of one model on one GPU type under one engine."""

    model: str = Field(min_length=1, max_length=253)
    """Model it was made for."""
    gpu: str = Field(min_length=1, max_length=63)
    """GPU type, a name of the catalogue or of one's own."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs of a replica."""
    engine: str = Field(default="vllm", max_length=63)
    """Serving engine."""
    engine_version: str = Field(default="", max_length=63)
    """Version of the engine that was measured."""
    step_cost: StepCostSpec
    """What one engine step costs."""
    memory: MemorySpec
    """Where the memory goes."""
    max_model_len: PositiveInt
    """Longest sequence, tokens."""
    start_up_ms: NonNegativeInt
    """From process start to ready."""
    wake_up_ms: NonNegativeInt = 3000
    """From asleep to ready."""
    source: Source = Source.MEASURED
    """Whether the constants were measured or computed from data sheets."""

    def resolve(self) -> EngineProfile:
        """Turn the document into the value that predictions take."""
        cost: dict[str, Any] = {n: float(getattr(self.step_cost, n)) for n in StepCost._fields}
        return EngineProfile(
            model=self.model,
            gpu=self.gpu,
            tensor_parallel_size=self.tensor_parallel_size,
            cost=StepCost(**cost)._replace(window_tokens=self.step_cost.window_tokens),
            memory=EngineMemory(
                **{f.name: float(getattr(self.memory, f.name)) for f in fields(EngineMemory)}
            ),
            max_model_len=self.max_model_len,
            start_up_s=self.start_up_ms / 1e3,
            wake_up_s=self.wake_up_ms / 1e3,
            engine=self.engine,
            engine_version=self.engine_version,
            source=self.source,
        )


def to_document(profile: EngineProfile, name: str) -> dict[str, Any]:
    """Write a profile as a Kubernetes-style document; `read_profile` reads it back."""
    cost: dict[str, Any] = {k: _decimal(v) for k, v in profile.cost._asdict().items()}
    cost["window_tokens"] = profile.cost.window_tokens
    spec = EngineProfileSpec(
        model=profile.model,
        gpu=profile.gpu,
        tensor_parallel_size=profile.tensor_parallel_size,
        engine=profile.engine,
        engine_version=profile.engine_version,
        step_cost=StepCostSpec(**cost),
        memory=MemorySpec(
            **{f.name: round(getattr(profile.memory, f.name)) for f in fields(EngineMemory)}
        ),
        max_model_len=profile.max_model_len,
        start_up_ms=round(profile.start_up_s * 1e3),
        wake_up_ms=round(profile.wake_up_s * 1e3),
        source=profile.source,
    )
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": spec.model_dump(mode="json", by_alias=True),
    }


def _decimal(value: float) -> str:
    return str(Decimal(f"{value:.9g}"))


def read_profile(source: str) -> EngineProfile:
    """Read an `EngineProfile` document from a YAML file, or inline when it begins with `{`.

    `Refused` names what is wrong.
    """
    inline = source.lstrip().startswith("{")
    try:
        text = source if inline else Path(source).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except OSError as error:
        raise Refused(f"profile: cannot read {source}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise Refused(f"profile: is not YAML: {_one_line(error)}") from error
    return parse_profile_document(content, "the document" if inline else source)


def parse_profile_document(content: object, place: str) -> EngineProfile:
    """Validate a document; `place` says where it came from."""
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise Refused(f"profile: {place} holds no {KIND} document")
    try:
        return EngineProfileSpec.model_validate(content.get("spec")).resolve()
    except ValidationError as error:
        raise Refused(f"profile: {place}: {first_fault(error, 'spec')}") from error


def first_fault(error: ValidationError, root: str = "") -> str:
    """One line for the first fault of a document: the field's path and what is wrong."""
    faults = error.errors(include_url=False, include_context=False)
    parts = [root] if root else []
    place = ".".join([*parts, *(str(part) for part in faults[0]["loc"])]) or "document"
    message = re.sub(r"^Value error, ", "", str(faults[0]["msg"]))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{place}: {message}{more}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
