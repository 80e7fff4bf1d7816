"""`kubectl whaleflux plan`: what would be recommended now, beside what is in force."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import yaml

from controller.api import parse_service
from controller.cli.kubectl.access import Context, Kubeconfig, Namespace, ServiceName, Where, ask
from controller.cli.kubectl.reading import Seen, read_service
from controller.cli.plan.command import Output
from controller.cli.plan.documents import Told, as_dict, as_manifest
from controller.cli.plan.table import print_plan
from controller.configure import offers_of, pins_of
from controller.operator.status import in_force
from controller.service import read_objective, read_traffic
from recommender import (
    Candidate,
    Comparison,
    Offer,
    Question,
    compare,
    explain,
    fitted,
    recommend,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """The question that a service's manifest puts, and what to say beside the answer."""

    question: Question
    notes: tuple[str, ...]


def plan(
    service: ServiceName,
    namespace: Namespace = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Requests a second; the manifest's by default.")
    ] = None,
    explained: Annotated[
        bool, typer.Option("--explain", help="What if, latencies, cost against latency.")
    ] = False,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print.")] = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Search the configuration for a service as it stands, and compare what runs now."""
    seen = ask(
        Where(namespace, kubeconfig, context),
        lambda client, where: read_service(client, where, service),
    )
    asked = asked_of(seen, rate)
    q = asked.question
    found = recommend(q.model, q.offers, q.workload, q.slo, q.pins)
    story = explain(q, found) if explained else None
    told = Told(q, found, story, _beside(seen, asked, found.best), asked.notes)
    match output:
        case Output.TABLE:
            print_plan(told)
        case Output.JSON:
            typer.echo(json.dumps(as_dict(told), indent=2))
        case Output.YAML:
            typer.echo(yaml.safe_dump(_pinned(seen, told), sort_keys=False))


def asked_of(seen: Seen, rate_rps: float | None) -> Asked:
    """Read the question off the manifest; `rate_rps` is planned for instead of its own."""
    spec = parse_service(seen.manifest, f"LLMService {seen.namespace}/{seen.name}").spec
    workload = read_traffic(spec.workload)
    workload = workload if rate_rps is None else workload.at_rate(rate_rps)
    pins = pins_of(spec.engine)
    workload = fitted(spec.model.uri, workload, pins)
    slo = read_objective(spec.slo)
    question = Question(spec.model.uri, offers_of(spec.placement), workload, slo, pins)
    return Asked(question, tuple(_notes(seen, spec.placement.profile, rate_rps)))


def _notes(seen: Seen, profile: str, rate_rps: float | None) -> Iterator[str]:
    forecast = seen.forecast_rps
    if rate_rps is None and forecast is not None:
        yield (
            f"planned for the manifest's rate; the last decision forecast {forecast:.2f} req/s: "
            f"give --rate {forecast:.2f} to plan for that"
        )
    if profile:
        yield f"computed from data sheets; the service itself predicts with EngineProfile {profile}"


def _beside(seen: Seen, asked: Asked, best: Candidate) -> Comparison | None:
    """Hold what runs now against it, at the price that the manifest gives; None: nothing runs."""
    running, question = in_force(seen.status), asked.question
    if running is None:
        return None
    offers = (offer for offer in question.offers if offer.gpu == running.gpu)
    return compare(question, best, next(offers, Offer(running.gpu)), running.configuration)


def _pinned(seen: Seen, told: Told) -> dict[str, Any]:
    """Give the manifest as it stands, with what was found pinned."""
    found = as_manifest(told)["spec"]
    engine = {**(seen.spec.get("engine") or {}), **found["engine"]}
    engine["type"] = (seen.spec.get("engine") or {}).get("type", engine["type"])
    kept = {key: value for key, value in seen.spec["placement"].items() if key != "gpus"}
    placement = {**kept, **found["placement"]}
    manifest = seen.manifest
    manifest["metadata"].pop("generation")
    return {**manifest, "spec": {**seen.spec, "engine": engine, "placement": placement}}
