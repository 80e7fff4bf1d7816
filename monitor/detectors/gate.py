"""Let a suspicion pass as a finding once it has held long enough.

Every detector says at every look what it suspects and for how long that must hold. One look
without it does not end it: signals come by scrapes, and some are missed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from monitor.findings import Finding, Kind

Key = tuple[Kind, str, str]


_ACTED_ON = (Kind.WEDGED_ENGINE,)
"""Ended at once: an engine that makes tokens again must not be replaced for what it was."""


class Suspicion(NamedTuple):
    """A finding, should it hold for so long."""

    finding: Finding
    hold_s: float


class _Held(NamedTuple):
    since_s: float
    last_s: float
    finding: Finding
    passed: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """Suspicions that hold, by what they are of."""

    held: Mapping[Key, _Held] = field(default_factory=lambda: MappingProxyType({}))

    def passed(
        self, suspicions: Iterable[Suspicion], now_s: float, linger_s: float
    ) -> tuple["Gate", tuple[Finding, ...]]:
        """Take in what is suspected now; those not renewed for `linger_s` are dropped."""
        held = {key: kept for key, kept in self.held.items() if now_s - kept.last_s <= linger_s}
        for finding, hold_s in suspicions:
            before = held.get(finding.key)
            since_s = min(finding.since_s, before.since_s) if before else finding.since_s
            passed = now_s - since_s >= hold_s or (before is not None and before.passed)
            held[finding.key] = _Held(since_s, now_s, replace(finding, since_s=since_s), passed)
        findings = tuple(
            kept.finding
            for kept in held.values()
            if kept.passed and (kept.last_s == now_s or kept.finding.kind not in _ACTED_ON)
        )
        return Gate(held), findings
