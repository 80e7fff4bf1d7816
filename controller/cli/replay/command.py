"""The options of `whaleflux replay`, and the order of its work."""

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console

from controller.cli.options import GpuName, ProfileDocument, slo_of
from controller.cli.plan.asked import read_matchers
from controller.cli.replay.asked import (
    Load,
    Source,
    configured,
    first_replicas,
    most_replicas,
    read_load,
)
from controller.cli.replay.contenders import chosen, runs
from controller.cli.replay.faults import read_faults
from controller.cli.replay.table import as_dict, print_told
from controller.replay.clairvoyant import Clairvoyant, clairvoyant
from controller.replay.outcome import Outcome
from controller.replay.report import Told, as_html
from controller.replay.served import Served
from controller.replay.terms import Terms
from profiler.errors import Refused
from profiler.operators import KvDtype
from profiler.slo import Slo
from recommender import Pins


class Output(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"


_STARTS = 2
"""Start-ups that a trace is looked at for at least: sooner no policy can answer a burst."""

Count = Annotated[int | None, typer.Option(min=1, help="Pin it; default: as plan finds best.")]
Flag = Annotated[bool | None, typer.Option(help="Pin it.")]
Milliseconds = Annotated[int | None, typer.Option(min=1, help="Objective; default: no bound.")]
Ratio = Annotated[float, typer.Option(min=0, max=1, help="Chance, 0 to 1.")]
Fault = list[str] | None


def replay(
    trace: Annotated[
        Path | None, typer.Argument(help="CSV[.gz]: arrival_s, input_tokens, output_tokens.")
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option(help="URL that scraped the engines, instead of a trace.")
    ] = None,
    match: Annotated[list[str] | None, typer.Option(help="LABEL=VALUE of the engines.")] = None,
    since: Annotated[str, typer.Option(help="6h (ago), or a time in ISO 8601.")] = "24h",
    until: Annotated[str | None, typer.Option(help="The same; default: now.")] = None,
    step: Annotated[
        float | None, typer.Option(min=1, help="Seconds of an interval; default: 15 or more.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="Bearer token of Prometheus.")] = None,
    rate_factor: Annotated[float, typer.Option(help="They come so many times as fast.")] = 1.0,
    model: Annotated[str | None, typer.Option(help="Bundled name, folder, config.json.")] = None,
    gpu: GpuName = "H100-SXM",
    profile: ProfileDocument = None,
    tensor_parallel_size: Count = None,
    pipeline_parallel_size: Count = None,
    enable_expert_parallel: Flag = None,
    kv_cache_dtype: Annotated[KvDtype, typer.Option(help="KV cache.")] = KvDtype.AUTO,
    max_num_seqs: Count = None,
    max_num_batched_tokens: Count = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(help="Pin it, 0 to 1.")] = None,
    max_model_len: Count = None,
    enable_chunked_prefill: Flag = None,
    enable_prefix_caching: Flag = None,
    slo_ttft_ms: Milliseconds = None,
    slo_itl_ms: Milliseconds = None,
    slo_e2e_ms: Milliseconds = None,
    slo_percentile: Annotated[int, typer.Option(min=1, max=99, help="Share of requests.")] = 95,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Repeat it; default: whaleflux, static, hpa; all: everyone's."),
    ] = None,
    start_up_s: Annotated[float, typer.Option(help="From asking for a replica to serving.")] = 90.0,
    scrape_s: Annotated[float, typer.Option(help="Between two scrapes.")] = 15.0,
    least: Annotated[int, typer.Option("--min", min=0, help="Replicas at least.")] = 1,
    most: Annotated[
        int | None, typer.Option("--max", min=1, help="Default: twice the busiest minutes' need.")
    ] = None,
    initial: Annotated[
        int | None, typer.Option(min=0, help="Default: as were there, or as the first need.")
    ] = None,
    node_loss: Annotated[Fault, typer.Option(help="AT[:NODE], such as 600:1.")] = None,
    slow_replica: Annotated[Fault, typer.Option(help="REPLICA:FACTOR@FROM-TO.")] = None,
    long_starts: Annotated[Fault, typer.Option(help="FACTOR@FROM-TO.")] = None,
    failed_starts: Annotated[Fault, typer.Option(help="RATIO@FROM-TO.")] = None,
    garbled: Annotated[Fault, typer.Option(help="VALUE@FROM-TO, such as nan@300-900.")] = None,
    missed_scrapes: Annotated[Fault, typer.Option(help="FROM-TO.")] = None,
    missed_ratio: Ratio = 0.0,
    silent_ratio: Ratio = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of all chance.")] = 0,
    knowing: Annotated[
        bool, typer.Option("--clairvoyant", help="What no policy can pass, and a plan beside it.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write the whole story as a page.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print.")] = Output.TABLE,
) -> None:
    """Judge scaling policies over a trace, or over what a Prometheus saw, in simulated time.

    Each replica is a twin of the engine, stepped as its scheduler would; each policy sees
    scrapes and counts of replicas, and never the trace. Without engine options a replica is
    configured as `whaleflux plan` would. Times of faults are seconds from the trace's begin.
    """
    faults = read_faults({
        "--node-loss": node_loss or (),
        "--slow-replica": slow_replica or (),
        "--long-starts": long_starts or (),
        "--failed-starts": failed_starts or (),
        "--garbled": garbled or (),
        "--missed-scrapes": missed_scrapes or (),
    }, missed_ratio, silent_ratio)  # fmt: skip
    given = Terms(start_up_s=start_up_s, scrape_s=scrape_s, faults=faults, seed=seed)
    names = chosen(policy or ())
    slo = slo_of(slo_ttft_ms, slo_itl_ms, slo_e2e_ms, slo_percentile)
    if slo == Slo(percentile=slo.percentile):
        raise Refused("give an objective to judge by: --slo-ttft-ms, --slo-itl-ms or --slo-e2e-ms")
    pins = Pins(
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
        data_parallel_size=1,
        enable_expert_parallel=enable_expert_parallel,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len,
        enable_chunked_prefill=enable_chunked_prefill,
        enable_prefix_caching=enable_prefix_caching,
        kv_cache_dtypes=(kv_cache_dtype,),
    )
    source = Source(
        trace, prometheus, read_matchers(match or ()), since, until, step, token_file, rate_factor,
        seed,
    )  # fmt: skip
    if html is not None:
        _write(html, "")  # what cannot be written is known before the work
    with _Waiting() as waiting:
        waiting.says("reading the requests")
        load = read_load(source)
        waiting.says("configuring a replica")
        served = Served.of(load.trace, *configured(model, gpu, profile, pins, load.trace, slo), slo)
        terms = _terms(load, served, (least, most), initial, given)
        outcomes = _replayed(names, load, served, terms, waiting)
        known = _known(load, served, terms, waiting) if knowing else None
        told = Told(load.name, outcomes, terms, served, known, load.history, load.notes)
        if html is not None:
            waiting.says("drawing the page")
            _write(html, as_html(told))
    if output is Output.JSON:
        typer.echo(json.dumps(as_dict(told), indent=2))
    else:
        print_told(told)


def _terms(
    load: Load,
    served: Served,
    bounds: tuple[int, int | None],
    initial: int | None,
    given: Terms,
) -> Terms:
    """Fill in the counts that were not given; a short trace is looked at for two starts."""
    least, most = bounds
    first = first_replicas(load, served) if initial is None else initial
    if most is None:
        most = most_replicas(load, served, max(least, first))
    until_s = max(load.trace.duration_s, _STARTS * given.start_up_s)
    return replace(given, initial=first, min_replicas=least, max_replicas=most, until_s=until_s)


def _replayed(
    names: Sequence[str], load: Load, served: Served, terms: Terms, waiting: "_Waiting"
) -> tuple[Outcome, ...]:
    outcomes = []
    for place, (name, run) in enumerate(runs(names, load.trace, served, terms), start=1):
        waiting.says(f"replaying {name}, {place} of {len(names)}")
        outcomes.append(run())
    return tuple(outcomes)


def _known(load: Load, served: Served, terms: Terms, waiting: "_Waiting") -> Clairvoyant:
    waiting.says("bounding what is possible, and searching a schedule that knows the future")
    return clairvoyant(load.trace, served, terms, served.slo.percentile)


class _Waiting:
    """What takes its time, where somebody watches."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._status = console.status("") if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def says(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)


def _write(file: Path, page: str) -> None:
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise Refused(f"--html: {file} cannot be written: {error.strerror}") from error
