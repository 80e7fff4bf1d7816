"""`whaleflux simulate`: a trace through a profile and a configuration, to latencies."""

import contextlib
import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any, Self

import numpy as np
import typer
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from controller.cli.options import (
    BlockSize,
    Caching,
    Chunked,
    DataParallel,
    ExpertParallel,
    GpuName,
    MaxBatched,
    MaxLen,
    MaxSeqs,
    PipelineParallel,
    ProfileDocument,
    TensorParallel,
    Utilization,
    find_profile,
    slo_of,
)
from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.operators import KvDtype
from profiler.profile import EngineProfile
from profiler.slo import Slo
from profiler.timings import GAP_DECADES, Finished, Metric, Tally, binned_quantile_s
from profiler.trace import HASH_BLOCK_TOKENS, Trace, stream_trace
from profiler.twin import Progress, Simulation

_QUANTILES = (0.5, 0.9, 0.95, 0.99)


class Output(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"


class Engine(StrEnum):
    """Whose scheduling rules."""

    VLLM = "vllm"
    SGLANG = "sglang"


Milliseconds = Annotated[int | None, typer.Option(min=1, help="Count requests within it.")]


def simulate(
    trace: Annotated[Path, typer.Argument(help="CSV[.gz]: arrival_s, input_tokens, ….")],
    model: Annotated[str | None, typer.Option(help="Bundled name, folder, config.json.")] = None,
    gpu: GpuName = "H100-SXM",
    profile: ProfileDocument = None,
    engine: Annotated[
        Engine | None, typer.Option(help="Whose scheduling rules; default: the profile's.")
    ] = None,
    tensor_parallel_size: TensorParallel = 1,
    pipeline_parallel_size: PipelineParallel = 1,
    data_parallel_size: DataParallel = 1,
    enable_expert_parallel: ExpertParallel = False,
    kv_cache_dtype: Annotated[KvDtype, typer.Option(help="KV cache.")] = KvDtype.AUTO,
    max_num_seqs: MaxSeqs = 256,
    max_num_batched_tokens: MaxBatched = 8192,
    gpu_memory_utilization: Utilization = 0.9,
    max_model_len: MaxLen = None,
    block_size: BlockSize = 16,
    enable_chunked_prefill: Chunked = True,
    enable_prefix_caching: Caching = True,
    priority: Annotated[bool, typer.Option(help="Lowest `priority` of the trace first.")] = False,
    async_scheduling: Annotated[bool, typer.Option(help="Schedule a step ahead.")] = False,
    trace_limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    rate_factor: Annotated[float, typer.Option(help="They come so many times as fast.")] = 1.0,
    hash_block_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that each of `hash_ids` stands for.")
    ] = HASH_BLOCK_TOKENS,
    slo_ttft_ms: Milliseconds = None,
    slo_itl_ms: Milliseconds = None,
    slo_e2e_ms: Milliseconds = None,
    slo_percentile: Annotated[int, typer.Option(min=1, max=99, help="Share asked for.")] = 95,
    requests_csv: Annotated[Path | None, typer.Option(help="Write each request's times.")] = None,
    steps_csv: Annotated[Path | None, typer.Option(help="Write the engine's state.")] = None,
    steps_every_s: Annotated[
        float, typer.Option(min=0, help="How often for --steps-csv; 0: each step.")
    ] = 1.0,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print.")] = Output.TABLE,
) -> None:
    """Run a trace through one replica of an engine, step by step, and say what came of it.

    The trace is read in parts: memory grows with the requests in flight, not with its length.
    """
    configuration = Configuration(
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
        data_parallel_size=data_parallel_size,
        enable_expert_parallel=enable_expert_parallel,
        kv_cache_dtype=kv_cache_dtype,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len,
        block_size=block_size,
        enable_chunked_prefill=enable_chunked_prefill,
        enable_prefix_caching=enable_prefix_caching,
        priority_scheduling=priority,
        async_scheduling=async_scheduling,
    )
    if model is None and profile is None:
        raise Refused("give --model, or --profile")
    known = find_profile(model or "", gpu, profile, configuration)
    sglang = (engine or known.engine) == Engine.SGLANG
    limits = known.limits(configuration)._replace(prefill_first=int(sglang))
    slo = slo_of(slo_ttft_ms, slo_itl_ms, slo_e2e_ms, slo_percentile)
    parts = stream_trace(trace, hash_block_tokens=hash_block_tokens)
    parts = _fitting(trace, parts, max_model_len or known.max_model_len)
    parts = (part.compressed(rate_factor) for part in _first(parts, trace_limit))
    tally, every_s = Tally(slo), steps_every_s if steps_csv is not None else None
    ranks = [
        Simulation(known.cost, limits, step_interval_s=every_s) for _ in range(known.layout.data)
    ]
    with _Csv(requests_csv) as requests, _Csv(steps_csv) as steps:
        for rank, progress in _through(ranks, parts):
            tally.add(progress.finished)
            requests.write(rank, _request_columns(progress.finished, rank, len(ranks)))
            steps.write(rank, progress.steps._asdict())
    result = Result(known, slo, tally, ranks)
    if output is Output.JSON:
        typer.echo(json.dumps(as_dict(result), indent=2))
    else:
        _print(result)


# --- the trace on its way to the ranks ---


def _fitting(path: Path, parts: Iterable[Trace], longest: int) -> Iterator[Trace]:
    """Refuse a request that the engine would not take, by its row."""
    rows = 0
    for part in parts:
        tokens = part.input_tokens + part.output_tokens
        if (tokens > longest).any():
            row = int(np.argmax(tokens > longest))
            raise Refused(
                f"{path}: row {rows + row + 1}: input_tokens and output_tokens are {tokens[row]} "
                f"together and exceed max_model_len {longest}: raise it, or drop the row"
            )
        rows += len(part)
        yield part


def _first(parts: Iterable[Trace], limit: int | None) -> Iterator[Trace]:
    left = math.inf if limit is None else limit
    for part in parts:
        yield part.take(min(len(part), int(min(left, len(part)))))
        left -= len(part)
        if left <= 0:
            return


def _through(ranks: list[Simulation], parts: Iterable[Trace]) -> Iterator[tuple[int, Progress]]:
    """Let the requests go round; what each rank did with every part, and at the end."""
    console, done = Console(stderr=True), 0
    with console.status("") if console.is_terminal else contextlib.nullcontext() as status:
        for part in parts:
            for rank, simulation in enumerate(ranks):
                simulation.feed(part.rank((rank - done) % len(ranks), len(ranks)))
                yield rank, simulation.run(ended=False)
            done += len(part)
            if status is not None:
                status.update(f"{done:,} requests, {part.duration_s / 3600:.1f} h")
        for rank, simulation in enumerate(ranks):
            yield rank, simulation.run()


# --- files ---


class _Csv:
    """A CSV of what the ranks did, or nothing where no file was asked for."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            if self._path is not None:
                self._file = self._path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise Refused(f"{self._path}: cannot be written: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, rank: int, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows; NaN is an empty field."""
        if self._file is None:
            return
        writer = csv.writer(self._file)
        if self._file.tell() == 0:
            writer.writerow([*columns, "rank"])
        texts = [[_text(value) for value in column.tolist()] for column in columns.values()]
        writer.writerows((*row, rank) for row in zip(*texts, strict=True))


def _text(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.9g}"


def _request_columns(finished: Finished, rank: int, ranks: int) -> dict[str, NDArray[Any]]:
    """A request's number is its place in the trace, from 0."""
    return {
        "request": finished.request * ranks + rank,
        "arrival_s": finished.arrival_s,
        "input_tokens": finished.input_tokens,
        "output_tokens": finished.output_tokens,
        "hit_tokens": finished.hit_tokens,
        **{f"{metric}_s": finished.latency_s(metric) for metric in Metric},
        "max_gap_s": finished.max_gap_s,
        "preemptions": finished.preemptions,
    }


# --- the result ---


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to."""

    profile: EngineProfile
    slo: Slo
    tally: Tally
    ranks: list[Simulation]

    @property
    def end_s(self) -> float:
        """When the last request was done."""
        return max(rank.now_s for rank in self.ranks)

    @property
    def bounded(self) -> bool:
        """Whether there was an SLO."""
        return any((self.slo.ttft_s, self.slo.itl_s, self.slo.e2e_s))

    def total(self, what: str) -> float:
        """Add up something of the ranks' `Usage`."""
        return float(sum(getattr(rank.usage, what) for rank in self.ranks))

    def mean(self, what: str) -> float:
        """Average over time and ranks something integrated over time."""
        return self.total(what) / (len(self.ranks) * self.end_s) if self.end_s else 0.0

    def gap_s(self, q: float) -> float:
        """Quantile of the gaps between all tokens."""
        gaps = np.sum([rank.gaps for rank in self.ranks], axis=0)
        return binned_quantile_s(gaps, GAP_DECADES, q)


def as_dict(result: Result) -> dict[str, Any]:
    """For JSON: milliseconds, ratios from 0 to 1; null where nothing is known."""
    tally, blocks = result.tally, result.ranks[0].limits.num_blocks
    return {
        "model": result.profile.model,
        "gpu": result.profile.gpu,
        "layout": str(result.profile.layout),
        "requests": tally.requests,
        "inputTokens": tally.input_tokens,
        "outputTokens": tally.output_tokens,
        "endS": _rounded(result.end_s),
        "requestsPerSecond": _rounded(tally.requests / result.end_s),
        "outputTokensPerSecond": _rounded(tally.output_tokens / result.end_s),
        "attainedRatio": _rounded(tally.attained / tally.requests) if result.bounded else None,
        "latencyMs": {metric.value: _latency(tally, metric) for metric in Metric},
        "gapMs": {_name(q): _ms(result.gap_s(q)) for q in _QUANTILES},
        "preemptions": int(result.total("preemptions")),
        "preemptedRequests": tally.preempted,
        "prefixHitRatio": _rounded(tally.hit_tokens / tally.input_tokens),
        "busyRatio": _rounded(result.mean("busy_s")),
        "kvUsageRatio": _rounded(result.mean("kv_block_s") / blocks),
        "meanRunning": _rounded(result.mean("running_s")),
        "steps": int(result.total("steps")),
    }


def _latency(tally: Tally, metric: Metric) -> dict[str, float | None]:
    quantiles = {_name(q): _ms(tally.quantile_s(metric, q)) for q in _QUANTILES}
    return {"mean": _ms(tally.mean_s(metric)), **quantiles, "max": _ms(tally.max_s(metric))}


def _name(q: float) -> str:
    return f"p{100 * q:.0f}"


def _ms(seconds: float) -> float | None:
    return _rounded(1e3 * seconds)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.5g}")


def _print(result: Result) -> None:
    out, told, known = Console(), as_dict(result), result.profile
    out.print(
        f"[bold]{known.model}[/] on {known.layout.gpus} × {known.gpu} ({known.layout}), constants "
        f"{known.source}: {told['requests']:,} requests in {told['endS']:,g} s"
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="ms", caption_justify="left")
    for name in ("", "mean", *map(_name, _QUANTILES), "max"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for metric, row in told["latencyMs"].items():
        table.add_row(metric.upper(), *map(_cell, row.values()))
    table.add_row("any gap", "", *map(_cell, told["gapMs"].values()), "")
    out.print(table)
    for line in _lines(result, told):
        out.print(line, highlight=False)


def _cell(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:,.1f}"


def _lines(result: Result, told: dict[str, Any]) -> Iterator[str]:
    slo = result.slo
    if result.bounded:
        yield (
            f"within the objective: {told['attainedRatio']:.1%} of requests, "
            f"asked for {slo.percentile:.0%}"
        )
    yield f"{told['requestsPerSecond']:g} req/s, {told['outputTokensPerSecond']:,g} tokens/s"
    yield f"{told['preemptions']:,} preemptions, of {told['preemptedRequests']:,} requests"
    yield f"{told['prefixHitRatio']:.1%} of prompt tokens found in the prefix cache"
    yield (
        f"busy {told['busyRatio']:.1%} of the time, {told['meanRunning']:.1f} running on average, "
        f"KV cache {told['kvUsageRatio']:.1%} full"
    )
