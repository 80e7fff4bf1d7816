"""Who wants a place on a GPU."""

from dataclasses import dataclass

from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.hardware import Gpu
from profiler.profile import EngineProfile
from profiler.slo import Slo
from recommender.workload import Workload


@dataclass(frozen=True, slots=True)
class Tenant:
    """One replica of a service with the traffic that it gets."""

    name: str
    profile: EngineProfile
    configuration: Configuration
    """Its `gpu_memory_utilization` is what sharing decides."""
    workload: Workload
    """`rate_rps` is this replica's rate; 0: it gets no traffic."""
    slo: Slo
    priority: int = 0
    """Where one of two must sleep, the lower does."""

    @property
    def longest_tokens(self) -> int:
        """Longest sequence that its KV cache must hold: as vLLM starts, and as it is asked."""
        limit = self.configuration.max_model_len or self.profile.max_model_len
        return max(limit, self.workload.longest_tokens)


def check_tenant(tenant: Tenant, gpu: str) -> None:
    """Refuse what no prediction can be made of."""
    tenant.profile.check_layout(tenant.configuration)
    if tenant.profile.gpu != gpu:
        raise Refused(
            f"{tenant.name}: its profile is for {tenant.profile.gpu}, not for {gpu}: "
            "give the one for that GPU"
        )
    bounds = (tenant.slo.ttft_s, tenant.slo.itl_s, tenant.slo.e2e_s)
    if all(bound is None for bound in bounds):
        raise Refused(f"{tenant.name}: slo bounds nothing: give at least one of ttft, itl, e2e")


def why_not_alone(tenants: tuple[Tenant, ...], gpu: Gpu) -> str | None:
    """Say who cannot be on a GPU that it shares, whatever the others do; None: nobody."""
    for tenant in tenants:
        check_tenant(tenant, gpu.name)
        if tenant.profile.layout.gpus > 1:
            return (
                f"{tenant.name} spans {tenant.profile.layout.gpus} GPUs: each of its steps "
                "would wait for the most crowded of them; share replicas of one GPU only"
            )
    return None
