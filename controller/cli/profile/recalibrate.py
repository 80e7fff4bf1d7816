"""`whaleflux profile recalibrate`: hold a profile against an engine in production.

Scrapes `/metrics` once a window, or reads pages saved a window apart, and reports drift;
`--write` writes the corrected profile. Exit codes: 0 no drift, 1 drift was found, 2 the
command was wrong.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from controller.clock import monotonic_s
from monitor import EngineSignals, Histogram, read_signals
from profiler.configuration import Configuration
from profiler.document import read_profile, write_profile
from profiler.errors import Refused, RetryLater
from profiler.measure.profiling import Total
from profiler.recalibrate import Drift, Recalibration, Window
from profiler.recalibrate import recalibrate as judge

DRIFT_FOUND = 1
_TIMEOUT_S = 10.0
_BAD = frozenset({"error", "abort"})


class Output(StrEnum):
    """How the verdict is printed."""

    TEXT = "text"
    JSON = "json"


def recalibrate(
    metrics: Annotated[
        list[str], typer.Argument(help="Address of /metrics, or pages saved a window apart.")
    ],
    profile: Annotated[str, typer.Option(help="EngineProfile to hold against it.")],
    minutes: Annotated[float, typer.Option(help="How long to watch an address.")] = 30.0,
    window_s: Annotated[float, typer.Option(min=1.0, help="Length of a window.")] = 60.0,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="As the engine runs.")] = 256,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="As it runs.")] = 8192,
    max_model_len: Annotated[int | None, typer.Option(min=1, help="As it runs.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TEXT,
    write: Annotated[
        Path | None, typer.Option(help="Where to write the corrected profile.")
    ] = None,
) -> None:
    """Report how far an engine is from its profile, and correct the profile."""
    known = read_profile(profile)
    configuration = Configuration(
        tensor_parallel_size=known.layout.tensor,
        pipeline_parallel_size=known.layout.pipeline,
        data_parallel_size=known.layout.data,
        enable_expert_parallel=known.layout.expert,
        kv_cache_dtype=known.kv_dtype,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
    )
    if metrics[0].startswith(("http://", "https://")):
        count = max(int(minutes * 60 / window_s), 1)
        pages = asyncio.run(_scraped(metrics[0], count, window_s))
    else:
        pages = [(i * window_s, read_signals(_page(Path(file)))) for i, file in enumerate(metrics)]
    if len(pages) < 2:
        raise Refused("metrics: a window needs two pages: give more, or an address")
    found = judge(known, known.limits(configuration), windows_of(pages))
    _print(found, output)
    if write is not None and found.profile is not known:
        write_profile(found.profile, write)
        typer.echo(f"wrote {write}", err=True)
    if found.decode.found or found.prefill.found:
        raise typer.Exit(DRIFT_FOUND)


def windows_of(pages: Sequence[tuple[float, EngineSignals]]) -> list[Window]:
    """Increments between pages, each with its moment in seconds."""
    return [
        _window(late_s - early_s, early, late)
        for (early_s, early), (late_s, late) in pairwise(pages)
    ]


def _window(duration_s: float, early: EngineSignals, late: EngineSignals) -> Window:
    ended = (late.requests_finished or {}).items()
    before = early.requests_finished or {}
    ttft, itl = _added(early.ttft, late.ttft), _added(early.itl, late.itl)
    tokens = _more(early.generation_tokens_total, late.generation_tokens_total)
    return Window(
        duration_s=duration_s,
        ttft=ttft,
        itl=itl,
        prompt_tokens=_more(early.prompt_tokens_total, late.prompt_tokens_total) or 0.0,
        cached_tokens=_more(early.prefix_cache_hits_total, late.prefix_cache_hits_total) or 0.0,
        generation_tokens=tokens or 0.0,
        e2e=_added(early.e2e, late.e2e),
        running=_between(early.running, late.running),
        waiting=_between(early.waiting, late.waiting),
        kv_usage_ratio=_between(early.kv_usage_ratio, late.kv_usage_ratio),
        preemptions=_more(early.preemptions_total, late.preemptions_total) or 0.0,
        errors=sum(max(count - before.get(why, 0.0), 0.0) for why, count in ended if why in _BAD),
        restarted=tokens is None and late.generation_tokens_total is not None,
    )


def _added(early: Histogram | None, late: Histogram | None) -> Total | None:
    added = late.since(early) if early is not None and late is not None else None
    return None if added is None else Total(added.sum, added.count)


def _more(early: float | None, late: float | None) -> float | None:
    return None if early is None or late is None or late < early else late - early


def _between(early: float | None, late: float | None) -> float | None:
    return None if early is None or late is None else (early + late) / 2


async def _scraped(url: str, count: int, window_s: float) -> list[tuple[float, EngineSignals]]:
    """One page a window; an engine that does not answer ends the watch with what there is."""
    pages: list[tuple[float, EngineSignals]] = []
    begun_s = monotonic_s()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_TIMEOUT_S)) as session:
        for i in range(count + 1):
            await asyncio.sleep(max(begun_s + i * window_s - monotonic_s(), 0.0))
            try:
                async with session.get(url) as response:
                    pages.append((monotonic_s(), read_signals(await response.read())))
            except (aiohttp.ClientError, OSError, TimeoutError) as fault:
                if not pages:
                    raise RetryLater(f"{url} cannot be read ({fault}): is it serving?") from fault
                print(f"window {i}: no page ({fault})", file=sys.stderr)  # noqa: T201
    return pages


def _page(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"metrics: cannot read {path}: {error.strerror}") from error


def _print(found: Recalibration, output: Output) -> None:
    drifts = {"decode (ITL)": found.decode, "prefill (TTFT)": found.prefill}
    if output is Output.JSON:
        typer.echo(json.dumps({name: _as_dict(drift) for name, drift in drifts.items()}, indent=2))
        return
    for name, drift in drifts.items():
        left = ", ".join(f"{count} {why.value}" for why, count in drift.excluded) or "none"
        verdict = "drift" if drift.found else "as predicted"
        typer.echo(
            f"{name}: {verdict}; measured / predicted {drift.ratio:.3f}, confidence "
            f"{drift.confidence:.3f}, {drift.windows} windows, left out: {left}"
        )


def _as_dict(drift: Drift) -> dict[str, object]:
    return {
        "ratio": drift.ratio,
        "confidence": drift.confidence,
        "found": drift.found,
        "windows": drift.windows,
        "since": drift.since,
        "excluded": {why.value: count for why, count in drift.excluded},
    }
