"""What the detectors are shown of a service at one moment, and what they may expect of it.

Made by whoever watches (the live loop, a replay, a benchmark); frozen values only. None means
that something is not known, which is never a zero.
"""

from dataclasses import dataclass

from monitor.signals import EngineSignals
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.step_cost import StepCost


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU's health; None: the driver or the exporter does not say."""

    index: str
    """Its UUID where known, else its number on the host."""
    xid: int | None = None
    """The last XID error; 0: none since the driver was loaded."""
    ecc_uncorrected_total: float | None = None
    """Double-bit errors since the driver was loaded."""
    row_remap_pending: bool | None = None
    """Rows wait for a reset to be remapped."""
    row_remap_failed: bool | None = None
    thermal_throttled: bool | None = None
    """Held back by heat, by software or hardware."""
    power_throttled: bool | None = None
    """Held back by the power cap or by the power brake."""
    link_errors_total: float | None = None
    """NVLink errors of all kinds and PCIe replays."""
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class Canary:
    """One probe: a completion of one token."""

    at_s: float
    """When it ended, on the clock of `now_s`."""
    answered: bool
    took_s: float


@dataclass(frozen=True, slots=True)
class ReplicaReading:
    """What is known of one replica that is ready."""

    id: str
    admitted: bool
    """Whether the router sends to it; a standby else."""
    ready_s: float | None
    """When it became ready; None: not known."""
    signals: EngineSignals | None
    """Its latest page, however old; None: the last attempt failed."""
    at_s: float | None
    """When that page was read."""
    healthy: bool | None = None
    """What its `/health` says; None: nobody asked."""
    canary: Canary | None = None
    """The latest probe."""
    gpus: tuple[GpuReading, ...] = ()
    kind: str = ""
    """Its GPU type where it is not the one that the service was planned for."""


@dataclass(frozen=True, slots=True)
class FleetReading:
    """One service: its ready replicas."""

    replicas: tuple[ReplicaReading, ...]
    rolling_out: bool = False
    """Replicas of two kinds are there, so that nothing is learned."""
    rejected_total: float | None = None
    """Requests refused because they are longer than the model's context."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the service was planned for."""

    slo: Slo
    cost: StepCost
    limits: Limits
    capacity_rps: float
    """One replica's, within the objective."""
    mean_input_tokens: float
    """Of the requests that capacity and configuration were chosen for; as the next."""
    mean_output_tokens: float
    scrape_s: float
    """Between two pages of a replica."""
    start_up_s: float
    kinds: tuple[tuple[str, StepCost, Limits], ...] = ()
    """What steps take on other GPU types that replicas may be on."""

    def steps(self, kind: str) -> tuple[StepCost, Limits]:
        """What steps take on a GPU type."""
        known = ((cost, limits) for name, cost, limits in self.kinds if name == kind)
        return next(known, (self.cost, self.limits))
