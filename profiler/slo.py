"""The service level objective that predictions and measurements are judged by.

A request attains its objective when its time to first token, its mean inter-token
latency and its end-to-end latency are each within bounds; the service attains it when
at least `percentile` of its requests do. The mean inter-token latency of a request is
what engines publish per request (`request_time_per_output_token_seconds`), so the same
definition holds for the twin, for injected load and for production histograms.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds in seconds (None: not bounded); `percentile` is a ratio in (0, 1)."""

    ttft_s: float | None = None
    itl_s: float | None = None
    e2e_s: float | None = None
    percentile: float = 0.95

    def __post_init__(self) -> None:
        """Reject what no request could be judged by."""
        for name in ("ttft_s", "itl_s", "e2e_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 < self.percentile < 1:
            raise ValueError(f"percentile must lie in (0, 1), got {self.percentile}")
