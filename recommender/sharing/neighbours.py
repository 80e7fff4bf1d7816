"""Which services may serve from one GPU at the same time.

Memory first, in closed form; then how much each slows the others, by the twin. Called when
replicas are placed; reads profiles and workloads, never a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from profiler.errors import DoesNotFit, Refused
from profiler.hardware import GIB, Gpu
from profiler.scheduler import Limits, Shape
from profiler.step_cost import step_s
from recommender.capacity import Latency
from recommender.sharing.footprint import PROCESS_BYTES, base_bytes, kv_bytes, limits_at, split
from recommender.sharing.tenant import Tenant, why_not_alone
from recommender.sharing.use import (
    HEADROOM_RATIO,
    NO_USE,
    Run,
    Use,
    least_use,
    run_beside,
    slowed,
    together,
)

_ROUNDS = 12
_SETTLED = 0.01
"""Shares that change by less are settled."""
_BOUND = f"{1 - HEADROOM_RATIO:.0%}"
_ONE_DECODE = Shape(1, 1, 0, 0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Interference:
    """What sharing does to one tenant."""

    name: str
    alone: Latency
    """At its objective's percentile with the whole GPU."""
    together: Latency
    attained_ratio: float
    """Requests within every bound of its objective while it shares."""
    slowdown_ratio: float
    """End-to-end latency together over alone."""
    use: Use
    """What it takes of the GPU while it shares."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Whether tenants may share a GPU, and how; tuples are per tenant, in their order."""

    fits: bool
    """Their memory."""
    allowed: bool
    """Each keeps its objective, too."""
    because: str
    memory_bytes: tuple[float, ...]
    """What each process gets of the card; needs, where they do not fit."""
    gpu_memory_utilization: tuple[float, ...] = ()
    """To be set; empty where they do not fit."""
    interference: tuple[Interference, ...] = ()
    """Empty where the twin was not asked."""

    @property
    def slowdown_ratio(self) -> float:
        """That of whoever suffers most; 1 where nobody was asked."""
        return max((i.slowdown_ratio for i in self.interference), default=1.0)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tenants that may share."""

    names: tuple[str, str]
    sharing: Sharing


@dataclass(frozen=True, slots=True)
class _Alone:
    """A tenant and what it is with a whole GPU."""

    tenant: Tenant
    run: Run

    @property
    def kv_bytes(self) -> float:
        """KV cache that its longest sequence and its concurrency need."""
        return kv_bytes(self.tenant, self.run.held_blocks)


def share(tenants: Sequence[Tenant], gpu: Gpu) -> Sharing:
    """Say whether tenants may serve from one GPU at once, and with which share of its memory.

    Raises `Refused` for nobody, for a profile of another GPU, and for an SLO without bounds.
    """
    if not tenants:
        raise Refused("tenants: give at least one")
    tenants = tuple(tenants)
    needs = tuple(base_bytes(t) + kv_bytes(t) + PROCESS_BYTES for t in tenants)
    refused = why_not_alone(tenants, gpu)
    fits = split(tenants, [kv_bytes(t) for t in tenants], gpu) is not None
    if refused or not fits:
        return Sharing(fits, False, refused or _too_much(tenants, needs, gpu), needs)
    try:
        alone = tuple(_alone(tenant, gpu) for tenant in tenants)
    except DoesNotFit as error:
        return Sharing(False, False, str(error), needs)
    return _share(alone, gpu)


def partners(tenants: Sequence[Tenant], gpu: Gpu) -> tuple[Pair, ...]:
    """List the pairs that may share, the least slowdown first.

    One run of the twin for each tenant, and a few for each pair that memory and closed
    forms leave. Who cannot be on this GPU at all is left out.
    """
    fit = [t for t in tenants if why_not_alone((t,), gpu) is None and _fits_alone(t, gpu)]
    alone = [a for a in (_alone(t, gpu) for t in fit) if a.run.keeps(a.tenant.slo)]
    least = {id(a): least_use(a.tenant) for a in alone}
    found = [
        Pair((a.tenant.name, b.tenant.name), _share((a, b), gpu))
        for a, b in combinations(alone, 2)
        if _may_hold((a, b), (least[id(a)], least[id(b)]), gpu)
    ]
    allowed = [pair for pair in found if pair.sharing.allowed]
    return tuple(sorted(allowed, key=lambda p: (p.sharing.slowdown_ratio, p.names)))


def _fits_alone(tenant: Tenant, gpu: Gpu) -> bool:
    return split((tenant,), [kv_bytes(tenant)], gpu) is not None


def _alone(tenant: Tenant, gpu: Gpu) -> _Alone:
    """Run a tenant with the whole card."""
    shares = split((tenant,), [kv_bytes(tenant)], gpu)
    if shares is None:
        raise DoesNotFit(_too_much((tenant,), (base_bytes(tenant) + kv_bytes(tenant),), gpu))
    return _Alone(tenant, run_beside(tenant, limits_at(tenant, shares[0]), NO_USE))


def _may_hold(pair: tuple[_Alone, _Alone], least: tuple[Use, Use], gpu: Gpu) -> bool:
    """Cheap checks that a pair must pass to be worth the twin."""
    total = together(least)
    if total.bandwidth_ratio >= 1 or total.compute_ratio >= 1:
        return False
    if split([a.tenant for a in pair], [a.kv_bytes for a in pair], gpu) is None:
        return False
    return all(
        _tokens_in_time(a.tenant, beside) for a, beside in zip(pair, reversed(least), strict=True)
    )


def _tokens_in_time(tenant: Tenant, neighbour: Use) -> bool:
    """Whether a token comes in time in a batch of one, at best; where that matters."""
    slo = tenant.slo
    have_gaps = float((tenant.workload.output_tokens > 1).mean()) > 1.0 - slo.percentile
    if slo.itl_s is None or not have_gaps:
        return True
    return bool(step_s(slowed(tenant.profile.cost, neighbour), _ONE_DECODE) <= slo.itl_s)


def _share(alone: tuple[_Alone, ...], gpu: Gpu) -> Sharing:
    """Share memory out by need, let uses settle, judge each objective."""
    tenants = tuple(a.tenant for a in alone)
    shares = split(tenants, [a.kv_bytes for a in alone], gpu)
    if shares is None:
        needs = tuple(base_bytes(a.tenant) + a.kv_bytes + PROCESS_BYTES for a in alone)
        return Sharing(False, False, _too_much(tenants, needs, gpu), needs)
    memory = tuple(
        share * t.profile.memory.total_bytes + PROCESS_BYTES
        for share, t in zip(shares, tenants, strict=True)
    )
    limits = [limits_at(t, share) for t, share in zip(tenants, shares, strict=True)]
    runs = _settled(alone, limits)
    suffer = tuple(_interference(a, run) for a, run in zip(alone, runs, strict=True))
    misses = [_misses(a, run) for a, run in zip(alone, runs, strict=True)]
    because = next((why for why in misses if why), None)
    kept = "; ".join(f"{i.name} takes {i.slowdown_ratio:.2f} × as long" for i in suffer)
    return Sharing(
        fits=True,
        allowed=because is None,
        because=because or f"all keep their objectives: {kept}",
        memory_bytes=memory,
        gpu_memory_utilization=shares,
        interference=suffer,
    )


def _settled(alone: tuple[_Alone, ...], limits: list[Limits]) -> tuple[Run, ...]:
    """Run all until what each takes and what the others leave agree.

    Who is slowed batches more and reads its weights less often, so a use falls as the others'
    rise. Going half of the way keeps that from swinging; all go at once, so that the order
    of tenants makes no difference.
    """
    uses = [a.run.use for a in alone]
    for _ in range(_ROUNDS):
        runs = tuple(
            run_beside(a.tenant, limits[i], together(uses[:i] + uses[i + 1 :]))
            for i, a in enumerate(alone)
        )
        if max(_distance(use, run.use) for use, run in zip(uses, runs, strict=True)) < _SETTLED:
            break
        uses = [_halfway(use, run.use) for use, run in zip(uses, runs, strict=True)]
    return runs


def _distance(a: Use, b: Use) -> float:
    return max(abs(a.bandwidth_ratio - b.bandwidth_ratio), abs(a.compute_ratio - b.compute_ratio))


def _halfway(a: Use, b: Use) -> Use:
    return Use(
        (a.compute_ratio + b.compute_ratio) / 2,
        (a.bandwidth_ratio + b.bandwidth_ratio) / 2,
        (a.busy_ratio + b.busy_ratio) / 2,
    )


def _interference(alone: _Alone, run: Run) -> Interference:
    return Interference(
        name=alone.tenant.name,
        alone=alone.run.latency,
        together=run.latency,
        attained_ratio=run.attained_ratio,
        slowdown_ratio=run.latency.e2e_s / alone.run.latency.e2e_s,
        use=run.use,
    )


def _misses(alone: _Alone, run: Run) -> str | None:
    """Say how a tenant misses its objective; None when it keeps it."""
    name, slo = alone.tenant.name, alone.tenant.slo
    if run.keeps(slo):
        return None
    where, worst = "beside the others", run
    if not alone.run.keeps(slo):
        where, worst = "even alone on the GPU", alone.run
    how = f"{worst.attained_with_headroom_ratio:.1%} of requests within {_BOUND} of its bounds"
    if not worst.keeps_up:
        how = f"{worst.queued_ratio:.0%} of requests still wait when the last comes"
    return (
        f"slo: {name} misses it {where}: {how}; {slo.percentile:.0%} in time wanted. Give it less "
        "traffic, looser bounds or more of a GPU"
    )


def _too_much(tenants: tuple[Tenant, ...], needs: tuple[float, ...], gpu: Gpu) -> str:
    each = " and ".join(
        f"{t.name} {need / GIB:.1f} GiB" for t, need in zip(tenants, needs, strict=True)
    )
    return (
        f"memory: {each} do not fit into the {gpu.memory_bytes / GIB:.1f} GiB of a {gpu.name}: "
        "lower max_model_len or max_num_seqs, or quantise"
    )
