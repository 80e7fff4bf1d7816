"""`whaleflux profile decompose`: where a step's time goes, operator by operator."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from controller.cli.options import (
    DataParallel,
    ExpertParallel,
    PipelineParallel,
    TensorParallel,
)
from controller.cli.profile.picture import as_html
from profiler.architecture import load_architecture
from profiler.decomposition import DEFAULT, MeasuredTable, Step, read_measured, take_apart
from profiler.document import read_profile
from profiler.efficiencies import find_efficiency
from profiler.errors import Refused
from profiler.hardware import find_gpu
from profiler.layout import Layout, check_layout
from profiler.operators import KvDtype, Replica
from profiler.step_cost import StepCost


class Output(StrEnum):
    """How the decomposition is printed."""

    TABLE = "table"
    JSON = "json"


def decompose(
    model: Annotated[str, typer.Option(help="Bundled name, folder or config.json.")],
    gpu: Annotated[str, typer.Option(help="GPU type of the catalogue.")],
    tensor_parallel_size: TensorParallel = 1,
    pipeline_parallel_size: PipelineParallel = 1,
    data_parallel_size: DataParallel = 1,
    enable_expert_parallel: ExpertParallel = False,
    kv_cache_dtype: Annotated[KvDtype, typer.Option()] = KvDtype.AUTO,
    profile: Annotated[
        str | None, typer.Option(help="EngineProfile whose groups stand beside the operators.")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="JSON of python -m profiler.measure.kernels.")
    ] = None,
    prefill: Annotated[list[str] | None, typer.Option(help="2048, or 512@1024 cached.")] = None,
    decode: Annotated[list[str] | None, typer.Option(help="Sequences × context: 64x1024.")] = None,
    mixed: Annotated[list[str] | None, typer.Option(help="Both: 512+64x1024.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output")] = Output.TABLE,
    html: Annotated[
        Path | None, typer.Option(help="Write a picture: bars, shares, roofline.")
    ] = None,
) -> None:
    """Take steps apart: what each operator computes and reads, and how long it takes."""
    layout = Layout(
        tensor_parallel_size, pipeline_parallel_size, data_parallel_size, enable_expert_parallel
    )
    architecture, card = load_architecture(model), find_gpu(gpu)
    check_layout(architecture, card, layout)
    efficiency, _ = find_efficiency(architecture, card.name)
    replica = Replica(architecture, card, layout, kv_cache_dtype, efficiency)
    table = None if measured is None else read_measured(measured)
    titles = [f"{kind} {text}" for kind, texts in
              (("prefill", prefill), ("decode", decode), ("mixed", mixed))
              for text in texts or ()]  # fmt: skip
    steps = take_apart(replica, titles or DEFAULT, _cost(profile, layout), table)
    about = f"{architecture.name} on {card.name}, {layout}"
    if html is not None:
        _write(html, as_html(about, replica, steps))
    if output is Output.JSON:
        typer.echo(json.dumps(as_dict(about, steps, table), indent=2))
    else:
        _print(about, steps, table)
    if html is not None:
        typer.echo(f"wrote {html}", err=True)


def _cost(profile: str | None, layout: Layout) -> StepCost | None:
    if profile is None:
        return None
    known = read_profile(profile)
    if known.layout != layout:
        raise Refused(f"--profile: was made for {known.layout}, asked for is {layout}")
    return known.cost


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"--html: cannot write {path}: {error.strerror}") from error


def as_dict(about: str, steps: tuple[Step, ...], table: MeasuredTable | None) -> dict[str, Any]:
    """For JSON: seconds, FLOPs, bytes; null where nothing is known."""
    return {
        "what": about,
        "measuredOn": None if table is None else table.gpu,
        "notes": [] if table is None else list(table.notes),
        "steps": [
            {
                "shape": step.title,
                "predictedS": step.predicted_s,
                "measuredS": step.measured_s,
                "profileS": step.profile_s,
                "groupsS": None if step.groups is None else step.groups._asdict(),
                "operators": [{**asdict(row), "intensity": row.intensity} for row in step.rows],
            }
            for step in steps
        ],
    }


def _print(about: str, steps: tuple[Step, ...], table: MeasuredTable | None) -> None:
    console = Console()
    console.print(f"[bold]{about}[/]; per GPU, all layers", highlight=False)
    for step in steps:
        console.print(_as_table(step))
    for note in () if table is None else (f"measured on {table.gpu}", *table.notes):
        console.print(f"note: {note}", highlight=False)


def _as_table(step: Step) -> Table:
    """Operators of one step; milliseconds."""
    table = Table(title=step.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ["", "ms", "share", "GFLOP", "MB", "FLOP/B", "bound"]
    if step.measured_s is not None:
        columns += ["measured", "error"]
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "bound") else "right", no_wrap=True)
    for row in step.rows:
        share = (row.predicted_s or 0.0) / step.predicted_s
        cells = [
            row.name, _ms(row.predicted_s), f"{share:.0%}", _figure(row.flops / 1e9),
            _figure((row.read_bytes + row.message_bytes) / 1e6), _figure(row.intensity),
            row.bound.value,
        ]  # fmt: skip
        if step.measured_s is not None:
            cells += [_ms(row.measured_s), _error(row.predicted_s, row.measured_s)]
        table.add_row(*cells)
    table.add_section()
    total = ["step", _ms(step.predicted_s), "", "", "", "", ""]
    table.add_row(*total, *([_ms(step.measured_s), ""] if step.measured_s is not None else []))
    if step.groups is not None:
        table.add_row("by the profile", _ms(step.profile_s))
        for name, seconds in step.groups._asdict().items():
            if seconds > 0:
                share = seconds / sum(step.groups)
                table.add_row(f"  {name.replace('_', ' ')}", _ms(seconds), f"{share:.0%}")
    return table


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.3f}"


def _figure(value: float | None) -> str:
    return f"{value:,.1f}" if value else "–"


def _error(predicted_s: float | None, measured_s: float | None) -> str:
    if predicted_s is None or not measured_s:
        return "–"
    return f"{predicted_s / measured_s - 1:+.0%}"
