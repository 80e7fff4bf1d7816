"""The LLMService resource, `serving.whaleflux.io/v1alpha1`.

Field names, bounds and docstrings here are the CRD: `whaleflux crds` writes it from these
types. No floats (milliseconds, percent and decimal strings instead), enums for choices.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from profiler.document import Document

GROUP = "serving.whaleflux.io"
VERSION = "v1alpha1"

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
"""Begins with a letter, as the Service named after it must; room is left for suffixes."""
Decimal = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?$", max_length=20)]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class ModelSpec(Document):
    """What is served."""

    uri: str = Field(min_length=1, max_length=1024)
    """Hub name, or a path that the engine can read."""
    served_name: str = Field(default="", max_length=253)
    """Name in requests; the uri when empty."""


class EngineType(StrEnum):
    """Which serving engine runs."""

    VLLM = "vllm"
    EMULATED = "emulated"


class EngineSpec(Document):
    """The engine and the options that are pinned; what is left open is recommended."""

    type: EngineType = EngineType.VLLM
    """The emulated engine needs no GPU: it serves predicted timings behind vLLM's API."""
    image: str = Field(default="", max_length=512)
    """Container image; the operator's default for the type when empty."""
    command: list[Argument] = Field(default_factory=list, max_length=16)
    """Program to run instead of the engine's own."""
    args: list[Argument] = Field(default_factory=list, max_length=64)
    """Further arguments, after those that WhaleFlux sets."""
    tensor_parallel_size: PositiveInt | None = Field(default=None, le=64)
    """GPUs of a replica."""
    max_num_seqs: PositiveInt | None = Field(default=None, le=8192)
    """Sequences in a batch."""
    max_num_batched_tokens: PositiveInt | None = Field(default=None, le=1048576)
    """Tokens in a step."""
    gpu_memory_utilization_percent: PositiveInt | None = Field(default=None, le=100)
    """Share of the card's memory that the engine may use."""
    max_model_len: PositiveInt | None = Field(default=None, le=10485760)
    """Longest prompt and answer together, tokens."""


class SloSpec(Document):
    """Latency that the given percentage of requests keep within."""

    ttft_ms: PositiveInt | None = Field(default=None, le=3600000)
    """Time to first token."""
    itl_ms: PositiveInt | None = Field(default=None, le=3600000)
    """Mean inter-token latency of a request."""
    e2e_ms: PositiveInt | None = Field(default=None, le=86400000, alias="e2eMs")
    """End-to-end latency."""
    percentile: PositiveInt = Field(default=95, le=99)
    """Percentage of requests that must attain it."""


class WorkloadSpec(Document):
    """What traffic to expect before any was seen."""

    requests_per_second: Decimal = "1"
    """Mean request rate."""
    input_tokens: PositiveInt = Field(default=1024, le=10485760)
    """Mean prompt length."""
    output_tokens: PositiveInt = Field(default=256, le=10485760)
    """Mean answer length."""
    burstiness: Decimal = "1"
    """Coefficient of variation of the gaps between requests; 1 is Poisson."""


class ScalingSpec(Document):
    """Bounds within which the controller chooses the number of serving replicas."""

    min: PositiveInt = Field(default=1, le=1000)
    """Fewest serving replicas."""
    max: PositiveInt = Field(le=1000)
    """Most serving replicas."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} exceeds max {self.max}: lower min or raise max")
        return self


class PlacementSpec(Document):
    """Where replicas run."""

    gpu: str = Field(min_length=1, max_length=63)
    """GPU type, a name of the catalogue."""
    profile: str = Field(default="", max_length=253)
    """EngineProfile to predict with; computed from data sheets when empty."""


class ResilienceSpec(Document):
    """What stands by for failures and bursts."""

    standbys: NonNegativeInt = Field(default=0, le=10)
    """Warm replicas kept beside the serving ones."""


class LLMServiceSpec(Document):
    """A model to serve, the latency to keep, and how far to scale."""

    model: ModelSpec
    """What is served."""
    engine: EngineSpec = Field(default_factory=EngineSpec)
    """Which engine, and its pinned options."""
    slo: SloSpec = Field(default_factory=SloSpec)
    """Latency objective."""
    workload: WorkloadSpec = Field(default_factory=WorkloadSpec)
    """Expected traffic."""
    replicas: NonNegativeInt | None = Field(default=None, le=1000)
    """Serving replicas, given by hand; excludes scaling. 1 when both are absent."""
    scaling: ScalingSpec | None = None
    """Let the controller choose the number of serving replicas."""
    placement: PlacementSpec
    """Which GPUs."""
    resilience: ResilienceSpec = Field(default_factory=ResilienceSpec)
    """Standbys."""

    @model_validator(mode="after")
    def _one_writer_of_replicas(self) -> Self:
        if self.replicas is not None and self.scaling is not None:
            raise ValueError("give replicas or scaling, not both")
        bounded = (self.slo.ttft_ms, self.slo.itl_ms, self.slo.e2e_ms)
        if self.scaling is not None and all(bound is None for bound in bounded):
            raise ValueError("scaling needs an slo: give slo.ttftMs, slo.itlMs or slo.e2eMs")
        return self


class ObjectMeta(BaseModel):
    """The part of Kubernetes' metadata that matters here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: DnsLabel
    namespace: str = "default"
    uid: str = ""
    generation: int = 1


class LLMService(BaseModel):
    """The resource as written in a manifest."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    api_version: Literal["serving.whaleflux.io/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["LLMService"]
    metadata: ObjectMeta
    spec: LLMServiceSpec
