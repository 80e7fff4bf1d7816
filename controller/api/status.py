"""What the operator writes into `.status` of an LLMService."""

from typing import Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt

from controller.api.llmservice import Switch
from profiler.configuration import Quantization
from profiler.document_base import Document
from profiler.operators import KvDtype


class _Field(Document):
    model_config = ConfigDict(extra="ignore")  # a later version may have written more


class Condition(_Field):
    """One aspect of the service's state, as Kubernetes' conventions define it."""

    type: str = Field(max_length=316)
    """Aspect."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str = Field(max_length=1024)
    """Why, in CamelCase."""
    message: str = Field(default="", max_length=32768)
    """Why, in a sentence."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When the status last changed."""
    observed_generation: NonNegativeInt = 0
    """Generation that this was written for."""


class ReplicasByRole(_Field):
    """Replicas there are."""

    serving: NonNegativeInt = 0
    """Behind the router."""
    standby: NonNegativeInt = 0
    """Ready, outside the router."""
    starting: NonNegativeInt = 0
    """Asked for and not ready."""
    draining: NonNegativeInt = 0
    """Finishing what they hold."""
    failed: NonNegativeInt = 0
    """About to be removed."""


class FallbackStatus(_Field):
    """Serving replicas on another GPU type than the one in `configuration`."""

    gpu: str
    """GPU type."""
    serving: NonNegativeInt
    """Behind the router."""
    desired: NonNegativeInt
    """Decided on."""


class LastDecision(_Field):
    """The last decision and why."""

    serving: NonNegativeInt
    """Serving replicas decided on."""
    standby: NonNegativeInt
    """Standbys decided on."""
    reason: str
    """Why, in CamelCase."""
    message: str
    """Why, in a sentence with its numbers."""
    time: str = Field(json_schema_extra={"format": "date-time"})
    """When it was made."""


class ConfigurationStatus(_Field):
    """The engine configuration in force, and why it was chosen."""

    gpu: str = ""
    """GPU type."""
    tensor_parallel_size: NonNegativeInt
    """GPUs that share every matrix."""
    pipeline_parallel_size: PositiveInt = 1
    """Stages that share the layers."""
    data_parallel_size: PositiveInt = 1
    """Schedulers that share the experts."""
    expert_parallel: Switch = Switch.DISABLED
    """Whole experts per GPU."""
    kv_cache_dtype: KvDtype = KvDtype.AUTO
    """How the KV cache is stored."""
    quantization: Quantization = Quantization.NONE
    """What the engine does to the weights as it loads them."""
    max_num_seqs: NonNegativeInt
    """Sequences in a batch."""
    max_num_batched_tokens: NonNegativeInt
    """Tokens in a step."""
    gpu_memory_utilization_percent: NonNegativeInt
    """Share of the card's memory."""
    max_model_len: NonNegativeInt
    """Longest sequence, tokens."""
    chunked_prefill: Switch = Switch.ENABLED
    """A step may compute part of a prompt."""
    prefix_caching: Switch = Switch.ENABLED
    """Prompts that begin alike share their KV cache."""
    requests_per_second_per_replica: str
    """What one replica carries within the SLO, decimal."""
    reason: str = Field(default="", max_length=1024)
    """Why, in CamelCase: Recommended, Kept."""
    message: str = Field(default="", max_length=32768)
    """Why, in a sentence with its numbers."""


class LLMServiceStatus(_Field):
    """What the operator sees and does."""

    observed_generation: NonNegativeInt = 0
    """Generation of the spec that this describes."""
    replicas: NonNegativeInt = 0
    """Serving replicas."""
    desired_replicas: NonNegativeInt = 0
    """Serving replicas decided on."""
    advised_replicas: NonNegativeInt | None = None
    """Serving replicas advised, in mode Advise."""
    prediction_error_percent: str = ""
    """Mean error of forecasts of the load over the last hour; empty: too little seen."""
    selector: str = ""
    """Label selector of the serving replicas."""
    replicas_by_role: ReplicasByRole | None = None
    """All replicas."""
    fallbacks: list[FallbackStatus] = Field(default_factory=list, max_length=16)
    """Replicas where the first GPU type has no room."""
    endpoint: str = ""
    """Address inside the cluster."""
    slo_attainment_percent: str = ""
    """Share of the last minute's requests within the SLO; empty: none ended."""
    configuration: ConfigurationStatus | None = None
    """Engine configuration in force."""
    last_decision: LastDecision | None = None
    """Last decision."""
    conditions: list[Condition] = Field(
        default_factory=list,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    """Ready sums the others up."""
