"""A finding: what is wrong with a replica or its service, how sure that is, what to change.

Made by `monitor.detectors`; the controller turns findings into conditions, events, metrics and
decisions. Their number is bounded: kinds and causes are fixed words, subjects are replicas.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What was found; append only."""

    OVERLOAD = "Overload"
    WASTE = "Waste"
    DEGRADED_REPLICA = "DegradedReplica"
    WEDGED_ENGINE = "WedgedEngine"
    GPU_FAULT = "GpuFault"
    MISCONFIGURATION = "Misconfiguration"
    WORKLOAD_DRIFT = "WorkloadDrift"
    MISSING_DATA = "MissingData"
    ANOMALY = "Anomaly"


class Severity(StrEnum):
    """Who should care, and when."""

    INFO = "Info"
    """Worth money or a look; nobody is harmed."""
    WARNING = "Warning"
    """Harms users soon, or some of them now."""
    CRITICAL = "Critical"
    """Harms users now: replace the replica, or add some."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A number that speaks for a finding."""

    name: str
    value: float
    usual: float | None
    """What it is compared with; None: nothing."""
    unit: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong now."""

    kind: Kind
    cause: str
    """CamelCase, from a fixed set per kind."""
    subject: str
    """A replica's id; empty: the service as a whole."""
    severity: Severity
    confidence_ratio: float
    """0 to 1."""
    since_s: float
    """When its evidence began, on the clock of `now_s`."""
    evidence: tuple[Evidence, ...]
    message: str
    """One sentence for a person."""
    mend: str = ""
    """What to change; empty: nothing that a person should."""

    @property
    def key(self) -> tuple[Kind, str, str]:
        """What makes two findings the same one at two moments."""
        return self.kind, self.cause, self.subject


_ORDER = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The most severe first, then the surest."""
    return tuple(sorted(findings, key=lambda f: (_ORDER.index(f.severity), -f.confidence_ratio)))
