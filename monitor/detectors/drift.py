"""Find requests whose lengths are no longer those the service was planned for.

Judged by the size of the effect, never by a p-value: with thousands of requests any difference
is significant. Capacity and configuration answer to mean lengths, so means are what is compared.
"""

from collections.abc import Iterator

from monitor.detectors.gate import Suspicion
from monitor.detectors.reading import Expectation
from monitor.detectors.trend import Trend
from monitor.findings import Evidence, Finding, Kind, Severity

FACTOR = 1.5
HOLD_S = 60.0
_LEAST_REQUESTS = 200.0
"""The mean of that many lengths as scattered as chat's is known to about a tenth."""


def drift(trend: Trend, expected: Expectation, now_s: float) -> Iterator[Suspicion]:
    """Suspect that prompts or answers have changed."""
    for cause, what, requests, seen, planned in (
        ("InputLength", "prompts", trend.inputs, trend.mean_input_tokens,
         expected.mean_input_tokens),
        ("OutputLength", "answers", trend.outputs, trend.mean_output_tokens,
         expected.mean_output_tokens),
    ):  # fmt: skip
        if requests < _LEAST_REQUESTS or seen is None or not seen > 0 or not planned > 0:
            continue
        ratio = seen / planned
        if 1 / FACTOR < ratio < FACTOR:
            continue
        finding = Finding(
            kind=Kind.WORKLOAD_DRIFT,
            cause=cause,
            subject="",
            severity=Severity.WARNING if ratio > 1 else Severity.INFO,
            confidence_ratio=0.95,
            since_s=now_s,
            evidence=(
                Evidence(f"mean_{what}_tokens", seen, planned, "tokens"),
                Evidence("requests", requests, None, ""),
            ),
            message=f"{what} of {seen:.0f} tokens come where {planned:.0f} were planned for",
            mend="plan again with the lengths seen",
        )
        yield Suspicion(finding, HOLD_S)
