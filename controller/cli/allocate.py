"""`whaleflux allocate`: many services over a fleet of unlike GPUs, at the least cost."""

import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from controller.api import LLMService, read_manifests
from controller.api.fleet import Claim, Fleet, read_fleet
from controller.api.llmservice import Switch
from controller.configure import offers_of, pins_of
from controller.service import read_objective, read_traffic
from profiler.errors import DoesNotFit, Refused
from profiler.hardware import find_gpu
from recommender import Candidate, Offer, allocation, search, title
from recommender.allocation import Allocation, Demand, Node, Placement, Variant
from recommender.race import measured
from recommender.sharing import Tenant, may_sleep, partners

_SIZES = 3
"""Sizes of a replica that are offered for each service and GPU type."""


class Output(StrEnum):
    """How the allocation is printed."""

    TABLE = "table"
    JSON = "json"


class Claimed:
    """A service with every candidate that may serve it."""

    def __init__(self, manifest: LLMService, candidates: Sequence[Candidate], fleet: Fleet) -> None:
        self.name = manifest.metadata.name
        self.candidates = {title(candidate): candidate for candidate in candidates}
        self.workload = read_traffic(manifest.spec.workload)
        self.slo = read_objective(manifest.spec.slo)
        claim = fleet.services.get(self.name, Claim())
        scaling, replicas = manifest.spec.scaling, manifest.spec.replicas
        low, high = (scaling.min, scaling.max) if scaling else (replicas or 1, None)
        self.demand = Demand(
            service=self.name,
            rate_rps=self.workload.sized_rps,
            variants=tuple(
                Variant(name, c.profile.gpu, c.gpus, c.capacity.rate_rps)
                for name, c in self.candidates.items()
            ),
            priority=claim.priority,
            min_replicas=low,
            max_replicas=high,
            min_nodes=claim.min_nodes,
            min_zones=claim.min_zones,
            survives_node_loss=claim.survives_node_loss is Switch.ENABLED,
            spot_ratio=claim.spot_percent / 100,
            budget_per_hour=None if claim.budget_per_hour is None else float(claim.budget_per_hour),
        )


def allocate(
    manifests: Annotated[list[Path], typer.Argument(help="LLMServices: files or folders.")],
    fleet: Annotated[Path, typer.Option(help="Nodes, prices and claims: a YAML file.")],
    running: Annotated[
        Path | None, typer.Option(help="What runs now: the JSON of an earlier allocation.")
    ] = None,
    sharing: Annotated[
        bool, typer.Option("--sharing", help="Say who may share a GPU, or sleep beside whom.")
    ] = False,
    host_memory_gib: Annotated[
        float, typer.Option(min=0, help="Of a node, for weights that sleep.")
    ] = 512.0,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print.")] = Output.TABLE,
) -> None:
    """Place services on nodes: the least cost within all SLOs, or the least violation."""
    known = read_fleet(fleet)
    nodes = known.all_nodes()
    claimed = [_claimed(manifest, known, nodes) for manifest in read_manifests(manifests).services]
    budget = known.budget_per_hour
    found = allocation.allocate(
        [each.demand for each in claimed],
        nodes,
        running=_read_running(running),
        budget_per_hour=None if budget is None else float(budget),
    )
    shared = list(_sharing(claimed, found, host_memory_gib)) if sharing else []
    if output is Output.JSON:
        typer.echo(json.dumps(_as_dict(found, shared), indent=2))
    else:
        _print(found, nodes, shared)


def _claimed(manifest: LLMService, fleet: Fleet, nodes: Sequence[Node]) -> Claimed:
    """Search the configurations of a service for every GPU type of the fleet that it allows."""
    name = manifest.metadata.name
    wanted = {offer.gpu for offer in offers_of(manifest.spec.placement)}
    offers = [offer for offer in _offers(nodes) if offer.gpu in wanted]
    if not offers:
        gpus = ", ".join(sorted(wanted))
        raise Refused(f"{name}: spec.placement: the fleet has no node of {gpus}")
    candidates, refused = [], []
    for offer in offers:
        try:
            candidates += _candidates(manifest, offer)
        except Refused as error:
            refused.append(str(error))
    if not candidates:
        raise (DoesNotFit if all("fit" in line for line in refused) else Refused)(
            f"{name}: {refused[-1]}"
        )
    return Claimed(manifest, candidates, fleet)


def _offers(nodes: Sequence[Node]) -> Iterator[Offer]:
    """One per GPU type: its largest link domain, its lowest price."""
    for gpu in dict.fromkeys(node.gpu for node in nodes):
        of_type = [node for node in nodes if node.gpu == gpu]
        domain = max(max(node.domains) for node in of_type)
        yield Offer(gpu, min(node.price_per_gpu_hour for node in of_type), domain)


def _candidates(manifest: LLMService, offer: Offer) -> list[Candidate]:
    """The best configuration on a GPU type, and the best of other sizes."""
    spec = manifest.spec
    workload, slo = read_traffic(spec.workload), read_objective(spec.slo)
    found = search(spec.model.uri, (offer,), workload, slo, pins_of(spec.engine))
    by_size = {found.best.gpus: found.best}
    for entrant in found.others:
        if len(by_size) < _SIZES and entrant.gpus not in by_size:
            candidate = measured(entrant, workload, slo)
            if candidate.capacity.rate_rps > 0:
                by_size[entrant.gpus] = candidate
    return list(by_size.values())


def _read_running(file: Path | None) -> tuple[Placement, ...]:
    if file is None:
        return ()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return tuple(
            Placement(p["service"], p["variant"], p["node"], int(p["replicas"]))
            for p in content["placements"]
        )
    except OSError as error:
        raise Refused(f"--running: cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"--running: {file} is no allocation: {error}") from error


# --- sharing ---


def _sharing(
    claimed: Sequence[Claimed], found: Allocation, host_memory_gib: float
) -> Iterator[str]:
    """Say who of those placed on one GPU type may share a GPU, and who may sleep beside whom."""
    by_gpu: dict[str, list[Tenant]] = {}
    for each in claimed:
        for tenant in _tenants(each, found):
            by_gpu.setdefault(tenant.profile.gpu, []).append(tenant)
    for gpu, tenants in by_gpu.items():
        card = find_gpu(gpu)
        for pair in partners(tenants, card):
            first, second = pair.names
            slower = max(pair.sharing.slowdown_ratio, 1.0) - 1.0
            yield f"{first} and {second} may share one {gpu}: answers take {slower:.0%} longer"
        for sleeper in tenants:
            for neighbour in tenants:
                if sleeper is not neighbour:
                    sleep = may_sleep(sleeper, neighbour, host_memory_gib * 2**30)
                    if sleep.allowed:
                        yield (
                            f"{sleeper.name} may sleep beside {neighbour.name} on {gpu}: awake "
                            f"in {sleep.wake_up_s:.1f} s"
                        )


def _tenants(each: Claimed, found: Allocation) -> Iterator[Tenant]:
    """One replica of each variant in use that has a GPU to itself, with its part of the rate."""
    placed = [p for p in found.placements if p.service == each.name]
    carried = sum(p.replicas * each.candidates[p.variant].capacity.rate_rps for p in placed)
    for variant in dict.fromkeys(p.variant for p in placed):
        candidate = each.candidates[variant]
        if candidate.gpus == 1:
            rate_rps = each.workload.sized_rps * candidate.capacity.rate_rps / carried
            yield Tenant(
                each.name, candidate.profile, candidate.configuration,
                each.workload.at_rate(max(rate_rps, 1e-3)), each.slo, each.demand.priority,
            )  # fmt: skip


# --- printing ---


def _as_dict(found: Allocation, shared: Sequence[str]) -> dict[str, Any]:
    return {
        "placements": [
            {"service": p.service, "variant": p.variant, "node": p.node, "replicas": p.replicas}
            for p in found.placements
        ],
        "costPerHour": round(found.cost_per_hour, 4),
        "reservedCostPerHour": round(found.reserved_cost_per_hour, 4),
        "gapRatio": round(found.gap_ratio, 6),
        "shortfalls": [
            {"service": s.service, "missingRps": round(s.missing_rps, 4), "because": s.because}
            for s in found.shortfalls
        ],
        "binding": [{"what": b.what, "says": b.says} for b in found.binding],
        "moved": found.moved,
        "sharing": list(shared),
    }


def _print(found: Allocation, nodes: Sequence[Node], shared: Sequence[str]) -> None:
    out = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("service", "runs as", "node", "replicas"):
        table.add_column(name, justify="right" if name == "replicas" else "left", overflow="fold")
    for p in found.placements:
        table.add_row(p.service, p.variant, p.node, str(p.replicas))
    out.print(table)
    total = sum(node.gpus for node in nodes)
    out.print(
        f"{found.cost_per_hour:.2f} an hour, and {found.reserved_cost_per_hour:.2f} for reserved "
        f"GPUs, used or not; proved within {found.gap_ratio:.1%} of the least; {total} GPUs; "
        f"{found.moved} replicas started or stopped",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for shortfall in found.shortfalls:
        out.print(
            f"short: {shortfall.service} lacks {shortfall.missing_rps:.2f} req/s: "
            f"{shortfall.because}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
    for binding in found.binding:
        out.print(f"binds: {binding.says}", highlight=False, soft_wrap=True, markup=False)
    for line in shared:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
