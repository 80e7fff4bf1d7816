"""The traffic that a configuration is chosen for: when requests come, and how long they are.

Made from a trace or from hints in a manifest; turned back into traces of any rate, so that
the twin can be asked "and at twice the rate?" with the same requests.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from profiler.errors import Refused
from profiler.trace import Trace

_LENGTH_CV = 0.6
"""Spread given to lengths known by their mean alone; chat traces show .5 to 1.5."""
_SAMPLE = 2048


@dataclass(frozen=True, slots=True)
class Workload:
    """Request rate, burstiness and lengths; the two length arrays are pairs, [sample]."""

    rate_rps: float
    cv: float
    """Coefficient of variation of the gaps between arrivals; 1 is Poisson."""
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]

    @property
    def mean_input_tokens(self) -> float:
        """Mean prompt length."""
        return float(self.input_tokens.mean())

    @property
    def mean_output_tokens(self) -> float:
        """Mean answer length."""
        return float(self.output_tokens.mean())

    @property
    def longest_tokens(self) -> int:
        """Longest prompt and answer together."""
        return int((self.input_tokens + self.output_tokens).max())

    def at_rate(self, rate_rps: float) -> "Workload":
        """Return the same requests at another rate."""
        return replace(self, rate_rps=rate_rps)

    def trace(self, requests: int, seed: int = 0) -> Trace:
        """Draw `requests` arrivals at this rate: gamma-distributed gaps, lengths in pairs.

        The same seed gives the same requests at every rate, scaled in time, which keeps a
        search over rates free of sampling noise.
        """
        rng = np.random.default_rng(seed)
        shape = 1.0 / self.cv**2
        gaps = rng.gamma(shape, 1.0 / (shape * self.rate_rps), requests)
        pick = rng.integers(0, self.input_tokens.size, requests)
        arrival_s = np.cumsum(gaps)
        return Trace(
            arrival_s - arrival_s[0],
            self.input_tokens[pick],
            self.output_tokens[pick],
            np.zeros(requests, np.int64),
        )


def workload_from_trace(trace: Trace) -> Workload:
    """Read rate, burstiness and lengths off a trace of at least two requests."""
    if len(trace) < 2 or trace.duration_s <= 0:
        raise Refused("trace: needs at least two requests at different times to have a rate")
    gaps = np.diff(trace.arrival_s)
    cv = float(gaps.std() / gaps.mean())
    return Workload(
        rate_rps=(len(trace) - 1) / trace.duration_s,
        cv=min(max(cv, 0.1), 10.0),
        input_tokens=trace.input_tokens,
        output_tokens=np.maximum(trace.output_tokens, 1),
    )


def workload_from_hints(
    rate_rps: float, mean_input_tokens: float, mean_output_tokens: float, cv: float = 1.0
) -> Workload:
    """Make a workload from means; lengths are spread as gamma, deterministically."""
    for name, value in (
        ("rate", rate_rps),
        ("input tokens", mean_input_tokens),
        ("output tokens", mean_output_tokens),
        ("cv", cv),
    ):
        if not value > 0 or not np.isfinite(value):
            raise Refused(f"workload: {name} must be a positive number, got {value}")
    return Workload(
        rate_rps=rate_rps,
        cv=cv,
        input_tokens=_spread(mean_input_tokens, seed=1),
        output_tokens=_spread(mean_output_tokens, seed=2),
    )


def _spread(mean: float, seed: int) -> NDArray[np.int64]:
    """Lengths of the given mean, at most four times as long; [_SAMPLE]."""
    shape = 1.0 / _LENGTH_CV**2
    drawn = np.random.default_rng(seed).gamma(shape, mean / shape, _SAMPLE)
    lengths = np.clip(drawn, 1.0, 4.0 * mean)
    whole: NDArray[np.int64] = np.rint(lengths * mean / lengths.mean()).astype(np.int64)
    return np.maximum(whole, 1)
