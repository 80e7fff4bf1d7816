"""A service as the controller runs it: the manifest, resolved once.

What the manifest leaves open is recommended here; everything below takes the frozen
`Service` and never looks at a manifest again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NewType

from controller.api.llmservice import (
    EngineType,
    LLMService,
    LLMServiceSpec,
    ModelCacheSpec,
    PodTemplateSpec,
    RouterSpec,
    ScalingMode,
    ScalingSpec,
    SecretKeySpec,
    SloSpec,
    WorkloadSpec,
)
from controller.configure import InForce, Origin, choose
from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.hardware import GPUS
from profiler.profile import EngineProfile
from profiler.slo import Slo
from recommender import (
    Candidate,
    Capacity,
    Workload,
    calm_capacity_rps,
    workload_from_hints,
)

ServiceId = NewType("ServiceId", str)
"""`namespace/name`."""

_UNBOUNDED = Slo(e2e_s=3600.0)
"""Sizing needs some objective; a service without one is never scaled by it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many replicas may serve; equal when they are given by hand."""

    low: int
    high: int
    zero_after_s: float | None = None
    """None serve once nobody has asked for so long; None: never."""
    mode: ScalingMode = ScalingMode.AUTO
    granted: tuple[tuple[str, int], ...] = ()
    """Replicas that shared pools grant now, standbys included, by GPU type; no entry: no limit."""
    budget_gpus: int | None = None
    """GPUs that serving replicas may use at most."""

    @property
    def automatic(self) -> bool:
        """Whether there is anything to choose."""
        return self.low != self.high or self.zero_after_s is not None


@dataclass(frozen=True, slots=True)
class PodOptions:
    """How replicas run in a cluster; the local runtime has no use for it."""

    revision: str = ""
    cache: ModelCacheSpec | None = None
    token_secret: SecretKeySpec | None = None
    template: str = "{}"
    """Strategic merge over the Pod, JSON."""
    device_class: str = ""
    """GPUs are claimed of it; empty: they are counted as `nvidia.com/gpu`."""
    router: RouterSpec = field(default_factory=RouterSpec)


@dataclass(frozen=True, slots=True)
class Service:
    """A resolved LLMService."""

    id: ServiceId
    name: str
    namespace: str
    generation: int
    model: str
    served_name: str
    gpu: str
    gpu_product: str
    """Value of the node label `nvidia.com/gpu.product`."""
    engine: EngineType
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    slo: Slo
    bounds: Bounds
    standbys: int
    profile: EngineProfile
    configuration: Configuration
    capacity: Capacity
    """Of one replica for the workload in the manifest."""
    calm_rps: float
    """The same, if arrivals were calm: what is moved to the lengths and bursts that come."""
    workload: Workload
    priority: int = 0
    """On a shared pool; the higher one first."""
    origin: Origin = Origin.RECOMMENDED
    """Why this configuration, in a word."""
    why: str = ""
    """And in a sentence."""
    price_per_hour: float = 1.0
    """Of one GPU."""
    pods: PodOptions = field(default_factory=PodOptions)
    fallbacks: tuple["Service", ...] = ()
    """The same on other GPU types, for when this one has no room: what carries most for its price
    first."""

    @property
    def kinds(self) -> tuple["Service", ...]:
        """Every GPU type that it may run on, the one chosen first."""
        return self, *self.fallbacks

    def worth_of(self, other: "Service") -> float:
        """What a replica carries of the planned traffic, over one of the other's."""
        return self.capacity.rate_rps / other.capacity.rate_rps

    def on(self, gpu: str) -> "Service":
        """The service as replicas on one GPU type run it; its own where the name is empty."""
        return next((kind for kind in self.kinds if kind.gpu == gpu), self)


def service_id(namespace: str, name: str) -> ServiceId:
    """Make the id of a service."""
    return ServiceId(f"{namespace}/{name}")


def resolve_service(
    manifest: LLMService,
    profiles: Mapping[str, EngineProfile],
    in_force: InForce | None = None,
) -> Service:
    """Validate across documents and recommend what is left open.

    `in_force` is what replicas run already. Takes a good part of a second: the twin is
    searched. Raises `Refused` (unknown model, GPU or profile, a model that does not fit, an
    SLO that no configuration meets).
    """
    return made_service(manifest, answer_to(manifest.spec, profiles, in_force))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the search found for a spec; services that ask the same may share it."""

    slo: Slo
    workload: Workload
    origin: Origin
    why: str
    kinds: tuple[Mapping[str, Any], ...]
    """Fields of a `Service` that differ by GPU type, the one chosen first."""


def question_of(
    spec: LLMServiceSpec, profiles: Mapping[str, EngineProfile], in_force: InForce | None
) -> tuple[object, ...]:
    """Everything that the answer depends on, to be compared."""
    engine = spec.engine.model_dump_json(exclude={"image", "command", "args", "pod_template"})
    placement = spec.placement.model_dump_json(exclude={"priority", "device_class"})
    return (
        spec.model.uri, engine, placement, spec.slo, spec.workload, in_force,
        profiles.get(spec.placement.profile),
    )  # fmt: skip


def answer_to(
    spec: LLMServiceSpec, profiles: Mapping[str, EngineProfile], in_force: InForce | None
) -> Answer:
    """Search; raises as `resolve_service` does."""
    slo, workload = read_objective(spec.slo), read_traffic(spec.workload)
    choice = choose(spec, profiles, workload, slo, in_force)
    kinds = (choice.candidate, *choice.fallbacks)
    return Answer(
        slo=slo,
        workload=workload,
        origin=choice.origin,
        why=choice.message,
        kinds=tuple(_run_as(kind, workload, slo) for kind in kinds),
    )


def made_service(manifest: LLMService, found: Answer) -> Service:
    """Put a manifest and what was found for it together."""
    spec = manifest.spec
    bounds = Bounds(1, 1)
    if spec.scaling is not None:
        scaling, gpus = spec.scaling, found.kinds[0]["profile"].layout.gpus
        _check_budget(scaling, gpus)
        bounds = Bounds(
            scaling.min,
            scaling.max,
            scaling.zero_after_seconds,
            scaling.mode,
            budget_gpus=scaling.budget_gpus,
        )
    elif spec.replicas is not None:
        bounds = Bounds(spec.replicas, spec.replicas)
    meta = manifest.metadata
    service = Service(
        id=service_id(meta.namespace, meta.name),
        name=meta.name,
        namespace=meta.namespace,
        generation=meta.generation,
        model=spec.model.uri,
        served_name=spec.model.served_name or spec.model.uri,
        engine=spec.engine.type,
        image=spec.engine.image,
        command=tuple(spec.engine.command),
        args=tuple(spec.engine.args),
        slo=found.slo,
        bounds=bounds,
        standbys=spec.resilience.standbys,
        **found.kinds[0],
        workload=found.workload,
        priority=spec.placement.priority,
        origin=found.origin,
        why=found.why,
        pods=PodOptions(
            revision=spec.model.revision,
            cache=spec.model.cache,
            token_secret=spec.model.token_secret,
            template=_template(spec.engine.pod_template),
            device_class=spec.placement.device_class,
            router=spec.router,
        ),
    )
    fallbacks = tuple(replace(service, **other) for other in found.kinds[1:])
    return replace(service, fallbacks=fallbacks)


def _run_as(candidate: Candidate, workload: Workload, slo: Slo) -> dict[str, Any]:
    """What differs from one GPU type to the other."""
    gpu = candidate.profile.gpu
    return {
        "gpu": gpu,
        "gpu_product": _product(gpu),
        "profile": candidate.profile,
        "configuration": candidate.configuration,
        "capacity": candidate.capacity,
        "calm_rps": calm_capacity_rps(candidate.station, workload, slo),
        "price_per_hour": candidate.price_per_hour,
    }


def _template(given: PodTemplateSpec | None) -> str:
    return "{}" if given is None else given.model_dump_json(by_alias=True, exclude_unset=True)


def _check_budget(scaling: ScalingSpec, gpus: int) -> None:
    """Refuse a budget that does not pay for the least."""
    if scaling.budget_gpus is None:
        return
    paid = scaling.budget_gpus // gpus
    if paid < scaling.min:
        raise Refused(
            f"scaling.budgetGpus {scaling.budget_gpus}: pays for {paid} replicas of {gpus} GPUs, "
            f"min asks for {scaling.min}: raise it, or lower min"
        )


def _product(gpu: str) -> str:
    """Node label of a catalogue name; a profile's own GPU name is its own label."""
    return GPUS[gpu].product if gpu in GPUS else gpu


def read_objective(spec: SloSpec) -> Slo:
    """Read the objective, in seconds; a lenient one where none is given."""
    if spec.ttft_ms is None and spec.itl_ms is None and spec.e2e_ms is None:
        return _UNBOUNDED
    return Slo(
        ttft_s=None if spec.ttft_ms is None else spec.ttft_ms / 1e3,
        itl_s=None if spec.itl_ms is None else spec.itl_ms / 1e3,
        e2e_s=None if spec.e2e_ms is None else spec.e2e_ms / 1e3,
        percentile=spec.percentile / 100,
    )


def read_traffic(spec: WorkloadSpec) -> Workload:
    """Read the traffic that is hinted."""
    return workload_from_hints(
        float(spec.requests_per_second),
        spec.input_tokens,
        spec.output_tokens,
        float(spec.burstiness),
        spec.prefix_hit_percent / 100,
    )
