"""`whaleflux profile capacity`: work a capacity surface out and keep it in an EngineProfile."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from controller.cli.options import MaxBatched, MaxLen, MaxSeqs, Utilization, slo_of
from profiler.configuration import Configuration
from profiler.document import as_yaml, read_profile, write_profile
from recommender import measure_surface, workload_from_hints
from recommender.surface import TOLERANCE

Bound = Annotated[int | None, typer.Option(min=0, help="Objective; 0: not bounded.")]


def capacity(
    profile: Annotated[str, typer.Argument(help="EngineProfile, a file.")],
    input_tokens: Annotated[float, typer.Option(help="Mean prompt length in the middle.")] = 1024,
    output_tokens: Annotated[float, typer.Option(help="Mean answer length in the middle.")] = 256,
    slo_ttft_ms: Bound = 1000,
    slo_itl_ms: Bound = 50,
    slo_e2e_ms: Bound = None,
    slo_percentile: Annotated[int, typer.Option(min=1, max=99, help="Share of requests.")] = 95,
    max_num_seqs: MaxSeqs = 256,
    max_num_batched_tokens: MaxBatched = 8192,
    gpu_memory_utilization: Utilization = 0.9,
    max_model_len: MaxLen = None,
    tolerance: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Error at which a cell is split.")
    ] = TOLERANCE,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: stdout.")] = None,
) -> None:
    """Measure with the twin what a replica carries, by lengths and burstiness.

    The controller sizes services of this profile with it instead of asking the twin anew. A
    surface of the same configuration and objective is replaced.
    """
    known = read_profile(profile)
    layout = known.layout
    configuration = Configuration(
        tensor_parallel_size=layout.tensor,
        pipeline_parallel_size=layout.pipeline,
        data_parallel_size=layout.data,
        enable_expert_parallel=layout.expert,
        kv_cache_dtype=known.kv_dtype,
        quantization=known.quantization,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len or known.max_model_len,
    )
    slo = slo_of(slo_ttft_ms or None, slo_itl_ms or None, slo_e2e_ms or None, slo_percentile)
    console = Console(stderr=True)
    with console.status("measuring with the twin"):
        workload = workload_from_hints(1.0, input_tokens, output_tokens)
        surface = measure_surface(known, configuration, slo, workload, tolerance)
    others = (s for s in known.capacity if (s.configuration, s.slo) != (configuration, slo))
    made = replace(known, capacity=(*others, surface))
    points = len(surface.rates_rps)
    console.print(
        f"{points} points; interpolation is off by {surface.mean_error_ratio:.1%} on average and "
        f"{surface.error_ratio:.1%} at most, at {surface.checked} places between them",
        highlight=False,
    )
    if output is None:
        typer.echo(as_yaml(made))
    else:
        write_profile(made, output)
