"""The profile that a session's finding makes of a prior profile. Pure."""

from dataclasses import dataclass, replace

from profiler.architecture import Architecture
from profiler.layout import Layout
from profiler.measure.profiling.memory import generic_memory, measured_memory
from profiler.measure.profiling.phases import CacheFacts
from profiler.measure.profiling.session import Finding
from profiler.operators import KvDtype
from profiler.profile import EngineProfile, Provenance, Source
from profiler.step_cost import NO_WINDOW, StepCost, roofline_curve

_START_UP_S = 60.0
_NOTES = 64
_RESIDUALS = 512


@dataclass(frozen=True, slots=True)
class Context:
    """What is known beside the measurements."""

    cache: CacheFacts
    batched_tokens: int
    """`max_num_batched_tokens` of the engine."""
    engine_version: str
    driver: str
    measured_at: str
    """ISO 8601; the caller reads the clock."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Names:
    """What an engine without a prior profile is called."""

    model: str
    gpu: str
    layout: Layout
    kv_dtype: KvDtype
    max_model_len: int


def generic_profile(
    names: Names, architecture: Architecture | None, cache: CacheFacts
) -> EngineProfile:
    """A profile to be measured: names, and the memory that the engine's report implies."""
    nothing = dict.fromkeys(StepCost._fields, 0.0) | {
        "dense_s": roofline_curve(0.0, 0.0), "mixed_kv_ratio": 1.0, "window_tokens": NO_WINDOW,
    }  # fmt: skip
    return EngineProfile(
        model=names.model,
        gpu=names.gpu,
        layout=names.layout,
        cost=StepCost(**nothing),  # type: ignore[arg-type]  # a field each
        memory=generic_memory(architecture, cache),
        max_model_len=names.max_model_len,
        start_up_s=_START_UP_S,
        kv_dtype=names.kv_dtype,
    )


def assemble(prior: EngineProfile, finding: Finding, context: Context) -> EngineProfile:
    """Constants, residuals, uncertainty, memory and provenance of what was measured."""
    memory, about_memory = measured_memory(prior.memory, context.cache, context.batched_tokens)
    found = finding.calibration
    notes = (
        *finding.notes,
        *about_memory,
        *context.notes,
        f"points left out in turn: mean error {found.mean_error_ratio:.1%}",
        "start-up and wake-up times: the prior's, not measured",
    )
    return replace(
        prior,
        cost=found.estimate.cost,
        memory=memory,
        engine_version=context.engine_version,
        source=Source.MEASURED,
        uncertainty=found.estimate.uncertainty,
        residuals=(found.held_out or found.residuals)[:_RESIDUALS],
        provenance=Provenance(
            driver=context.driver,
            measured_at=context.measured_at,
            points=finding.points,
            notes=tuple(note[:1023] for note in notes[:_NOTES]),
        ),
    )
