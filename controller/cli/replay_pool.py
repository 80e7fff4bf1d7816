"""`whaleflux replay-pool`: several services' traces on one pool of GPUs, under our policy."""

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import typer
import yaml
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)
from rich import box
from rich.console import Console
from rich.table import Table

from controller.api.llmservice import GpuName, SloSpec
from controller.replay.ground import Asleep
from controller.replay.ours import ours
from controller.replay.pool import Entry, Pool, Pooled, Rule
from controller.replay.pool import replay_pool as replayed
from controller.replay.served import Served
from controller.replay.terms import Terms
from controller.service import read_objective
from profiler.configuration import Configuration
from profiler.document import first_fault
from profiler.document_base import Document
from profiler.errors import Refused
from profiler.profile import resolve_profile
from profiler.trace import read_trace

_LIMIT_BYTES = 1 << 20

Name = Annotated[str, StringConstraints(min_length=1, max_length=253)]
Milliseconds = Annotated[int, Field(ge=0, le=86_400_000)]


class Output(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"


class EngineSpec(Document):
    """One replica's engine, in vLLM's own names."""

    tensor_parallel_size: PositiveInt = Field(default=1, le=64)
    """GPUs of a replica."""
    max_num_seqs: PositiveInt = Field(default=256, le=65_536)
    """Sequences in a step, at most."""
    max_num_batched_tokens: PositiveInt = Field(default=8192, le=1 << 22)
    """Tokens in a step, at most."""
    max_model_len: PositiveInt | None = Field(default=None, le=1 << 24)
    """Longest prompt and answer together; none: the model's."""


class ServiceSpec(Document):
    """A service of the pool."""

    name: Name
    """What it is called in the result."""
    trace: Path
    """CSV[.gz] of its requests; from the scenario's folder, if relative."""
    model: Name
    """Bundled name, folder or config.json."""
    engine: EngineSpec = EngineSpec()
    """Of one replica."""
    slo: SloSpec
    """Its objective."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Higher is served in full before lower."""
    min: NonNegativeInt = Field(default=1, le=1024)
    """Replicas at least, and those it begins with."""
    max: PositiveInt = Field(default=64, le=1024)
    """Replicas at most."""
    budget_gpus: PositiveInt | None = Field(default=None, le=8192)
    """GPUs that it may have at most."""
    appears_ms: Milliseconds = 0
    """When it is created."""
    vanishes_ms: Milliseconds | None = None
    """When it is deleted; none: never."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.vanishes_ms is not None and self.vanishes_ms < self.appears_ms:
            raise ValueError(
                f"{self.name}: vanishesMs {self.vanishes_ms} comes before appearsMs "
                f"{self.appears_ms}: exchange them"
            )
        return self


class AsleepSpec(Document):
    """Standbys that sleep on the pool's GPUs."""

    wake_ms: Milliseconds = 3000
    """Until one that is woken serves."""
    sleep_ms: Milliseconds = 1000
    """Until one that has drained is asleep."""
    host_copies: NonNegativeInt | None = Field(default=None, le=8192)
    """Sleepers that a node's host memory holds; none: every service on every GPU."""


class PoolSpec(Document):
    """The GPUs."""

    gpu: GpuName
    """GPU type, a name of the catalogue."""
    gpus: PositiveInt = Field(le=8192)
    """How many there are."""
    gpus_per_node: PositiveInt = Field(default=8, le=1024)
    """GPUs of a node."""
    asleep: AsleepSpec | None = None
    """None: every start is a cold one."""
    rule: Rule = Rule.SHARE
    """Who gets the GPUs when they are short."""


class Scenario(Document):
    """A pool and its services."""

    pool: PoolSpec
    """What they share."""
    services: list[ServiceSpec] = Field(min_length=1, max_length=100)
    """Who shares it."""


def read_scenario(file: Path) -> Scenario:
    """Read a scenario; `Refused` names the field that is wrong."""
    try:
        if file.stat().st_size > _LIMIT_BYTES:
            raise Refused(f"{file}: larger than {_LIMIT_BYTES >> 20} MiB, so it is no scenario")
        return Scenario.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise Refused(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise Refused(f"{file}: {first_fault(error)}") from error


def replay_pool(
    scenario: Annotated[Path, typer.Argument(help="The pool and its services: a YAML file.")],
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print.")] = Output.TABLE,
) -> None:
    """Replay several services' traces on one pool of GPUs, and say what each attains."""
    asked = read_scenario(scenario)
    entries = [_entry(spec, asked.pool.gpu, scenario.parent) for spec in asked.services]
    pooled = replayed(entries, _pool(asked.pool))
    if output is Output.JSON:
        typer.echo(json.dumps(_as_dict(asked, pooled), indent=2))
    else:
        _print(_as_dict(asked, pooled))


def _pool(spec: PoolSpec) -> Pool:
    asleep = None
    if (asked := spec.asleep) is not None:
        asleep = Asleep(asked.wake_ms / 1e3, asked.sleep_ms / 1e3, asked.host_copies)
    return Pool(spec.gpus, asleep, spec.rule, spec.gpus_per_node)


def _entry(spec: ServiceSpec, gpu: str, folder: Path) -> Entry:
    try:
        trace = read_trace(folder / spec.trace)
        configuration = Configuration(**spec.engine.model_dump())
        profile = resolve_profile(spec.model, gpu, configuration.layout)
        served = Served.of(trace, profile, configuration, read_objective(spec.slo))
        terms = Terms(
            start_up_s=profile.start_up_s,
            initial=spec.min,
            min_replicas=spec.min,
            max_replicas=spec.max,
            appears_s=spec.appears_ms / 1e3,
            vanishes_s=math.inf if spec.vanishes_ms is None else spec.vanishes_ms / 1e3,
        )
    except Refused as error:
        raise Refused(f"{spec.name}: {error}") from error
    policy = ours(served, terms)
    return Entry(spec.name, trace, served, policy, terms, spec.priority, spec.budget_gpus)


def _as_dict(asked: Scenario, pooled: Pooled) -> dict[str, Any]:
    return {
        "services": [
            {
                "service": spec.name,
                "requests": outcome.requests,
                "attainedRatio": _number(outcome.attained_ratio),
                "unserved": outcome.unserved,
                "meanReplicas": _number(outcome.mean_replicas),
                "peakReplicas": outcome.peak_replicas,
                "gpuHours": _number(outcome.gpu_hours),
                "longestOutageS": _number(outcome.longest_outage_s),
            }
            for spec, outcome in zip(asked.services, pooled.services, strict=True)
        ],
        "pool": {
            "gpus": pooled.gpus,
            "peakGpus": pooled.peak_gpus,
            "gpuHours": _number(pooled.gpu_hours),
            "usedGpuHours": _number(pooled.used_gpu_hours),
        },
    }


def _number(value: float) -> float | None:
    """Six digits after the point; what is not known is null."""
    return None if math.isnan(value) else round(value, 6)


def _print(found: dict[str, Any]) -> None:
    out = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("service", "requests", "attained", "mean", "peak", "GPU h", "outage s"):
        table.add_column(name, justify="left" if name == "service" else "right", overflow="fold")
    for each in found["services"]:
        ratio = each["attainedRatio"]
        table.add_row(
            each["service"], str(each["requests"]), "–" if ratio is None else f"{ratio:.2%}",
            f"{each['meanReplicas'] or 0:.2f}", str(each["peakReplicas"]),
            f"{each['gpuHours']:.2f}", f"{each['longestOutageS']:.1f}",
        )  # fmt: skip
    out.print(table)
    pool = found["pool"]
    out.print(
        f"{pool['peakGpus']} of {pool['gpus']} GPUs in use at most; replicas had "
        f"{pool['usedGpuHours']:.2f} of the pool's {pool['gpuHours']:.2f} GPU-hours",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
