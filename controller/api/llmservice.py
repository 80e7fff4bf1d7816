"""The LLMService resource, `serving.whaleflux.io/v1alpha1`.

Field names, bounds and docstrings here are the CRD: `whaleflux crds` writes it from these
types. No floats (milliseconds, percent and decimal strings instead), enums for choices.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from profiler.document_base import Document

GROUP = "serving.whaleflux.io"
VERSION = "v1alpha1"

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
"""Begins with a letter, as the Service named after it must; room is left for suffixes."""
Decimal = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?$", max_length=20)]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][-a-z0-9.]*$", max_length=253)]


class ModelCacheSpec(Document):
    """A volume that the service's Pods share."""

    claim_name: DnsName
    """PersistentVolumeClaim in the service's namespace."""
    path: str = Field(default="/model-cache", pattern=r"^/[^:]*$", max_length=1024)
    """Where it is mounted; `HF_HOME` of the engine."""


class SecretKeySpec(Document):
    """A key of a Secret in the service's namespace."""

    name: DnsName
    """Secret."""
    key: str = Field(default="token", pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)
    """Key in it."""


class ModelSpec(Document):
    """What is served."""

    uri: str = Field(min_length=1, max_length=1024)
    """Hub name, or a path that the engine can read."""
    served_name: str = Field(default="", max_length=253)
    """Name in requests; the uri when empty."""
    revision: str = Field(default="", max_length=253)
    """Branch, tag or commit of a hub's repository; its default when empty."""
    cache: ModelCacheSpec | None = None
    """Where downloaded weights are kept; each Pod downloads its own when absent."""
    token_secret: SecretKeySpec | None = None
    """Token for a hub's gated models; WhaleFlux itself never reads it."""


class EngineType(StrEnum):
    """Which serving engine runs."""

    VLLM = "vllm"
    EMULATED = "emulated"


class Switch(StrEnum):
    """On or off, where leaving it open is a third answer."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"


class KvCacheChoice(StrEnum):
    """How the KV cache may be stored."""

    AUTO = "auto"
    FP8 = "fp8"
    ANY = "any"


class QuantizationChoice(StrEnum):
    """What the engine may do to the weights as it loads them."""

    NONE = "none"
    FP8 = "fp8"
    ANY = "any"


Notes = Annotated[dict[str, str], Field(max_length=64)]


class PodMetadataSpec(Document):
    """Metadata of a Pod; what WhaleFlux finds its Pods by cannot be changed."""

    labels: Notes = Field(default_factory=dict)
    """Further labels."""
    annotations: Notes = Field(default_factory=dict)
    """Further annotations."""


class PodTemplateSpec(Document):
    """What a Pod has beside what WhaleFlux gives it."""

    metadata: PodMetadataSpec | None = None
    """Labels and annotations."""
    spec: dict[str, Any] = Field(
        default_factory=dict, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Fields of a Kubernetes PodSpec."""


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
    pod_template: PodTemplateSpec | None = None
    """Laid over each engine's Pod by strategic merge; the container is `engine`."""
    tensor_parallel_size: PositiveInt | None = Field(default=None, le=64)
    """GPUs that share every matrix."""
    pipeline_parallel_size: PositiveInt | None = Field(default=None, le=64)
    """Stages that share the layers."""
    data_parallel_size: PositiveInt | None = Field(default=None, le=64)
    """Schedulers of a replica that share its experts."""
    expert_parallel: Switch | None = None
    """Whole experts per GPU instead of a slice of each."""
    kv_cache_dtype: KvCacheChoice = KvCacheChoice.AUTO
    """How the KV cache is stored; `any` lets the search choose FP8, which changes answers a
    little."""
    quantization: QuantizationChoice = QuantizationChoice.NONE
    """What the engine does to the weights as it loads them; `any` lets the search choose FP8."""
    chunked_prefill: Switch | None = None
    """A step may compute part of a prompt."""
    prefix_caching: Switch | None = None
    """Prompts that begin alike share their KV cache."""
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
    prefix_hit_percent: NonNegativeInt = Field(default=0, le=99)
    """Share of the prompts' tokens that the prefix cache holds already."""


class ScalingMode(StrEnum):
    """Who counts the serving replicas; protection goes on in any."""

    AUTO = "Auto"
    ADVISE = "Advise"
    MANUAL = "Manual"


class ScalingSpec(Document):
    """Bounds within which the controller chooses the number of serving replicas."""

    min: PositiveInt = Field(default=1, le=1000)
    """Fewest serving replicas."""
    max: PositiveInt = Field(le=1000)
    """Most serving replicas."""
    mode: ScalingMode = ScalingMode.AUTO
    """Auto: scale. Advise: say how many there should be, and leave the count. Manual: leave it."""
    budget_gpus: PositiveInt | None = Field(default=None, le=100_000)
    """GPUs that serving replicas may use at most; default: as many as max takes."""
    zero_after_seconds: PositiveInt | None = Field(default=None, ge=60, le=604_800)
    """None serve once nobody has asked for so long; a request brings one back. Default: never."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} exceeds max {self.max}: lower min or raise max")
        return self


GpuName = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class GpuOfferSpec(Document):
    """A GPU type to choose from."""

    gpu: GpuName
    """GPU type, a name of the catalogue."""
    price_per_hour: Decimal = "1"
    """What one GPU costs an hour, in any currency; 1 counts GPUs."""


class PlacementSpec(Document):
    """Where replicas run."""

    gpu: GpuName | None = None
    """GPU type, a name of the catalogue; excludes gpus."""
    gpus: list[GpuOfferSpec] | None = Field(default=None, min_length=1, max_length=16)
    """GPU types to choose from: replicas run on the cheapest, and on the others while that has no
    room; excludes gpu and profile."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Where services share a pool that is short: the higher one first."""
    node_gpus: PositiveInt = Field(default=8, le=16)
    """GPUs of a node; a replica lies within one."""
    profile: str = Field(default="", max_length=253)
    """EngineProfile to predict with, of the service's namespace or the operator's; computed from
    data sheets when empty."""
    device_class: str = Field(default="", pattern=r"^[-a-z0-9.]*$", max_length=253)
    """DeviceClass to claim GPUs of (dynamic resource allocation); they are counted as
    `nvidia.com/gpu` when empty."""

    @model_validator(mode="after")
    def _one_way_to_name_gpus(self) -> Self:
        if (self.gpu is None) == (self.gpus is None):
            raise ValueError("give gpu or gpus, and not both")
        if self.gpus is not None and self.profile:
            raise ValueError("a profile is for one GPU type: give gpu instead of gpus")
        if self.gpus is not None and self.device_class:
            raise ValueError("a deviceClass is for one GPU type: give gpu instead of gpus")
        return self


class RouterType(StrEnum):
    """Who sends requests to replicas."""

    VLLM_ROUTER = "VllmRouter"
    INFERENCE_POOL = "InferencePool"


class EndpointPickerSpec(Document):
    """The Service that picks a replica for a Gateway."""

    name: DnsName
    """Service in the service's namespace."""
    port: PositiveInt = Field(default=9002, le=65535)
    """Its gRPC port."""


class RouterSpec(Document):
    """How requests find a replica in a cluster."""

    type: RouterType = RouterType.VLLM_ROUTER
    """VllmRouter: a router of the service's own. InferencePool: a Gateway's, where that is
    installed."""
    replicas: PositiveInt = Field(default=2, le=16)
    """Of the service's own router."""
    endpoint_picker: EndpointPickerSpec | None = None
    """For type InferencePool."""

    @model_validator(mode="after")
    def _somebody_picks(self) -> Self:
        if (self.type is RouterType.INFERENCE_POOL) != (self.endpoint_picker is not None):
            raise ValueError("give endpointPicker with type InferencePool, and only then")
        return self


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
    router: RouterSpec = Field(default_factory=RouterSpec)
    """Who sends requests to replicas."""

    @model_validator(mode="after")
    def _one_writer_of_replicas(self) -> Self:
        if self.replicas is not None and self.scaling is not None:
            raise ValueError("give replicas or scaling, not both")
        bounded = (self.slo.ttft_ms, self.slo.itl_ms, self.slo.e2e_ms)
        if self.scaling is not None and all(bound is None for bound in bounded):
            raise ValueError("scaling needs an slo: give slo.ttftMs, slo.itlMs or slo.e2eMs")
        sleeps = self.scaling is not None and self.scaling.zero_after_seconds is not None
        if sleeps and self.router.type is RouterType.INFERENCE_POOL:
            raise ValueError(
                "scaling.zeroAfterSeconds needs router.type VllmRouter, which holds "
                "requests while nobody serves"
            )
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
