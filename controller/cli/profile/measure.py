"""`whaleflux profile URL`: measure a running engine and write its EngineProfile.

Exit codes: 0 the profile was written; 2 the command was wrong, the engine is busy, or it
failed half-way. The journal beside the output keeps every finished point, and the same
command goes on from there.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

from controller.cli.options import (
    DataParallel,
    ExpertParallel,
    PipelineParallel,
    TensorParallel,
)
from controller.cli.profile.engine_metrics import EngineMetrics
from controller.cli.profile.progress import shown_on
from controller.clock import wall_s
from profiler.architecture import Architecture, load_architecture
from profiler.document import read_profile, write_profile
from profiler.errors import Refused
from profiler.hardware import find_gpu
from profiler.layout import Layout
from profiler.measure import PromptKind, Target, open_session
from profiler.measure.nvml import Report, sampling
from profiler.measure.profiling import (
    CHUNK_TOKENS,
    MAX_NUM_SEQS,
    Bounds,
    CacheFacts,
    Context,
    Driver,
    Finding,
    Journal,
    Names,
    Phases,
    Progress,
    Served,
    Session,
    assemble,
    fingerprint,
    generic_profile,
    probe,
)
from profiler.operators import KvDtype
from profiler.profile import EngineProfile, resolve_profile

BATCHED_TOKENS = 8192
"""vLLM's default of `max_num_batched_tokens` on large GPUs; where nobody says."""
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Asked:
    """The command's options."""

    url: str
    model: str
    gpu: str
    served_name: str | None
    layout: Layout
    kv_dtype: KvDtype
    profile: str | None
    output: Path
    minutes: float
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    max_model_len: int | None
    share: bool
    api_key: str | None
    prompt: PromptKind
    seed: int


def measure(
    url: Annotated[str, typer.Argument(help="Address of the engine, without /v1.")],
    model: Annotated[str, typer.Option(help="Bundled name, folder, config.json, or your own.")],
    gpu: Annotated[str, typer.Option(help="GPU of the catalogue, or a name of your own: CPU.")],
    served_name: Annotated[
        str | None, typer.Option(help="Name in requests; default: the first that is served.")
    ] = None,
    tensor_parallel_size: TensorParallel = 1,
    pipeline_parallel_size: PipelineParallel = 1,
    data_parallel_size: DataParallel = 1,
    enable_expert_parallel: ExpertParallel = False,
    kv_cache_dtype: Annotated[KvDtype, typer.Option(help="As the engine runs.")] = KvDtype.AUTO,
    profile: Annotated[
        str | None, typer.Option(help="EngineProfile to start from, instead of the catalogue.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where to write the profile.")
    ] = Path("engineprofile.yaml"),
    minutes: Annotated[float, typer.Option(help="Time to spend on the engine.")] = 10.0,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help=f"As the engine runs; default {MAX_NUM_SEQS}.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(min=16, help=f"As the engine runs; default {CHUNK_TOKENS}.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=64, help="Default: what the engine says.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Measure although others use the engine.")
    ] = False,
    api_key: Annotated[str | None, typer.Option(envvar="WHALEFLUX_API_KEY")] = None,
    prompt: Annotated[PromptKind, typer.Option(help="Token ids, or words.")] = PromptKind.TOKENS,
    seed: Annotated[
        int | None, typer.Option(help="Of the prompts; default: the clock, so none is cached.")
    ] = None,
) -> None:
    """Measure a running engine and write its EngineProfile.

    Chooses the points that teach most for their time, drives them with closed batches of
    fresh prompts, and fits the step cost. Killed, it goes on from its journal.
    """
    if not 0 < minutes < 24 * 60:
        raise Refused(f"--minutes: {minutes:g} is no time to spend: give 1 to 1440")
    layout = Layout(
        tensor_parallel_size, pipeline_parallel_size, data_parallel_size, enable_expert_parallel
    )
    asked = Asked(
        url=url.rstrip("/").removesuffix("/v1"),
        model=model,
        gpu=gpu,
        served_name=served_name,
        layout=layout,
        kv_dtype=kv_cache_dtype,
        profile=profile,
        output=output,
        minutes=minutes,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        share=share,
        api_key=api_key,
        prompt=prompt,
        seed=int(wall_s()) if seed is None else seed,
    )
    if not output.parent.is_dir():
        raise Refused(f"--output: {output.parent} is no folder: create it first")
    console = Console(stderr=True)
    with shown_on(console) as on_progress:
        found = asyncio.run(run(asked, on_progress))
    write_profile(found, output)
    _print(found, output)


async def run(asked: Asked, on_progress: Callable[[Progress], None]) -> EngineProfile:
    """Find out what is served, measure it, and make the profile."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(asked.api_key))
        engine = await look(session, asked)
        report = await stack.enter_async_context(sampling()) if _is_local(asked) else _remote
        finding = await engine.session(session, asked, on_progress).run()
        return engine.assembled(asked, finding, report())


@dataclass(frozen=True, slots=True)
class Engine:
    """What was found out of an engine before it is measured."""

    served: Served
    metrics: EngineMetrics
    cache: CacheFacts
    phases: Phases | None
    bounds: Bounds
    architecture: Architecture | None
    prior: EngineProfile
    known: bool
    """Whether the prior's constants mean anything."""

    def session(
        self, http: aiohttp.ClientSession, asked: Asked, on_progress: Callable[[Progress], None]
    ) -> Session:
        """The session that measures it, with its journal."""
        target = Target(
            asked.url, self.served.model, asked.api_key, prompt_kind=asked.prompt, seed=asked.seed
        )
        driver = Driver(
            http,
            target,
            asyncio.get_running_loop().time,
            self.metrics.phases,
            self.bounds,
            self.prior.cost.window_tokens,
            asked.share,
        )
        return Session(
            driver,
            Journal(journal_path(asked.output), self._key(asked)),
            self.prior.estimate if self.known else None,
            self.architecture,
            asked.minutes * 60,
            on_progress,
        )

    def _key(self, asked: Asked) -> str:
        return fingerprint(
            {
                "version": self.served.version,
                "model": asked.model,
                "served": self.served.model,
                "gpu": asked.gpu,
                "layout": asked.layout,
                "kv": asked.kv_dtype,
                "cache": self.cache,
                "bounds": self.bounds,
            }
        )

    def assembled(self, asked: Asked, finding: Finding, report: Report) -> EngineProfile:
        """The profile of what was measured."""
        absent = self.phases.absent if self.phases is not None else ("all metrics",)
        notes = [f"not published, client timings used: {', '.join(absent)}"] if absent else []
        if asked.share:
            notes.append("measured beside other people's requests (--share)")
        if asked.max_num_batched_tokens is None:
            notes.append(f"max_num_batched_tokens: not given, {BATCHED_TOKENS} assumed for memory")
        context = Context(
            cache=self.cache,
            batched_tokens=asked.max_num_batched_tokens or BATCHED_TOKENS,
            engine_version=self.served.version,
            driver=report.driver,
            measured_at=datetime.fromtimestamp(wall_s(), UTC).isoformat(timespec="seconds"),
            notes=(*notes, *report.notes),
        )
        return assemble(self.prior, finding, context)


async def look(http: aiohttp.ClientSession, asked: Asked) -> Engine:
    """Ask an engine what it is; `Refused` when it cannot be measured."""
    served = await probe(http, asked.url, asked.served_name)
    metrics = EngineMetrics(http, f"{asked.url}/metrics")
    phases, cache = await metrics.phases(), await metrics.cache()
    architecture = _architecture(asked.model)
    longest = asked.max_model_len or served.max_model_len
    if longest is None and architecture is None:
        raise Refused("max_model_len: the engine does not say; give --max-model-len")
    bounds = Bounds(
        max_model_len=longest or (architecture.max_model_len if architecture else 0),
        capacity_tokens=cache.capacity_tokens,
        max_num_seqs=asked.max_num_seqs or MAX_NUM_SEQS,
        chunk_tokens=asked.max_num_batched_tokens or CHUNK_TOKENS,
        block_tokens=cache.block_tokens or 16,
        prefix_caching=cache.prefix_caching is not False,
    )
    prior, known = _prior(asked, architecture, cache, bounds.max_model_len)
    return Engine(served, metrics, cache, phases, bounds, architecture, prior, known)


def _architecture(model: str) -> Architecture | None:
    """The model's architecture; None for a name that nobody knows."""
    try:
        return load_architecture(model)
    except Refused:
        if Path(model).exists():
            raise
        return None


def _prior(
    asked: Asked, architecture: Architecture | None, cache: CacheFacts, max_model_len: int
) -> tuple[EngineProfile, bool]:
    """The profile to start from, and whether its constants are known."""
    if asked.profile is not None:
        prior = read_profile(asked.profile)
        if prior.layout != asked.layout:
            raise Refused(
                f"--profile: was made for {prior.layout}, the engine is said to run {asked.layout}"
            )
        return prior, True
    if _in_catalogue(asked.gpu) and architecture is not None:
        return resolve_profile(asked.model, asked.gpu, asked.layout, asked.kv_dtype), True
    if _in_catalogue(asked.gpu):
        raise Refused(
            f"model: {asked.model!r} is not known: give the folder of its config.json, or "
            "--profile to start from"
        )
    names = Names(asked.model, asked.gpu, asked.layout, asked.kv_dtype, max_model_len)
    return generic_profile(names, architecture, cache), False


def _in_catalogue(gpu: str) -> bool:
    """Whether the GPU is known; a name that resembles a known one is refused as a slip."""
    try:
        find_gpu(gpu)
    except Refused as unknown:
        if "did you mean" in str(unknown):
            raise
        return False
    return True


def _is_local(asked: Asked) -> bool:
    return (urlsplit(asked.url).hostname or "") in _LOCAL


def _remote() -> Report:
    return Report(notes=("NVML: the engine is on another host; no power, clocks or heat",))


def journal_path(output: Path) -> Path:
    """Where finished points are kept: beside the output."""
    return output.with_name(f"{output.name}.journal")


def _print(profile: EngineProfile, output: Path) -> None:
    """Residuals and notes for the person who waited."""
    table = Table(title=f"{profile.model} on {profile.gpu}", title_justify="left")
    for name in ("point left out", "measured, ms", "predicted, ms", "error"):
        table.add_column(name, justify="left" if name.startswith("point") else "right")
    for r in profile.residuals:
        cells = (f"{r.measured_s * 1e3:.2f}", f"{r.predicted_s * 1e3:.2f}", f"{r.error_ratio:+.1%}")
        table.add_row(r.name, *cells)
    console = Console()
    console.print(table)
    for note in profile.provenance.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"wrote {output}", highlight=False)
