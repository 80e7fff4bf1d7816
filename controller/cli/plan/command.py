"""The options of `whaleflux plan`, and the order of its work."""

import contextlib
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer
import yaml
from rich.console import Console

from controller.cli.options import slo_of
from controller.cli.plan.asked import (
    Traffic,
    read_matchers,
    read_offers,
    read_running,
    read_workload,
)
from controller.cli.plan.documents import Told, as_dict, as_manifest
from controller.cli.plan.table import print_plan
from profiler.configuration import Quantization
from profiler.errors import Refused
from profiler.operators import KvDtype
from recommender import (
    Comparison,
    Offer,
    Pins,
    Question,
    Recommendation,
    as_html,
    compare,
    explain,
    recommend,
)


class Output(StrEnum):
    """How the plan is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Count = Annotated[int | None, typer.Option(min=1, help="Pin it.")]
Flag = Annotated[bool | None, typer.Option(help="Pin it.")]
Bound = Annotated[int | None, typer.Option(min=0, help="Objective; 0: not bounded.")]
OnPrice = "NAME, or NAME=PRICE of one GPU an hour; repeat it to choose among types."


def plan(
    model: Annotated[str, typer.Argument(help="Bundled name, folder or config.json.")],
    gpu: Annotated[list[str], typer.Option(help=OnPrice)],
    also: Annotated[list[str] | None, typer.Option(help="Type to hold against them.")] = None,
    node_gpus: Annotated[int, typer.Option(min=1, help="GPUs of a node.")] = 8,
    trace: Annotated[Path | None, typer.Option(help="CSV[.gz] of requests to plan for.")] = None,
    prometheus: Annotated[str | None, typer.Option(help="URL that scrapes the engines.")] = None,
    match: Annotated[list[str] | None, typer.Option(help="LABEL=VALUE of the engines.")] = None,
    window: Annotated[float, typer.Option(min=0.1, help="Hours to look back.")] = 1.0,
    token_file: Annotated[Path | None, typer.Option(help="Bearer token of Prometheus.")] = None,
    engine: Annotated[str | None, typer.Option(help="URL of one engine to watch.")] = None,
    seconds: Annotated[float, typer.Option(min=2, help="How long to watch it.")] = 60.0,
    rate: Annotated[float | None, typer.Option(help="Requests a second.")] = None,
    input_tokens: Annotated[float, typer.Option(help="Mean prompt length.")] = 1024,
    output_tokens: Annotated[float, typer.Option(help="Mean answer length.")] = 256,
    cv: Annotated[float, typer.Option(help="Burstiness of arrivals; 1 is Poisson.")] = 1.0,
    prefix_hit_percent: Annotated[
        float, typer.Option(min=0, max=99, help="Of the prompts' tokens.")
    ] = 0.0,
    slo_ttft_ms: Bound = 1000,
    slo_itl_ms: Bound = 50,
    slo_e2e_ms: Bound = None,
    slo_percentile: Annotated[int, typer.Option(min=1, max=99, help="Share of requests.")] = 95,
    tensor_parallel_size: Count = None,
    pipeline_parallel_size: Count = None,
    data_parallel_size: Count = None,
    enable_expert_parallel: Flag = None,
    kv_cache_dtype: Annotated[
        Literal["auto", "fp8", "any"], typer.Option(help="any: FP8 too, where it pays.")
    ] = "auto",
    quantization: Annotated[
        Literal["none", "fp8", "any"], typer.Option(help="any: FP8 at load, where it pays.")
    ] = "none",
    max_num_seqs: Count = None,
    max_num_batched_tokens: Count = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(help="Pin it, 0 to 1.")] = None,
    max_model_len: Count = None,
    enable_chunked_prefill: Flag = None,
    enable_prefix_caching: Flag = None,
    explained: Annotated[
        bool, typer.Option("--explain", help="What if, latencies, cost against latency.")
    ] = False,
    running: Annotated[
        str | None, typer.Option("--compare", help="LLMService that runs now; - for stdin.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the whole story as a page.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print.")] = Output.TABLE,
) -> None:
    """Recommend the configuration and the replicas that cost least within an SLO.

    Layouts, number formats, batch limits and memory are searched with the scheduler twin, for
    the traffic of a trace, a Prometheus, a running engine, or hints. `-o yaml` prints an
    LLMService ready to apply.
    """
    pins = Pins(
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
        data_parallel_size=data_parallel_size,
        enable_expert_parallel=enable_expert_parallel,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len,
        enable_chunked_prefill=enable_chunked_prefill,
        enable_prefix_caching=enable_prefix_caching,
        kv_cache_dtypes=_choices(KvDtype, kv_cache_dtype),
        quantizations=_choices(Quantization, quantization),
    )
    lengths = (input_tokens, output_tokens)
    traffic = Traffic(
        trace, prometheus, read_matchers(match or ()), window * 3600, token_file, engine, seconds,
        rate, lengths, cv, prefix_hit_percent,
    )  # fmt: skip
    offers = read_offers(gpu, node_gpus)
    others = read_offers(also or (), node_gpus)
    slo = slo_of(slo_ttft_ms or None, slo_itl_ms or None, slo_e2e_ms or None, slo_percentile)
    with _waiting(traffic):
        workload, notes = read_workload(traffic)
        asked = Question(model, offers, workload, slo, pins)
        found = recommend(model, offers, workload, slo, pins)
        story = explain(asked, found, others) if explained or html is not None else None
        beside = None if running is None else _beside(asked, found, running, (*offers, *others))
    if html is not None and story is not None:
        _write(html, as_html(asked, found, story, beside))
    _print(output, Told(asked, found, story if explained else None, beside, notes))


Choice = TypeVar("Choice", bound=StrEnum)


def _choices(of: type[Choice], name: str) -> tuple[Choice, ...]:
    return tuple(of) if name == "any" else (of(name),)


def _waiting(traffic: Traffic) -> contextlib.AbstractContextManager[object]:
    """Say what takes its time, where somebody watches."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return contextlib.nullcontext()
    watched = f"watching {traffic.engine} for {traffic.seconds:.0f} s"
    return console.status(watched if traffic.engine else "searching with the twin")


def _beside(
    asked: Question, found: Recommendation, source: str, offers: Sequence[Offer]
) -> Comparison:
    """Hold what runs now against the recommendation, at the price given for its GPU."""
    running = read_running(source)
    priced = any(offer.price_per_hour != 1.0 for offer in offers)
    offer = next((offer for offer in offers if offer.gpu == running.gpu), None)
    if offer is None:
        if priced:
            raise Refused(
                f"--compare: what runs now is on {running.gpu}: give its price as "
                f"--also {running.gpu}=PRICE"
            )
        offer = Offer(running.gpu)
    return compare(asked, found.best, offer, running.configuration)


def _write(file: Path, page: str) -> None:
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise Refused(f"--html: {file} cannot be written: {error.strerror}") from error


def _print(output: Output, told: Told) -> None:
    match output:
        case Output.TABLE:
            print_plan(told)
        case Output.JSON:
            typer.echo(json.dumps(as_dict(told), indent=2))
        case Output.YAML:
            typer.echo(yaml.safe_dump(as_manifest(told), sort_keys=False))
