"""`whaleflux plan`: recommend a configuration and say what one replica of it carries."""

import contextlib
import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from controller.cli.options import slo_of
from profiler.slo import Slo
from profiler.trace import read_trace
from recommender import (
    Candidate,
    Pins,
    Recommendation,
    Workload,
    recommend,
    workload_from_hints,
    workload_from_trace,
)


class Output(StrEnum):
    """How the plan is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def plan(
    model: Annotated[str, typer.Argument(help="Bundled name, folder or config.json.")],
    gpu: Annotated[str, typer.Option(help="GPU type of the catalogue.")],
    trace: Annotated[Path | None, typer.Option(help="CSV[.gz] of requests to plan for.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second.")] = None,
    input_tokens: Annotated[float, typer.Option(help="Mean prompt length.")] = 1024,
    output_tokens: Annotated[float, typer.Option(help="Mean answer length.")] = 256,
    cv: Annotated[float, typer.Option(help="Burstiness of arrivals; 1 is Poisson.")] = 1.0,
    slo_ttft_ms: Annotated[int | None, typer.Option(min=1, help="Time to first token.")] = 1000,
    slo_itl_ms: Annotated[int | None, typer.Option(min=1, help="Mean inter-token latency.")] = 50,
    slo_e2e_ms: Annotated[int | None, typer.Option(min=1, help="End-to-end latency.")] = None,
    slo_percentile: Annotated[int, typer.Option(min=1, max=99, help="Share of requests.")] = 95,
    tensor_parallel_size: Annotated[int | None, typer.Option(min=1, help="Pin it.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Pin it.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, help="Pin it.")] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1, help="Pin it.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print.")] = Output.TABLE,
) -> None:
    """Recommend tensor parallelism, batch limits, memory and replicas within an SLO.

    The rate that a replica carries is found by running the workload through the scheduler
    twin. `-o yaml` prints an LLMService ready to apply.
    """
    workload = _workload(trace, rate, (input_tokens, output_tokens), cv)
    slo = slo_of(slo_ttft_ms, slo_itl_ms, slo_e2e_ms, slo_percentile)
    pins = Pins(
        tensor_parallel_size, max_num_seqs, max_num_batched_tokens, max_model_len=max_model_len
    )
    err = Console(stderr=True)
    with err.status("searching with the twin") if err.is_terminal else contextlib.nullcontext():
        found = recommend(model, gpu, workload, slo, pins)
    match output:
        case Output.TABLE:
            _print_table(found, workload, slo)
        case Output.JSON:
            typer.echo(json.dumps(_as_dict(found, workload), indent=2))
        case Output.YAML:
            typer.echo(yaml.safe_dump(_as_manifest(found.best, workload, slo), sort_keys=False))


def _workload(
    trace: Path | None, rate: float | None, lengths: tuple[float, float], cv: float
) -> Workload:
    if trace is not None:
        read = workload_from_trace(read_trace(trace))
        return read if rate is None else read.at_rate(rate)
    return workload_from_hints(1.0 if rate is None else rate, *lengths, cv)


def replicas_for(candidate: Candidate, workload: Workload) -> int:
    """Replicas that carry the workload's rate."""
    return max(math.ceil(workload.rate_rps / candidate.capacity.rate_rps), 1)


_COLUMNS = (
    "", "TP", "seqs", "tokens", "memory", "req/s", "per GPU", "N", "GPUs", "TTFT", "ITL", "binds"
)  # fmt: skip


def _print_table(found: Recommendation, workload: Workload, slo: Slo) -> None:
    out = Console()
    best = found.best
    out.print(
        f"[bold]{best.profile.model}[/] on {best.profile.gpu}: {workload.rate_rps:.2f} req/s, "
        f"{workload.mean_input_tokens:.0f} → {workload.mean_output_tokens:.0f} tokens, "
        f"burstiness {workload.cv:.1f}; {slo.percentile:.0%} of requests within "
        + ", ".join(_bounds(slo))
    )
    legend = "req/s: of a replica; N: replicas; TTFT, ITL: ms at that rate"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=legend, caption_justify="left")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("", "binds") else "right", no_wrap=True)
    for candidate in (best, *found.runners_up):
        table.add_row("best" if candidate is best else "", *_row(candidate, workload))
    out.print(table)
    for line in found.not_possible:
        out.print(f"not possible: {line}", highlight=False)
    out.print("flags: " + " ".join(best.configuration.engine_args()), highlight=False)


def _bounds(slo: Slo) -> list[str]:
    bounds = (("TTFT", slo.ttft_s), ("ITL", slo.itl_s), ("end to end", slo.e2e_s))
    return [f"{name} {bound * 1e3:.0f} ms" for name, bound in bounds if bound is not None]


def _row(candidate: Candidate, workload: Workload) -> list[str]:
    c, capacity = candidate.configuration, candidate.capacity
    replicas = replicas_for(candidate, workload)
    return [
        str(c.tensor_parallel_size),
        str(c.max_num_seqs),
        str(c.max_num_batched_tokens),
        f"{c.gpu_memory_utilization:.0%}",
        f"{capacity.rate_rps:.2f}",
        f"{candidate.rps_per_gpu:.2f}",
        str(replicas),
        str(replicas * c.tensor_parallel_size),
        f"{capacity.latency.ttft_s * 1e3:.0f}",
        f"{capacity.latency.itl_s * 1e3:.1f}",
        capacity.binds,
    ]


def _as_dict(found: Recommendation, workload: Workload) -> dict[str, Any]:
    return {
        "best": _candidate(found.best, workload),
        "runnersUp": [_candidate(candidate, workload) for candidate in found.runners_up],
        "notPossible": list(found.not_possible),
        "candidatesScored": found.scored,
    }


def _candidate(candidate: Candidate, workload: Workload) -> dict[str, Any]:
    c, capacity = candidate.configuration, candidate.capacity
    return {
        "model": candidate.profile.model,
        "gpu": candidate.profile.gpu,
        "tensorParallelSize": c.tensor_parallel_size,
        "maxNumSeqs": c.max_num_seqs,
        "maxNumBatchedTokens": c.max_num_batched_tokens,
        "gpuMemoryUtilization": c.gpu_memory_utilization,
        "maxModelLen": c.max_model_len,
        "requestsPerSecondPerReplica": round(capacity.rate_rps, 4),
        "requestsPerSecondPerGpu": round(candidate.rps_per_gpu, 4),
        "replicas": replicas_for(candidate, workload),
        "boundBy": capacity.binds,
        "latency": {
            "ttftMs": round(capacity.latency.ttft_s * 1e3, 2),
            "itlMs": round(capacity.latency.itl_s * 1e3, 3),
            "e2eMs": round(capacity.latency.e2e_s * 1e3, 1),
        },
        "flags": list(c.engine_args()),
    }


def _as_manifest(best: Candidate, workload: Workload, slo: Slo) -> dict[str, Any]:
    c = best.configuration
    bounds = {"ttftMs": slo.ttft_s, "itlMs": slo.itl_s, "e2eMs": slo.e2e_s}
    name = best.profile.model.split("/")[-1].lower()
    name = "".join(ch if ch.isalnum() else "-" for ch in name).strip("-")[:40].rstrip("-")
    return {
        "apiVersion": "serving.whaleflux.io/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": best.profile.model},
            "engine": {
                "type": "vllm",
                "tensorParallelSize": c.tensor_parallel_size,
                "maxNumSeqs": c.max_num_seqs,
                "maxNumBatchedTokens": c.max_num_batched_tokens,
                "gpuMemoryUtilizationPercent": round(100 * c.gpu_memory_utilization),
                "maxModelLen": c.max_model_len,
            },
            "slo": {
                **{k: round(v * 1e3) for k, v in bounds.items() if v is not None},
                "percentile": round(100 * slo.percentile),
            },
            "workload": {
                "requestsPerSecond": f"{workload.rate_rps:.3f}",
                "inputTokens": round(workload.mean_input_tokens),
                "outputTokens": round(workload.mean_output_tokens),
                "burstiness": f"{workload.cv:.2f}",
            },
            "scaling": {"min": 1, "max": 2 * replicas_for(best, workload)},
            "placement": {"gpu": best.profile.gpu},
            "resilience": {"standbys": 1},
        },
    }
