"""Find GPUs that fail, or are held back: XID, ECC, row remapping, heat, power, links.

Counters count since the driver was loaded, which may be long ago: an uncorrected error that was
there before is worth a warning, one that comes while we look is critical. Links make an error
now and then; only a rate is a fault.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from monitor.detectors.gate import Suspicion
from monitor.detectors.pulse import known
from monitor.detectors.reading import GpuReading
from monitor.detectors.xid import Action, action_for
from monitor.findings import Evidence, Finding, Kind, Severity

THROTTLED_FOR_S = 30.0
"""Clocks dip for a moment on any card."""
LINK_ERRORS = 10.0
"""Within about `_LINK_S`; sound links make a few a day."""
_LINK_S = 60.0
RESET = "drain the replica and reset the GPU"


@dataclass(frozen=True, slots=True)
class GpuTrack:
    """What is remembered of one GPU."""

    at_s: float
    ecc_at_first: float | None
    link_total: float | None
    link_errors: float = 0.0
    """New ones, fading over a minute."""

    def seen(self, gpu: GpuReading, now_s: float) -> "GpuTrack":
        """Take in the next reading; a counter that went back began anew."""
        total, ecc = known(gpu.link_errors_total), known(gpu.ecc_uncorrected_total)
        before = total if self.link_total is None else self.link_total
        new = 0.0 if total is None or before is None else max(0.0, total - before)
        faded = self.link_errors * math.exp(-max(now_s - self.at_s, 0.0) / _LINK_S)
        first = ecc if self.ecc_at_first is None else self.ecc_at_first
        if ecc is not None and first is not None:
            first = min(first, ecc)
        return GpuTrack(now_s, first, total if total is not None else before, faded + new)


def track(gpu: GpuReading, before: GpuTrack | None, now_s: float) -> GpuTrack:
    """Remember a GPU, seen for the first time or again."""
    return (before or GpuTrack(now_s, None, None)).seen(gpu, now_s)


def gpu_faults(
    replica: str, gpu: GpuReading, memory: GpuTrack, now_s: float
) -> Iterator[Suspicion]:
    """Suspect one GPU of a replica."""
    for cause, severity, value, unit, mend, hold_s in (
        *_xid(gpu),
        *_memory(gpu, memory),
        *_held_back(gpu),
        *_links(memory),
    ):
        heat = known(gpu.temperature_c)
        evidence = [Evidence(_EVIDENCE[cause], value, None, unit)]
        if heat is not None:
            evidence.append(Evidence("temperature_c", heat, None, "°C"))
        finding = Finding(
            kind=Kind.GPU_FAULT,
            cause=cause,
            subject=replica,
            severity=severity,
            confidence_ratio=0.99 if severity is Severity.CRITICAL else 0.9,
            since_s=now_s,
            evidence=tuple(evidence),
            message=f"{replica}, GPU {gpu.index}: {_WORDS[cause].format(value)}",
            mend=mend,
        )
        yield Suspicion(finding, hold_s)


_Fault = tuple[str, Severity, float, str, str, float]
"""Cause, severity, value, its unit, mend, and how long it must hold."""

_EVIDENCE = {
    "Xid": "xid",
    "ApplicationXid": "xid",
    "EccUncorrected": "ecc_uncorrected_total",
    "RowRemapFailed": "row_remap_failed",
    "RowRemapPending": "row_remap_pending",
    "ThermalThrottling": "thermal_throttled",
    "PowerThrottling": "power_throttled",
    "LinkErrors": "link_errors",
}
_WORDS = {
    "Xid": "XID error {:.0f}",
    "ApplicationXid": "XID error {:.0f}, which a program caused",
    "EccUncorrected": "{:.0f} memory errors that could not be corrected",
    "RowRemapFailed": "bad memory rows could not be remapped",
    "RowRemapPending": "bad memory rows wait for a reset to be remapped",
    "ThermalThrottling": "clocks are held back by heat",
    "PowerThrottling": "clocks are held back by power",
    "LinkErrors": "{:.0f} new errors on its links within a minute",
}


def _xid(gpu: GpuReading) -> Iterator[_Fault]:
    if gpu.xid is None or gpu.xid <= 0:
        return
    action = action_for(gpu.xid)
    if action is Action.NOTHING:
        yield "ApplicationXid", Severity.INFO, float(gpu.xid), "", "", 0.0
        return
    mild = action in (Action.LOOK, Action.RESET_LATER)
    severity = Severity.WARNING if mild else Severity.CRITICAL
    yield "Xid", severity, float(gpu.xid), "", str(action), 0.0


def _memory(gpu: GpuReading, memory: GpuTrack) -> Iterator[_Fault]:
    total = known(gpu.ecc_uncorrected_total)
    if total:
        grew = total > (memory.ecc_at_first or 0.0)
        severity = Severity.CRITICAL if grew else Severity.WARNING
        yield "EccUncorrected", severity, total, "", RESET, 0.0
    if gpu.row_remap_failed:
        mend = "drain the replica and have the GPU replaced"
        yield "RowRemapFailed", Severity.CRITICAL, 1.0, "", mend, 0.0
    if gpu.row_remap_pending:
        yield "RowRemapPending", Severity.WARNING, 1.0, "", RESET, 0.0


def _held_back(gpu: GpuReading) -> Iterator[_Fault]:
    if gpu.thermal_throttled:
        mend = "check the node's cooling; serve elsewhere meanwhile"
        yield "ThermalThrottling", Severity.WARNING, 1.0, "", mend, THROTTLED_FOR_S
    if gpu.power_throttled:  # the power cap holds sound cards back under full load
        mend = "raise the power limit where the node allows it"
        yield "PowerThrottling", Severity.INFO, 1.0, "", mend, 4 * THROTTLED_FOR_S


def _links(memory: GpuTrack) -> Iterator[_Fault]:
    if memory.link_errors >= LINK_ERRORS:
        mend = "drain the replica and have the GPU's links checked"
        yield "LinkErrors", Severity.WARNING, memory.link_errors, "", mend, 0.0
