"""What requests and steps went through, and what is said of many of them.

Filled by the twin. `Finished` and `Steps` are rows as they come; `Timings` are those of a
whole trace in its order; a `Tally` sums up any number of rows in bounded memory.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from profiler.compiled import kernel
from profiler.slo import Slo

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LOW_S = 1e-5
"""Where log-spaced bins begin."""
GAP_BINS = 2048
GAP_DECADES = 7.0
"""Gaps between tokens: up to 100 s, 0.8 % wide."""
_TALLY_BINS = 10_000
_TALLY_DECADES = 10.0
"""Latencies in a tally: up to 28 h, 0.23 % wide."""


class Metric(StrEnum):
    """A latency of a request."""

    TTFT = "ttft"
    """From arrival to the first token."""
    ITL = "itl"
    """Mean gap between its tokens; NaN where it made one."""
    E2E = "e2e"
    """From arrival to the last token."""
    QUEUE = "queue"
    """From arrival until it was first scheduled."""


@kernel
def gap_bin(gap_s: float) -> int:
    """Bin of a gap between tokens."""
    if gap_s <= LOW_S:
        return 0
    return min(int(np.log10(gap_s / LOW_S) * (GAP_BINS / GAP_DECADES)), GAP_BINS - 1)


def binned_quantile_s(counts: Ints, decades: float, q: float) -> float:
    """Quantile of values counted in log-spaced bins; NaN when there are none."""
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    place = int(np.searchsorted(np.cumsum(counts), q * total))
    return float(LOW_S * 10 ** ((place + 0.5) * decades / counts.size))


class Finished(NamedTuple):
    """Finished requests; [requests], moments on the twin's clock."""

    request: Ints
    """Its place in all that was fed, from 0."""
    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    """Tokens made, ≥ 1."""
    hit_tokens: Ints
    """Tokens found in the prefix cache when it was first scheduled."""
    scheduled_s: Floats
    first_token_s: Floats
    last_token_s: Floats
    max_gap_s: Floats
    """Longest wait for a next token; 0 where it made one."""
    preemptions: Ints

    def latency_s(self, metric: Metric) -> Floats:
        """[requests] the latency asked for."""
        match metric:
            case Metric.TTFT:
                return self.first_token_s - self.arrival_s
            case Metric.E2E:
                return self.last_token_s - self.arrival_s
            case Metric.QUEUE:
                return self.scheduled_s - self.arrival_s
            case Metric.ITL:
                gaps = self.output_tokens - 1
                with np.errstate(invalid="ignore", divide="ignore"):
                    mean_s = (self.last_token_s - self.first_token_s) / gaps
                return np.where(gaps > 0, mean_s, np.nan)

    def attained(self, slo: Slo) -> Bools:
        """[requests] whether each request kept within every bound of the SLO."""
        return _attained(self.latency_s, self.request.size, slo)


def _attained(latency_s: Callable[[Metric], Floats], requests: int, slo: Slo) -> Bools:
    bounds = {Metric.TTFT: slo.ttft_s, Metric.ITL: slo.itl_s, Metric.E2E: slo.e2e_s}
    good = np.ones(requests, np.bool_)
    for metric, bound in bounds.items():
        if bound is not None:
            good &= ~(latency_s(metric) > bound)
    return good


class Steps(NamedTuple):
    """Steps of an engine; [steps], in the order they were decided."""

    time_s: Floats
    """When it was decided."""
    duration_s: Floats
    running: Ints
    """Sequences in the batch, those that sit the step out too."""
    waiting: Ints
    kv_blocks: Ints
    """Blocks held."""
    tokens: Ints
    prefill_tokens: Ints
    preemptions: Ints
    """Since the engine began."""


def empty_rows(of: type[Finished | Steps], n: int) -> NDArray[Any]:
    """Make room for a kernel to write `n` rows of it, as records."""
    fields = [(f, np.int64 if t is Ints else np.float64) for f, t in of.__annotations__.items()]
    return np.zeros(n, fields)


class Usage(NamedTuple):
    """What an engine was used for since it began."""

    end_s: float
    """Its clock."""
    steps: int
    preemptions: int
    tokens: int
    """Computed in all steps."""
    prefill_tokens: int
    busy_s: float
    """Time in which steps ran; with pipeline stages, on each of them."""
    kv_block_s: float
    """Blocks held, integrated over time."""
    running_s: float
    """Sequences in the batch, integrated over time."""


@dataclass(frozen=True, slots=True)
class Timings:
    """What a trace went through; arrays are [requests] in the trace's order, seconds."""

    ttft_s: Floats
    itl_s: Floats
    """Mean gap between a request's tokens; NaN where it made one token."""
    e2e_s: Floats
    queue_s: Floats
    max_gap_s: Floats
    preemptions: Ints
    hit_tokens: Ints
    """Tokens found in the prefix cache when it was first scheduled."""
    gaps: Ints
    """[GAP_BINS] histogram of the gaps between tokens."""
    usage: Usage

    @classmethod
    def of(cls, finished: Finished, gaps: Ints, usage: Usage) -> Self:
        """Put all requests of a trace back into its order."""
        order = np.argsort(finished.request)
        columns: Iterable[Any] = (column[order] for column in finished)
        finished = Finished(*columns)
        return cls(
            ttft_s=finished.latency_s(Metric.TTFT),
            itl_s=finished.latency_s(Metric.ITL),
            e2e_s=finished.latency_s(Metric.E2E),
            queue_s=finished.latency_s(Metric.QUEUE),
            max_gap_s=finished.max_gap_s,
            preemptions=finished.preemptions,
            hit_tokens=finished.hit_tokens,
            gaps=gaps,
            usage=usage,
        )

    @property
    def end_s(self) -> float:
        """When the last request was done."""
        return self.usage.end_s

    @property
    def steps(self) -> int:
        """How many steps ran."""
        return self.usage.steps

    def latency_s(self, metric: Metric) -> Floats:
        """[requests] the latency asked for."""
        values: Floats = getattr(self, f"{metric}_s")
        return values

    def attained(self, slo: Slo) -> Bools:
        """[requests] whether each request kept within every bound of the SLO."""
        return _attained(self.latency_s, self.ttft_s.size, slo)

    def quantile_s(self, metric: Metric, q: float) -> float:
        """Quantile over the requests that have the latency; NaN when none has."""
        values = self.latency_s(metric)
        values = values[np.isfinite(values)]
        return float(np.quantile(values, q)) if values.size else float("nan")

    def gap_quantile_s(self, q: float) -> float:
        """Quantile of the gaps between all tokens, to 0.8 %; NaN when there were none."""
        return binned_quantile_s(self.gaps, GAP_DECADES, q)


class Tally:
    """Sums over finished requests of any number, in bounded memory."""

    def __init__(self, slo: Slo | None = None) -> None:
        self.requests = self.attained = self.preempted = 0
        self.input_tokens = self.output_tokens = self.hit_tokens = 0
        self._slo = slo or Slo()
        self._bins = {metric: np.zeros(_TALLY_BINS, np.int64) for metric in Metric}
        self._sum_s = dict.fromkeys(Metric, 0.0)
        self._most_s = dict.fromkeys(Metric, float("nan"))

    def add(self, finished: Finished) -> None:
        """Count some more."""
        self.requests += finished.request.size
        self.attained += int(finished.attained(self._slo).sum())
        self.preempted += int((finished.preemptions > 0).sum())
        self.input_tokens += int(finished.input_tokens.sum())
        self.output_tokens += int(finished.output_tokens.sum())
        self.hit_tokens += int(finished.hit_tokens.sum())
        for metric in Metric:
            values = finished.latency_s(metric)
            self._count(metric, values[np.isfinite(values)])

    def _count(self, metric: Metric, values: Floats) -> None:
        if values.size:
            decades = np.log10(np.maximum(values, LOW_S) / LOW_S)
            places = (decades * (_TALLY_BINS / _TALLY_DECADES)).astype(np.int64)
            places = np.minimum(places, _TALLY_BINS - 1)
            self._bins[metric] += np.bincount(places, minlength=_TALLY_BINS)
            self._sum_s[metric] += float(values.sum())
            self._most_s[metric] = float(np.fmax(self._most_s[metric], values.max()))

    def quantile_s(self, metric: Metric, q: float) -> float:
        """Quantile over the requests that have the latency, to 0.23 %; NaN when none has."""
        return binned_quantile_s(self._bins[metric], _TALLY_DECADES, q)

    def mean_s(self, metric: Metric) -> float:
        """Mean over the requests that have the latency; NaN when none has."""
        count = int(self._bins[metric].sum())
        return self._sum_s[metric] / count if count else float("nan")

    def max_s(self, metric: Metric) -> float:
        """Return the longest; NaN when there is none."""
        return self._most_s[metric]
