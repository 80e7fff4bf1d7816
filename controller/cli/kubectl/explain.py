"""`kubectl whaleflux explain`: one service's story, from what is wanted to what happened."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from controller.api.status import Condition
from controller.cli.kubectl.access import (
    Context,
    Kubeconfig,
    Namespace,
    Output,
    OutputOption,
    ServiceName,
    Where,
    ask,
)
from controller.cli.kubectl.reading import (
    Seen,
    Told,
    age_s,
    as_age,
    read_events,
    read_replicas,
    read_service,
)
from controller.cli.kubectl.words import in_plain_words, mend_of
from controller.clock import monotonic_s
from controller.kube import KubeClient
from controller.observation import Replica
from controller.operator.trouble import diagnose


@dataclass(frozen=True, slots=True)
class Story:
    """Everything there is to tell of a service."""

    seen: Seen
    replicas: tuple[Replica, ...]
    events: list[Told]


def explain(
    service: ServiceName,
    namespace: Namespace = None,
    events: Annotated[int, typer.Option(min=0, help="Newest events to show.")] = 20,
    output: OutputOption = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Tell what is wanted of a service and why, how it is, and what to do about it."""

    async def read(client: KubeClient, where: str) -> Story:
        seen = await read_service(client, where, service)
        replicas = await read_replicas(client, seen)
        return Story(seen, replicas, await read_events(client, seen, events) if events else [])

    story = ask(Where(namespace, kubeconfig, context), read)
    if output is Output.JSON:
        typer.echo(json.dumps(as_dict(story), indent=2))
    else:
        _print(story)


def as_dict(story: Story) -> dict[str, Any]:
    """The story for programs."""
    seen, status = story.seen, story.seen.status
    dumped = status.model_dump(mode="json", by_alias=True)
    return {
        "namespace": seen.namespace,
        "name": seen.name,
        "wanted": wanted(seen),
        "lastDecision": dumped["lastDecision"],
        "conditions": [
            {**raw, "says": in_plain_words(c), "mend": mend_of(c)}
            for raw, c in zip(dumped["conditions"], status.conditions, strict=True)
        ],
        "configuration": dumped["configuration"],
        "endpoint": status.endpoint,
        "replicas": [_replica(replica) for replica in story.replicas],
        "events": [asdict(told) for told in story.events],
    }


def wanted(seen: Seen) -> str:
    """Say in a sentence what the manifest asks for."""
    spec = seen.spec
    scaling, standbys = spec.get("scaling"), (spec.get("resilience") or {}).get("standbys") or 0
    replicas = spec.get("replicas")
    many = (
        f"{scaling.get('min', 1)} to {scaling['max']} serving replicas"
        if scaling
        else f"{1 if replicas is None else replicas} serving replicas, given by hand"
    )
    slo = spec.get("slo") or {}
    bounds = [
        f"{name} {slo[key]} ms"
        for name, key in (("TTFT", "ttftMs"), ("ITL", "itlMs"), ("end to end", "e2eMs"))
        if slo.get(key) is not None
    ]
    within = f"{seen.objective_percent} % of requests within {', '.join(bounds)}"
    return (
        f"{spec.get('model', {}).get('uri', '?')} on {seen.gpu or '?'}: {many}, "
        f"{standbys} standby; {within if bounds else 'no objective'}"
    )


def _replica(replica: Replica) -> dict[str, Any]:
    return {
        "name": replica.id,
        "phase": replica.phase.value,
        "node": replica.node,
        "ageSeconds": round(monotonic_s() - replica.created_s, 1),
        "trouble": trouble_of(replica),
    }


def trouble_of(replica: Replica) -> str:
    """Say what keeps it from being ready, and what mends that; empty where nothing does."""
    found = diagnose(replica.message)
    return "" if found is None else found.message


# --- for people ---


def _print(story: Story) -> None:
    out = Console(soft_wrap=True, highlight=False)
    for line in _lines(story):
        out.print(line)


def _lines(story: Story) -> list[str]:
    seen, status = story.seen, story.seen.status
    lines = [f"[bold]{escape(f'{seen.namespace}/{seen.name}')}[/]: {escape(wanted(seen))}"]
    if status.observed_generation < seen.generation:
        lines.append("the operator has not read the latest spec yet: is it running?")
    decision = status.last_decision
    if decision is None:
        lines.append("decided: nothing yet")
    else:
        age = as_age(age_s(decision.time))
        lines.append(f"decided: {escape(decision.message)} ({decision.reason}, {age} ago)")
    if status.endpoint:
        lines.append(f"endpoint: {escape(status.endpoint)}")
    return [*lines, *_conditions(status.conditions), *_configuration(seen), *_rest(story)]


_MARKS = {"True": "[green]✓[/]", "False": "[red]✗[/]", "Unknown": "[yellow]?[/]"}


def _conditions(conditions: list[Condition]) -> list[str]:
    lines = ["", "[bold]conditions[/]"]
    for one in conditions:
        age = as_age(age_s(one.last_transition_time))
        lines.append(f"{_MARKS[one.status]} {one.type}: {in_plain_words(one)} (for {age})")
        if one.status != "True" and one.message:
            lines.append(f"    {one.reason}: {escape(one.message)}")
        if mend := mend_of(one):
            lines.append(f"    mend: {mend}")
    return lines if conditions else [*lines, "none: no operator has seen this service"]


def _configuration(seen: Seen) -> list[str]:
    c = seen.status.configuration
    if c is None:
        return ["", "[bold]configuration[/]", "none in force"]
    return [
        "",
        "[bold]configuration[/]",
        f"{c.gpu} TP{c.tensor_parallel_size} PP{c.pipeline_parallel_size} "
        f"DP{c.data_parallel_size}, {c.max_num_seqs} sequences, {c.max_num_batched_tokens} tokens "
        f"a step, {c.max_model_len} tokens at most, KV {c.kv_cache_dtype.value}, "
        f"weights {c.quantization.value}, {c.gpu_memory_utilization_percent} % of the memory",
        f"{c.requests_per_second_per_replica} req/s a replica",
        f"why: {escape(c.message)} ({c.reason})",
    ]


def _rest(story: Story) -> list[str]:
    lines = ["", "[bold]replicas[/]"]
    for replica in story.replicas:
        one = _replica(replica)
        node, age = one["node"] or "no node", as_age(one["ageSeconds"])
        lines.append(f"{escape(one['name'])}: {one['phase']}, {escape(node)}, {age}")
        if one["trouble"]:
            lines.append(f"    {escape(one['trouble'])}")
    lines += [] if story.replicas else ["none"]
    lines += ["", "[bold]events[/], oldest first"]
    for told in story.events:
        warn = "[yellow]![/] " if told.kind == "Warning" else ""
        age = as_age(age_s(told.at))
        lines.append(f"{age} ago {warn}{escape(told.reason)}: {escape(told.note)}")
    return lines if story.events else [*lines, "none"]
