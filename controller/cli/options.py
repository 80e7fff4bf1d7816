"""Options that several commands share: the engine's flags, in vLLM's own names."""

from typing import Annotated

import typer

from profiler.configuration import Configuration
from profiler.document import read_profile
from profiler.profile import EngineProfile, resolve_profile
from profiler.slo import Slo

TensorParallel = Annotated[
    int, typer.Option("--tensor-parallel-size", "-tp", help="GPUs of the replica.", min=1)
]
MaxSeqs = Annotated[int, typer.Option(help="Sequences in a step, at most.")]
MaxBatched = Annotated[int, typer.Option(help="Tokens in a step, at most.")]
Utilization = Annotated[float, typer.Option(help="Share of the GPU's memory to use, 0 to 1.")]
MaxLen = Annotated[
    int | None, typer.Option(help="Longest prompt and answer together, tokens.", min=1)
]
BlockSize = Annotated[int, typer.Option(help="Tokens of a KV block.", min=1)]
Chunked = Annotated[bool, typer.Option(help="Let a step compute part of a prompt.")]
Caching = Annotated[
    bool, typer.Option(help="Keep the KV of prompts for requests that begin alike.")
]
GpuPool = Annotated[
    list[str] | None,
    typer.Option(help="TYPE=COUNT: GPUs that services share, such as L4=16; repeat it."),
]
GpuName = Annotated[str, typer.Option(help="GPU type of the catalogue.")]
ProfileDocument = Annotated[
    str | None,
    typer.Option(help="EngineProfile, a file or inline JSON, instead of model and GPU."),
]
PipelineParallel = Annotated[
    int, typer.Option("--pipeline-parallel-size", "-pp", help="Stages of the replica.", min=1)
]
DataParallel = Annotated[
    int, typer.Option("--data-parallel-size", "-dp", help="Schedulers that share experts.", min=1)
]
ExpertParallel = Annotated[
    bool, typer.Option("--enable-expert-parallel", help="Whole experts per GPU.")
]


def slo_of(ttft_ms: int | None, itl_ms: int | None, e2e_ms: int | None, percentile: int) -> Slo:
    """Make the objective that the --slo- options ask for."""
    ttft_s, itl_s, e2e_s = (None if ms is None else ms / 1e3 for ms in (ttft_ms, itl_ms, e2e_ms))
    return Slo(ttft_s, itl_s, e2e_s, percentile / 100)


def find_profile(
    model: str, gpu: str, document: str | None, configuration: Configuration
) -> EngineProfile:
    """Read the profile, or compute it from model and GPU."""
    if document is None:
        return resolve_profile(
            model,
            gpu,
            configuration.layout,
            configuration.kv_cache_dtype,
            configuration.quantization,
        )
    profile = read_profile(document)
    profile.check_layout(configuration)
    return profile
