"""The smallest MIG slice that carries a tenant's traffic.

A slice's profile is the whole GPU's with everything bound by bandwidth stretched by the
slice's share of it, and everything bound by compute by its share of the multiprocessors:
the same for measured profiles as for computed ones. Against profiles computed for the slice
itself (Llama 1B and 8B on H100, A100 and B200) steps differ by 2.5 % at most, about the knee
of the roofline; by 11 % on the A100's 1g with two memory slices.
"""

import math
from dataclasses import dataclass, replace

from profiler.errors import DoesNotFit
from profiler.hardware import Gpu
from profiler.mig import COMPUTE_SLICES, MigProfile, as_gpu, mig_profiles
from profiler.profile import EngineProfile
from recommender.capacity import Capacity, Station, find_capacity
from recommender.sharing.footprint import PROCESS_BYTES
from recommender.sharing.tenant import Tenant, why_not_alone
from recommender.sharing.use import stretched, with_headroom


@dataclass(frozen=True, slots=True)
class Slice:
    """Which slice to take, and what a replica carries there."""

    profile: MigProfile | None
    """None: only the whole GPU does."""
    because: str
    tenant: Tenant | None = None
    """The tenant on that slice: its profile, and the utilisation to set."""
    capacity: Capacity | None = None
    """What it carries there, with the headroom of `share`."""


def mig_for(tenant: Tenant, gpu: Gpu) -> Slice:
    """Find the smallest slice that carries the tenant's traffic within its SLO.

    Raises `Refused` as `share` does.
    """
    refused = why_not_alone((tenant,), gpu)
    parts = [p for p in mig_profiles(gpu) if p.compute_slices < COMPUTE_SLICES]
    if refused or not parts:
        return Slice(None, refused or f"mig: {gpu.name} cannot be cut into slices")
    reasons = []
    for profile in parts:
        try:
            there = on_slice(tenant, gpu, profile)
            capacity = _carried(there)
        except DoesNotFit as error:
            reasons.append(f"{profile.name}: {error}")
            continue
        if capacity is not None and capacity.rate_rps > 0:
            because = f"{profile.name} carries {capacity.rate_rps:.2f} requests a second"
            return Slice(profile, because, there, capacity)
        reasons.append(f"{profile.name} misses the SLO at {tenant.workload.rate_rps:g} rps")
    return Slice(None, f"only a whole {gpu.name} carries {tenant.name}: {reasons[-1]}")


def _carried(tenant: Tenant) -> Capacity | None:
    """None when the tenant's rate is not carried."""
    workload, rate_rps = tenant.workload, tenant.workload.rate_rps
    if rate_rps <= 0:
        workload = replace(workload, rate_rps=1.0)  # any: the search sets its own
    station = Station.of(tenant.profile, tenant.configuration)
    slo = with_headroom(tenant.slo)
    return find_capacity(station, workload, slo, at_least_rps=max(rate_rps, 0.0))


def on_slice(tenant: Tenant, gpu: Gpu, profile: MigProfile) -> Tenant:
    """Give the tenant as it is on a slice; the process has its place beside the budget."""
    card_bytes = as_gpu(gpu, profile).memory_bytes
    most = math.floor(1000 * (1.0 - PROCESS_BYTES / card_bytes)) / 1000
    utilization = min(tenant.configuration.gpu_memory_utilization, most)
    return replace(
        tenant,
        profile=slice_profile(tenant.profile, gpu, profile),
        configuration=replace(tenant.configuration, gpu_memory_utilization=utilization),
    )


def slice_profile(whole: EngineProfile, gpu: Gpu, profile: MigProfile) -> EngineProfile:
    """Derive the profile of a slice from that of its GPU."""
    part = as_gpu(gpu, profile)
    cost = stretched(whole.cost, 1.0 / profile.bandwidth_ratio, 1.0 / profile.compute_ratio)
    memory = replace(whole.memory, total_bytes=part.memory_bytes)
    return replace(whole, gpu=part.name, cost=cost, memory=memory, residuals=())
