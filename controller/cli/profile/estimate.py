"""`whaleflux profile estimate`: a profile without the engine, from whatever sources there are."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.options import (
    DataParallel,
    ExpertParallel,
    GpuName,
    PipelineParallel,
    TensorParallel,
)
from profiler.architecture import load_architecture
from profiler.document import as_yaml, write_profile
from profiler.efficiencies import find_efficiency
from profiler.estimate import GROUPS, combine
from profiler.hardware import find_gpu
from profiler.layout import Layout
from profiler.operators import KvDtype, Replica
from profiler.profile import EngineProfile, Source, resolve_profile
from profiler.sources.kernel_database import kernel_database_estimate
from profiler.sources.operator_tables import operator_estimate, read_operator_tables


def estimate(
    model: Annotated[str, typer.Option(help="Bundled name, folder or config.json.")],
    gpu: GpuName = "H100-SXM",
    tensor_parallel_size: TensorParallel = 1,
    pipeline_parallel_size: PipelineParallel = 1,
    data_parallel_size: DataParallel = 1,
    enable_expert_parallel: ExpertParallel = False,
    kv_cache_dtype: Annotated[KvDtype, typer.Option(help="KV cache.")] = KvDtype.AUTO,
    tables: Annotated[
        Path | None, typer.Option(help="Operator tables: PREFIX of PREFIX.dense.csv and so on.")
    ] = None,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Use the kernel database, where installed.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; default: stdout.")
    ] = None,
) -> None:
    """Write an EngineProfile from data sheets, a kernel database, operator tables.

    Each group of constants comes from the source that knows it best; the notes say which.
    """
    layout = Layout(
        tensor_parallel_size, pipeline_parallel_size, data_parallel_size, enable_expert_parallel
    )
    profile = resolve_profile(model, gpu, layout, kv_cache_dtype)
    made = _improved(profile, model, tables, kernels)
    if output is None:
        typer.echo(as_yaml(made))
    else:
        write_profile(made, output)


def _improved(
    profile: EngineProfile, model: str, tables: Path | None, kernels: bool
) -> EngineProfile:
    """Take from each source what it knows better."""
    architecture, card = load_architecture(model), find_gpu(profile.gpu)
    efficiency, _ = find_efficiency(architecture, card.name)
    replica = Replica(architecture, card, profile.layout, profile.kv_dtype, efficiency)
    best = replace(profile.estimate, origins=("data sheet",) * len(GROUPS))
    notes: tuple[str, ...] = ()
    if kernels:
        found, said = kernel_database_estimate(replica)
        best, notes = combine(best, found), (*notes, *said)
    if tables is not None:
        found, said = operator_estimate(replica, read_operator_tables(tables))
        best, notes = combine(best, found), (*notes, *said)
    origins = "; ".join(f"{g}: {o}" for g, o in zip(GROUPS, best.origins, strict=True))
    return replace(
        profile,
        cost=best.cost,
        uncertainty=best.uncertainty,
        source=Source.ANALYTICAL if tables is None else Source.MEASURED,
        provenance=replace(profile.provenance, notes=(f"constants: {origins}", *notes)),
    )
