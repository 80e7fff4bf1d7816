"""The `EngineProfile`: what is known of one model on one GPU type under one engine.

A frozen value; `document` writes and reads it as a Kubernetes-style document. Every room
that predicts takes one; where none was measured, `resolve_profile` makes the analytical one.
"""

from dataclasses import dataclass
from enum import StrEnum

from profiler.analytical import analytical_cost
from profiler.architecture import Architecture, Precision, load_architecture, quantised
from profiler.calibrate import Residual
from profiler.configuration import Configuration, Quantization
from profiler.efficiencies import find_efficiency
from profiler.errors import Refused
from profiler.estimate import DATA_SHEET, GROUPS, Estimate, Uncertainty
from profiler.hardware import Gpu, find_gpu
from profiler.layout import ONE_GPU, Layout, check_layout
from profiler.memory import EngineMemory, check_fit, predict_memory
from profiler.operators import KvDtype, Replica
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.step_cost import StepCost
from profiler.surface import CapacitySurface

_START_UP_FIXED_S = 25.0
_LOAD_BYTES_S = 2e9
"""Priors: process start, compilation and graph capture; reading weights from a local disk."""
_WAKE_UP_S = 3.0


class Source(StrEnum):
    """Where a profile's constants come from."""

    ANALYTICAL = "analytical"
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where, when and from how much a profile was made; empty where nobody said."""

    driver: str = ""
    """GPU driver."""
    measured_at: str = ""
    """Date, ISO 8601."""
    points: int = 0
    """Measurements that it was fitted on."""
    notes: tuple[str, ...] = ()
    """What a reader should know: what was missing and what was used in its place."""


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Constants of one model × GPU × layout × engine."""

    model: str
    gpu: str
    layout: Layout
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
    kv_dtype: KvDtype = KvDtype.AUTO
    quantization: Quantization = Quantization.NONE
    """Weights as the engine quantised them at load; a checkpoint's own precision is `NONE`."""
    uncertainty: Uncertainty = DATA_SHEET
    """Relative errors of the step cost."""
    residuals: tuple[Residual, ...] = ()
    """What was measured beside what the constants make of it."""
    provenance: Provenance = Provenance()
    capacity: tuple[CapacitySurface, ...] = ()
    """What a replica carries, measured with the twin beforehand."""

    def surface(self, configuration: Configuration, slo: Slo) -> CapacitySurface | None:
        """Find the surface of a configuration under an objective."""
        return next(
            (s for s in self.capacity if s.configuration == configuration and s.slo == slo), None
        )

    @property
    def tensor_parallel_size(self) -> int:
        """GPUs that share every matrix."""
        return self.layout.tensor

    @property
    def estimate(self) -> Estimate:
        """The step cost with its errors."""
        return Estimate(self.cost, self.uncertainty, (self.source.value,) * len(GROUPS))

    def check_layout(self, configuration: Configuration) -> None:
        """Refuse a configuration that the constants were not made for."""
        asked, made = configuration.layout, self.layout
        for name, given, known in (
            ("tensor_parallel_size", asked.tensor, made.tensor),
            ("pipeline_parallel_size", asked.pipeline, made.pipeline),
            ("data_parallel_size", asked.data, made.data),
            ("enable_expert_parallel", asked.expert, made.expert),
            ("kv_cache_dtype", configuration.kv_cache_dtype.value, self.kv_dtype.value),
            ("quantization", configuration.quantization.value, self.quantization.value),
        ):
            if given != known:
                raise Refused(f"{name}: {given} is not what the profile is for: set it to {known}")

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
        what = f"{self.model} on {self.layout.gpus} × {self.gpu}"
        return Limits(
            max_num_seqs=configuration.max_num_seqs,
            max_num_batched_tokens=configuration.max_num_batched_tokens,
            num_blocks=check_fit(what, self.memory, configuration, longest),
            block_size=configuration.block_size,
            chunked_prefill=int(configuration.enable_chunked_prefill),
            prefix_caching=int(configuration.enable_prefix_caching),
            priority_scheduling=int(configuration.priority_scheduling),
            async_scheduling=int(configuration.async_scheduling),
            overlap_ratio=0.0,  # the constants are of engines that hide what they can
            pipeline_depth=configuration.pipeline_parallel_size,
            prefill_first=int(self.engine == "sglang"),
        )


def resolve_profile(
    model: str,
    gpu: str,
    layout: Layout = ONE_GPU,
    kv_dtype: KvDtype = KvDtype.AUTO,
    quantization: Quantization = Quantization.NONE,
) -> EngineProfile:
    """Make the analytical profile; raises `Refused` for an unknown model or GPU."""
    architecture, card = load_architecture(model), find_gpu(gpu)
    return profile_of(architecture, card, layout, kv_dtype, quantization)


def profile_of(
    architecture: Architecture,
    card: Gpu,
    layout: Layout,
    kv_dtype: KvDtype = KvDtype.AUTO,
    quantization: Quantization = Quantization.NONE,
) -> EngineProfile:
    """Make the analytical profile of what is known already, a slice of a card say."""
    check_layout(architecture, card, layout)
    architecture = _as_loaded(architecture, quantization)
    efficiency, uncertainty = find_efficiency(architecture, card.name)
    return EngineProfile(
        model=architecture.name,
        gpu=card.name,
        layout=layout,
        cost=analytical_cost(Replica(architecture, card, layout, kv_dtype, efficiency)),
        memory=predict_memory(architecture, card, layout, kv_dtype),
        max_model_len=architecture.max_model_len,
        start_up_s=_START_UP_FIXED_S + architecture.weight_bytes / _LOAD_BYTES_S,
        kv_dtype=kv_dtype,
        quantization=quantization,
        uncertainty=uncertainty,
    )


def _as_loaded(architecture: Architecture, quantization: Quantization) -> Architecture:
    """Quantise the weights as the engine does; `Refused` where they have few bits already."""
    if quantization is Quantization.NONE:
        return architecture
    if min(architecture.weights.linear_bits, architecture.weights.expert_bits) < 16:
        raise Refused(
            f"quantization: {architecture.name} is quantised already: leave it at "
            f"{Quantization.NONE}"
        )
    return quantised(architecture, Precision.FP8)
