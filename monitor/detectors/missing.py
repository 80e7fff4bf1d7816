"""Say what is not known: replicas without readings, signals that pages lack.

Missing data is a finding and never a value; detectors that need it say nothing meanwhile.
"""

from collections.abc import Iterator, Sequence

from monitor.detectors.gate import Suspicion
from monitor.detectors.pulse import known
from monitor.detectors.reading import Expectation, ReplicaReading
from monitor.findings import Evidence, Finding, Kind, Severity

NEEDED = ("running", "waiting", "prompt_tokens_total", "generation_tokens_total")
"""Without these nobody can tell load or progress."""
_SCRAPES = 3
_LEAST_S = 10.0


def stale_after_s(expected: Expectation) -> float:
    """How old a page may be: one scrape in three may fail."""
    return max(_SCRAPES * expected.scrape_s, _LEAST_S)


def is_missing(replica: ReplicaReading, now_s: float, stale_s: float) -> bool:
    """Whether there is no page to go by."""
    if replica.signals is None or replica.at_s is None:
        return True
    return not 0 <= now_s - replica.at_s <= stale_s


def missing(
    replicas: Sequence[ReplicaReading], expected: Expectation, now_s: float
) -> Iterator[Suspicion]:
    """Suspect that signals stay away; of the service where nobody answers."""
    stale_s = stale_after_s(expected)
    ready = [r for r in replicas if r.ready_s is None or now_s - r.ready_s > stale_s]
    silent = [r for r in ready if is_missing(r, now_s, stale_s)]
    if silent and len(silent) == len(ready) > 1:
        last_s = max(r.at_s if r.at_s is not None else now_s for r in silent)
        message = f"none of {len(ready)} replicas could be read"
        yield _silence("NoReadings", "", Severity.CRITICAL, message, (last_s, stale_s))
        return
    for replica in silent:
        last_s = replica.at_s if replica.at_s is not None else now_s
        message = f"{replica.id}: its /metrics could not be read"
        yield _silence("NoReading", replica.id, Severity.WARNING, message, (last_s, stale_s))
    for replica in ready:
        if absent := _absent(replica):
            message = f"{replica.id}: its /metrics lacks {', '.join(absent)}"
            yield _silence("AbsentSignals", replica.id, Severity.WARNING, message, (now_s, stale_s))


def _absent(replica: ReplicaReading) -> list[str]:
    signals = replica.signals
    if signals is None:
        return []
    return [name for name in NEEDED if known(getattr(signals, name)) is None]


def _silence(
    cause: str, subject: str, severity: Severity, message: str, times: tuple[float, float]
) -> Suspicion:
    since_s, hold_s = times
    finding = Finding(
        kind=Kind.MISSING_DATA,
        cause=cause,
        subject=subject,
        severity=severity,
        confidence_ratio=1.0,
        since_s=since_s,
        evidence=(Evidence("allowed_s", hold_s, None, "s"),),
        message=message,
        mend="check that the controller reaches the replica's /metrics",
    )
    return Suspicion(finding, hold_s)
