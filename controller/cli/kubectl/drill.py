"""`kubectl whaleflux drill`: kill a serving replica on purpose, and time what follows.

Counts as the operator does: a replica serves while it is Ready and carries the serving label.
Requests that the killed replica holds are lost to the engine; routers and clients send them again.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

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
    pods_path,
    pods_selector,
    read_replicas,
    read_service,
    replicas_of,
)
from controller.clock import monotonic_s
from controller.kube import KubeClient, NotFound, Reflector
from controller.kube.objects import Pod
from controller.observation import Phase, Replica
from profiler.errors import Refused


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be done, and to what."""

    seen: Seen
    victim: str
    serving: frozenset[str]
    standby: frozenset[str]


@dataclass(slots=True)
class Report:
    """What came of it."""

    plan: Plan
    timeout_s: float
    back_after_s: float | None = None
    """From the deletion being sent to as many serving as before; None: not in time."""
    least_serving: int = 0
    took_over: list[str] = field(default_factory=list)
    """Serving at the end, and standbys before."""
    started: list[str] = field(default_factory=list)
    """Serving at the end, and not there before."""


def drill(
    service: ServiceName,
    namespace: Namespace = None,
    replica: Annotated[
        str | None, typer.Option(help="Pod to delete; the oldest that serves by default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option(help="Even where none would serve.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait.")] = 300.0,
    output: OutputOption = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Delete one serving replica at once and tell how long the service was short of it.

    Exit code 1: as many as before did not serve within the timeout.
    """
    where = Where(namespace, kubeconfig, context)

    async def look(client: KubeClient, at: str) -> Plan:
        seen = await read_service(client, at, service)
        await _check_rights(client, at)
        return planned(seen, await read_replicas(client, seen), replica, force)

    plan = ask(where, look)
    if not yes:
        _confirm(plan)
    report = ask(where, lambda client, _: carry_out(client, plan, timeout))
    typer.echo(json.dumps(as_dict(report), indent=2) if output is Output.JSON else _says(report))
    if report.back_after_s is None:
        raise typer.Exit(1)


async def _check_rights(client: KubeClient, namespace: str) -> None:
    """Ask before anything is deleted: who may not watch would never learn what came of it."""
    for verb in ("watch", "delete"):
        attributes = {"namespace": namespace, "resource": "pods", "verb": verb}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await client.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        if not json.loads(answer).get("status", {}).get("allowed"):
            raise Refused(f"drill: you may not {verb} pods in namespace {namespace}: ask for it")


def planned(seen: Seen, replicas: tuple[Replica, ...], chosen: str | None, force: bool) -> Plan:
    """Choose what to delete; `Refused` where that would leave nobody to serve."""
    serving = [each.id for each in replicas if each.phase is Phase.SERVING]
    standby = [each.id for each in replicas if each.phase is Phase.STANDBY]
    name = f"drill {seen.namespace}/{seen.name}"
    if not serving:
        raise Refused(f"{name}: no replica serves: see `kubectl whaleflux explain {seen.name}`")
    if chosen is not None and chosen not in serving:
        raise Refused(f"{name}: {chosen} does not serve: take one of {', '.join(serving)}")
    if len(serving) == 1 and not standby and not force:
        raise Refused(
            f"{name}: one replica serves and there is no standby: set resilience.standbys, or give "
            "--force"
        )
    victim = chosen if chosen is not None else serving[0]
    return Plan(seen, victim, frozenset(serving), frozenset(standby))


def _confirm(plan: Plan) -> None:
    question = (
        f"delete Pod {plan.victim} of {plan.seen.namespace}/{plan.seen.name} at once "
        f"({len(plan.serving)} serving, {len(plan.standby)} standby)?"
    )
    agreed = False
    with contextlib.suppress(typer.Abort):
        agreed = typer.confirm(question, err=True)
    if not agreed:
        raise Refused("drill: not confirmed, nothing was deleted: answer y, or give --yes")


async def carry_out(client: KubeClient, plan: Plan, timeout_s: float) -> Report:
    """Delete, and watch until as many serve as before."""
    seen = plan.seen
    states: asyncio.Queue[list[Pod]] = asyncio.Queue()  # two events that come together are two
    mirror = Reflector(
        client,
        pods_path(seen.namespace),
        Pod,
        lambda *_: states.put_nowait(list(mirror.items.values())),
        pods_selector(seen.name),
    )
    watching = asyncio.create_task(mirror.run())
    try:
        async with asyncio.timeout(timeout_s):
            await mirror.synced.wait()
        while not states.empty():  # the list as it filled up
            states.get_nowait()
        began_s = monotonic_s()
        await _delete(client, plan)
        report = Report(plan, timeout_s, least_serving=len(plan.serving))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not _back(report, replicas_of(client, seen, await states.get())):
                    pass
                report.back_after_s = monotonic_s() - began_s
        return report
    except TimeoutError as error:
        raise Refused("drill: the Pods cannot be watched; nothing was deleted") from error
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _delete(client: KubeClient, plan: Plan) -> None:
    try:
        path = f"{pods_path(plan.seen.namespace)}/{plan.victim}"
        await client.delete(path, gracePeriodSeconds=0)
    except NotFound as error:
        raise Refused(f"drill: {plan.victim} went away meanwhile: begin again") from error


def _back(report: Report, replicas: tuple[Replica, ...]) -> bool:
    """Whether as many serve as before, without the one that was deleted."""
    plan, there = report.plan, {each.id for each in replicas}
    serving = {each.id for each in replicas if each.phase is Phase.SERVING} - {plan.victim}
    if plan.victim not in there or len(serving) < len(plan.serving):
        report.least_serving = min(report.least_serving, len(serving))
    if len(serving) < len(plan.serving):
        return False
    report.took_over = sorted(serving & plan.standby)
    report.started = sorted(serving - plan.standby - plan.serving)
    return True


def as_dict(report: Report) -> dict[str, Any]:
    """The report for programs."""
    plan, after_s = report.plan, report.back_after_s
    return {
        "namespace": plan.seen.namespace,
        "name": plan.seen.name,
        "deleted": plan.victim,
        "servingBefore": len(plan.serving),
        "standbyBefore": len(plan.standby),
        "servingLeast": report.least_serving,
        "backAfterSeconds": None if after_s is None else round(after_s, 3),
        "timeoutSeconds": report.timeout_s,
        "tookOver": report.took_over,
        "started": report.started,
    }


def _says(report: Report) -> str:
    plan = report.plan
    before = f"{len(plan.serving)} serving"
    if report.back_after_s is None:
        return (
            f"{plan.victim} deleted; not {before} again within {report.timeout_s:.0f} s: see "
            f"`kubectl whaleflux explain {plan.seen.name}`"
        )
    after = f"{before} again after {report.back_after_s:.2f} s"
    if report.took_over:
        how = f"standby {', '.join(report.took_over)} took over"
    else:
        how = f"no standby took over; started: {', '.join(report.started)}"
    return f"{plan.victim} deleted; {after}, {report.least_serving} at the least; {how}"
