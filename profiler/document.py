"""The `EngineProfile` as a Kubernetes-style document: read, validated, written.

Floats are decimal strings, as the API conventions ask.
"""

import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
)

from profiler.calibrate import Residual
from profiler.capacity_document import CapacitySpec
from profiler.configuration import Configuration, Quantization
from profiler.document_base import DecimalString, Document, decimal
from profiler.errors import Refused
from profiler.estimate import DATA_SHEET, GROUPS, OPERATORS, Uncertainty
from profiler.memory import EngineMemory
from profiler.operators import KvDtype
from profiler.profile import EngineProfile, Provenance, Source
from profiler.step_cost import GRID_TOKENS, StepCost, dense_curve

API_VERSION = "serving.whaleflux.io/v1alpha1"
KIND = "EngineProfile"


class DensePoint(Document):
    """One point of the dense curve."""

    tokens: int = Field(ge=1, le=1 << 24)
    """New tokens in the step."""
    s: DecimalString
    """What reading and multiplying the weights takes, seconds."""


class StepCostSpec(Document):
    """Constants of the step-cost formula, decimal strings in seconds or ratios."""

    step_overhead_s: DecimalString
    """Fixed cost of any step."""
    sequence_s: DecimalString = "0"
    """Per sequence in the step."""
    dense: list[DensePoint] = Field(min_length=1, max_length=256)
    """Work that depends on the number of tokens alone, by ascending tokens; straight lines
    between the points, level before the first."""
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
    prefill_kv_s: DecimalString = "0"
    """Reading one token of the context that a chunk attends to."""
    mixed_sequence_s: DecimalString = "0"
    """Per decoding sequence beside prefill."""
    padded_query_s: DecimalString = "0"
    """Per decoding sequence and token of the longest chunk beside it."""

    @field_validator("dense")
    @classmethod
    def _rises(cls, points: list[DensePoint]) -> list[DensePoint]:
        for before, after in pairwise(points):
            if after.tokens <= before.tokens or float(after.s) < float(before.s):
                raise ValueError(
                    f"the point at {after.tokens} tokens must have more tokens and no less time "
                    f"than the one at {before.tokens}"
                )
        return points

    def resolve(self) -> StepCost:
        """Turn the document into the value that kernels take."""
        names = [name for name in StepCost._fields if name not in ("dense_s", "window_tokens")]
        numbers: dict[str, Any] = {name: float(getattr(self, name)) for name in names}
        curve = dense_curve([p.tokens for p in self.dense], [float(p.s) for p in self.dense])
        return StepCost(dense_s=curve, window_tokens=self.window_tokens, **numbers)


class UncertaintySpec(Document):
    """Relative errors of the step cost by group, log standard deviations."""

    weights: DecimalString
    """Reading weights."""
    compute: DecimalString
    """Multiplying them."""
    prefill_attention: DecimalString
    """Attention of prefill chunks."""
    decode_attention: DecimalString
    """Attention of decodes."""
    mixed: DecimalString
    """What decodes cost more beside prefill."""
    link: DecimalString
    """Messages between GPUs."""
    overhead: DecimalString
    """Fixed cost of a step."""
    sequence: DecimalString
    """Cost of a sequence."""
    request: DecimalString
    """API time of a request."""


class ResidualSpec(Document):
    """One measurement beside what the constants make of it."""

    name: str = Field(max_length=127)
    """What was measured."""
    measured_s: DecimalString
    """Measured duration."""
    predicted_s: DecimalString
    """Predicted duration."""


class ProvenanceSpec(Document):
    """Where, when and from how much it was made."""

    driver: str = Field(default="", max_length=127)
    """GPU driver."""
    measured_at: str = Field(default="", max_length=63)
    """Date, ISO 8601."""
    points: NonNegativeInt = 0
    """Measurements it was fitted on."""
    notes: list[Annotated[str, Field(max_length=1023)]] = Field(default=[], max_length=64)
    """What was missing, and what was used in its place."""


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
    """KV cache of one token, in layers that attend to everything."""
    sampling_bytes_per_sequence: NonNegativeInt = 0
    """Sampler's peak per sequence of max_num_seqs."""
    hidden_bytes_per_batched_token: NonNegativeInt = 0
    """Hidden states held while sampling, per token of the largest step."""
    kv_bytes_per_sequence: NonNegativeInt = 0
    """What a sequence holds whatever its length: sliding windows, linear-attention state."""


class EngineProfileSpec(Document):
    """What is known of one model on one GPU type under one engine."""

    model: str = Field(min_length=1, max_length=253)
    """Model it was made for."""
    gpu: str = Field(min_length=1, max_length=63)
    """GPU type, a name of the catalogue or of one's own."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs that share every matrix."""
    pipeline_parallel_size: PositiveInt = 1
    """Stages that share the layers."""
    data_parallel_size: PositiveInt = 1
    """Schedulers that share the experts."""
    enable_expert_parallel: bool = False
    """Whole experts per GPU."""
    kv_cache_dtype: KvDtype = KvDtype.AUTO
    """How the KV cache is stored."""
    quantization: Quantization = Quantization.NONE
    """What the engine does to the weights as it loads them."""
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
    uncertainty: UncertaintySpec | None = None
    """How well the step cost is known."""
    residuals: list[ResidualSpec] = Field(default=[], max_length=512)
    """What was measured beside what the constants make of it."""
    provenance: ProvenanceSpec = ProvenanceSpec()
    """Where, when and from how much it was made."""
    capacity: list[CapacitySpec] = Field(default=[], max_length=16)
    """What a replica carries, worked out beforehand."""

    @property
    def _configuration(self) -> Configuration:
        """What the constants were made for."""
        return Configuration(
            tensor_parallel_size=self.tensor_parallel_size,
            pipeline_parallel_size=self.pipeline_parallel_size,
            data_parallel_size=self.data_parallel_size,
            enable_expert_parallel=self.enable_expert_parallel,
            kv_cache_dtype=self.kv_cache_dtype,
            quantization=self.quantization,
        )

    def resolve(self) -> EngineProfile:
        """Turn the document into the value that predictions take."""
        return EngineProfile(
            model=self.model,
            gpu=self.gpu,
            layout=self._configuration.layout,
            cost=self.step_cost.resolve(),
            memory=EngineMemory(
                **{f.name: float(getattr(self.memory, f.name)) for f in fields(EngineMemory)}
            ),
            max_model_len=self.max_model_len,
            start_up_s=self.start_up_ms / 1e3,
            wake_up_s=self.wake_up_ms / 1e3,
            engine=self.engine,
            engine_version=self.engine_version,
            source=self.source,
            kv_dtype=self.kv_cache_dtype,
            quantization=self.quantization,
            uncertainty=self._uncertainty(),
            residuals=tuple(
                Residual(r.name, float(r.measured_s), float(r.predicted_s)) for r in self.residuals
            ),
            provenance=Provenance(
                driver=self.provenance.driver,
                measured_at=self.provenance.measured_at,
                points=self.provenance.points,
                notes=tuple(self.provenance.notes),
            ),
            capacity=tuple(each.resolve(self._configuration) for each in self.capacity),
        )

    def _uncertainty(self) -> Uncertainty:
        if self.uncertainty is None:
            return DATA_SHEET if self.source is Source.ANALYTICAL else OPERATORS
        return Uncertainty(**{name: float(getattr(self.uncertainty, name)) for name in GROUPS})


def to_document(profile: EngineProfile, name: str) -> dict[str, Any]:
    """Write a profile as a Kubernetes-style document; `read_profile` reads it back."""
    layout = profile.layout
    spec = EngineProfileSpec(
        model=profile.model,
        gpu=profile.gpu,
        tensor_parallel_size=layout.tensor,
        pipeline_parallel_size=layout.pipeline,
        data_parallel_size=layout.data,
        enable_expert_parallel=layout.expert,
        kv_cache_dtype=profile.kv_dtype,
        quantization=profile.quantization,
        engine=profile.engine,
        engine_version=profile.engine_version,
        step_cost=_step_cost_spec(profile.cost),
        memory=MemorySpec(
            **{f.name: round(getattr(profile.memory, f.name)) for f in fields(EngineMemory)}
        ),
        max_model_len=profile.max_model_len,
        start_up_ms=round(profile.start_up_s * 1e3),
        wake_up_ms=round(profile.wake_up_s * 1e3),
        source=profile.source,
        uncertainty=UncertaintySpec(
            **{name: decimal(getattr(profile.uncertainty, name)) for name in GROUPS}
        ),
        residuals=[
            ResidualSpec(
                name=r.name, measured_s=decimal(r.measured_s), predicted_s=decimal(r.predicted_s)
            )
            for r in profile.residuals
        ],
        provenance=ProvenanceSpec(
            driver=profile.provenance.driver,
            measured_at=profile.provenance.measured_at,
            points=profile.provenance.points,
            notes=list(profile.provenance.notes),
        ),
        capacity=[CapacitySpec.of(surface) for surface in profile.capacity],
    )
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": spec.model_dump(mode="json", by_alias=True),
    }


def profile_name(profile: EngineProfile) -> str:
    """Name of the document: model, GPU and layout, in a Kubernetes name's letters."""
    model = profile.model.rstrip("/").split("/")[-1]
    text = f"{model}-{profile.gpu}-{profile.layout}".lower()
    return "".join(ch if ch.isalnum() else "-" for ch in text).strip("-")[:63].rstrip("-")


def as_yaml(profile: EngineProfile) -> str:
    """Write a profile as YAML, under its own name."""
    return yaml.safe_dump(to_document(profile, profile_name(profile)), sort_keys=False)


def write_profile(profile: EngineProfile, file: Path) -> None:
    """Write a profile to a file; `Refused` where that cannot be written."""
    try:
        file.write_text(as_yaml(profile), encoding="utf-8")
    except OSError as error:
        raise Refused(f"{file}: cannot be written: {error.strerror}") from error


def _step_cost_spec(cost: StepCost) -> StepCostSpec:
    numbers: dict[str, Any] = {
        name: decimal(value)
        for name, value in cost._asdict().items()
        if name not in {"dense_s", "window_tokens"}
    }
    points = [
        DensePoint(tokens=tokens, s=decimal(seconds))
        for tokens, seconds in zip(GRID_TOKENS.astype(int).tolist(), cost.dense_s, strict=True)
    ]
    return StepCostSpec(dense=points, window_tokens=cost.window_tokens, **numbers)


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
