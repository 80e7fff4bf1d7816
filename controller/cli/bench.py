"""`whaleflux bench`: send a trace, or arrivals drawn at a rate, to a running service.

Exit codes: 0 every request was answered, 1 some were not (0 with `--allow-errors`), 2 the
command itself was wrong or nobody answered at the address.
"""

import asyncio
import json
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from profiler.errors import Refused
from profiler.measure import (
    Outcome,
    PromptKind,
    Report,
    Target,
    as_table,
    offered_models,
    open_session,
    replay,
    summarise,
)
from profiler.slo import Slo
from profiler.trace import Lengths, Trace, gamma_renewal, poisson, read_trace

FAILED_REQUESTS = 1


class Output(StrEnum):
    """How the report is printed."""

    TABLE = "table"
    JSON = "json"


def bench(
    url: Annotated[str, typer.Argument(help="Address of the service, without /v1.")],
    trace: Annotated[
        Path | None, typer.Option(help="CSV[.gz]: arrival_s, input_tokens, output_tokens.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Draw arrivals at this many req/s.")] = None,
    cv: Annotated[float, typer.Option(help="Burstiness of --rate: 1 is Poisson.")] = 1.0,
    input_tokens: Annotated[int | None, typer.Option(help="Prompt length for --rate.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Answer length for --rate.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds of arrivals for --rate.")] = 60.0,
    until: Annotated[
        float | None, typer.Option(help="Only the trace's first seconds, before --compress.")
    ] = None,
    compress: Annotated[float, typer.Option(help="Divide the trace's time by this.")] = 1.0,
    model: Annotated[str | None, typer.Option(help="Default: the first offered.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="WHALEFLUX_API_KEY")] = None,
    slo_ttft_ms: Annotated[float | None, typer.Option(help="Bound on TTFT.")] = None,
    slo_itl_ms: Annotated[float | None, typer.Option(help="Bound on a request's mean ITL.")] = None,
    slo_e2e_ms: Annotated[float | None, typer.Option(help="Bound on E2E latency.")] = None,
    slo_percentile: Annotated[float, typer.Option(help="Share that must attain, in %.")] = 95.0,
    stream: Annotated[bool, typer.Option(help="Stream, or take answers in one piece.")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds a request may take.")] = 600.0,
    warmup: Annotated[int, typer.Option(help="Requests sent first and not reported.")] = 0,
    seed: Annotated[int, typer.Option(help="Of arrivals and prompts.")] = 0,
    prompt: Annotated[PromptKind, typer.Option(help="Token ids, or words.")] = PromptKind.TOKENS,
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
    allow_errors: Annotated[
        bool, typer.Option("--allow-errors", help="Exit with 0 when requests failed.")
    ] = False,
) -> None:
    """Inject traffic into a running service and report its latencies."""
    if timeout <= 0 or warmup < 0 or seed < 0:
        raise Refused("--timeout must be positive, --warmup and --seed not negative")
    slo = _slo(slo_ttft_ms, slo_itl_ms, slo_e2e_ms, slo_percentile)
    lengths = _lengths(input_tokens, output_tokens)
    load = _load(trace, rate, cv, lengths, duration, np.random.default_rng(seed))
    load = (load if until is None else load.until(until)).compressed(compress)
    if not len(load):
        raise Refused("no request falls into this time: raise --until, --duration or --rate")
    target = Target(
        url.rstrip("/").removesuffix("/v1"), model or "", api_key, stream, prompt, timeout, seed
    )
    report = summarise(asyncio.run(_inject(target, load, warmup)), slo)
    _print(report, output)
    if report.failed and not allow_errors:
        raise typer.Exit(FAILED_REQUESTS)


def _slo(
    ttft_ms: float | None, itl_ms: float | None, e2e_ms: float | None, percent: float
) -> Slo | None:
    """Milliseconds and percent become seconds and a ratio; None without a bound."""
    if ttft_ms is None and itl_ms is None and e2e_ms is None:
        return None
    ttft_s, itl_s, e2e_s = (None if ms is None else ms / 1e3 for ms in (ttft_ms, itl_ms, e2e_ms))
    try:
        return Slo(ttft_s, itl_s, e2e_s, percent / 100)
    except ValueError as fault:
        raise Refused(f"{fault}: check the --slo- options") from None


def _lengths(input_tokens: int | None, output_tokens: int | None) -> Lengths | None:
    """The lengths asked for; None without any."""
    if input_tokens is None and output_tokens is None:
        return None
    if input_tokens is None or output_tokens is None:
        raise Refused("give --input-tokens and --output-tokens together")
    if input_tokens < 1 or output_tokens < 1:
        raise Refused("--input-tokens and --output-tokens must be at least 1")
    return Lengths.fixed(input_tokens, output_tokens)


def _load(
    path: Path | None,
    rate_rps: float | None,
    cv: float,
    lengths: Lengths | None,
    duration_s: float,
    rng: np.random.Generator,
) -> Trace:
    """The recorded trace, or arrivals at a rate with fixed lengths or those of a trace."""
    recorded = None if path is None else read_trace(path)
    if rate_rps is None:
        if recorded is None:
            raise Refused("nothing to send: give --trace FILE, or --rate with lengths")
        if lengths is not None:
            raise Refused("--trace has lengths of its own: drop --input-tokens or add --rate")
        return recorded
    if recorded is not None and lengths is None:
        lengths = Lengths.of(recorded)
    if lengths is None:
        raise Refused("--rate needs --input-tokens and --output-tokens, or a --trace to draw from")
    if cv == 1:
        return poisson(rate_rps, duration_s, lengths, rng)
    return gamma_renewal(rate_rps, duration_s, lengths, rng, cv=cv)


async def _inject(target: Target, load: Trace, warmup: int) -> tuple[Outcome, ...]:
    """Find the model, which proves that somebody answers, and replay."""
    now_s = asyncio.get_running_loop().time
    async with open_session(target.api_key) as session:
        offered = await offered_models(session, target.base_url)
        if not target.model and not offered:
            raise Refused(f"{target.base_url} lists no model: let it start, or give --model")
        target = replace(target, model=target.model or offered[0])
        with _Bar(len(load)) as bar:
            return await replay(session, target, load, now_s, warmup=warmup, on_progress=bar.update)


class _Bar(AbstractContextManager["_Bar"]):
    """Progress on stderr, where a person looks at it."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("answered", total=total)

    def __enter__(self) -> Self:
        """Draw it."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def update(self, sent: int, ended: int) -> None:
        """Show what is done, and how many requests are under way."""
        text = f"answered ({sent - ended} under way)"
        self._progress.update(self._task, completed=ended, description=text)


def _print(report: Report, output: Output) -> None:
    """The report on stdout, what is wrong with it on stderr."""
    if output is Output.JSON:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        Console().print(as_table(report))
    for text, times in report.errors:
        typer.echo(f"{times} × {text}", err=True)
    if report.pace.warning is not None:
        typer.echo(f"warning: {report.pace.warning}", err=True)
