"""How a replica's work is shared out over its GPUs."""

from dataclasses import dataclass

from profiler.architecture import Architecture
from profiler.errors import Refused
from profiler.hardware import Gpu


@dataclass(frozen=True, slots=True)
class Layout:
    """Parallelism in vLLM's terms; sizes are counts of GPUs, or of groups of them."""

    tensor: int = 1
    """Every matrix is shared out over so many GPUs."""
    pipeline: int = 1
    """Layers are shared out over so many stages."""
    data: int = 1
    """Schedulers of one replica: each takes its own requests, all step together and share
    the experts out over `tensor · data` GPUs."""
    expert: bool = False
    """Whole experts per GPU (`--enable-expert-parallel`) instead of a slice of each."""

    def __post_init__(self) -> None:
        """Refuse sizes that are no counts."""
        for name in ("tensor", "pipeline", "data"):
            if getattr(self, name) < 1:
                raise Refused(f"{name}_parallel_size must be at least 1, got {getattr(self, name)}")

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tensor * self.pipeline * self.data

    @property
    def expert_gpus(self) -> int:
        """GPUs that share one layer's routed experts."""
        return self.tensor * self.data

    def __str__(self) -> str:
        """Name it as people do: TP4, TP2 PP2, TP8 EP."""
        sizes = (("TP", self.tensor), ("PP", self.pipeline), ("DP", self.data))
        names = [f"{name}{size}" for name, size in sizes if size > 1] or ["TP1"]
        return " ".join([*names, "EP"] if self.expert else names)


ONE_GPU = Layout()


def check_layout(architecture: Architecture, gpu: Gpu, layout: Layout) -> None:
    """Refuse what no engine would start with; one line with the mend."""
    if architecture.heads % layout.tensor:
        raise Refused(
            f"tensor_parallel_size: {layout.tensor} does not divide the "
            f"{architecture.heads} attention heads of {architecture.name}"
        )
    if layout.tensor > gpu.link_domain:
        raise Refused(
            f"tensor_parallel_size: {layout.tensor} exceeds the {gpu.link_domain} "
            f"{gpu.name} that one node joins by {gpu.link}"
        )
    if layout.pipeline > architecture.layers:
        raise Refused(
            f"pipeline_parallel_size: {layout.pipeline} exceeds the {architecture.layers} "
            f"layers of {architecture.name}"
        )
    if architecture.experts is None and (layout.expert or layout.data > 1):
        raise Refused(
            f"enable_expert_parallel, data_parallel_size: {architecture.name} has no experts to "
            "share; run more replicas instead"
        )
    if layout.expert and architecture.experts and architecture.experts.count % layout.expert_gpus:
        raise Refused(
            f"enable_expert_parallel: {layout.expert_gpus} GPUs do not divide the "
            f"{architecture.experts.count} experts of {architecture.name}"
        )
