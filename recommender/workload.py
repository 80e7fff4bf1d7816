"""The traffic that a configuration is chosen for: when requests come, and how long they are.

Made from a trace, from histograms, or from hints in a manifest; turned back into traces of
any rate, so that the twin can be asked "and at twice the rate?" with the same requests.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from profiler.errors import Refused
from profiler.trace import Hashes, Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LENGTH_CV = 0.6
"""Spread given to lengths known by their mean alone; chat traces show .5 to 1.5."""
SAMPLE = 2048
_HINTED = 0.3
"""Relative error of a figure that somebody wrote into a manifest."""
CALMEST = 0.1
"""Burstiness of clockwork, nearly."""
_RECORDED = 65_536
"""Requests that are kept of a recording, in order."""
_LEAST_RECORDED = 400
"""A shorter recording is drawn from instead of being played again."""
_STRETCHES = 8
"""Parts of a long recording that stand for the whole; also those its errors are told from."""
_LEAST_STRETCH = 50
"""Requests, for bursts to show in it."""
_LOCAL = 201
"""Requests over which the local rate is taken: what changes more slowly is load to scale for,
what changes faster is burstiness."""
PEAK_S = 300.0
"""Window of the peak rate; shorter in a short recording, and of 20 requests at least."""


@dataclass(frozen=True, slots=True)
class Errors:
    """How well a workload is known: standard deviations of logarithms."""

    rate: float = 0.0
    input: float = 0.0
    """Of the mean prompt length."""
    output: float = 0.0
    """Of the mean answer length."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Request rate, burstiness and lengths; the two length arrays are pairs, [sample]."""

    rate_rps: float
    cv: float
    """Coefficient of variation of the gaps between arrivals; 1 is Poisson."""
    input_tokens: Ints
    output_tokens: Ints
    hit_ratio: float = 0.0
    """Share of the prompts' tokens found in the prefix cache, 0 to 1."""
    peak_rps: float = 0.0
    """Rate of the busiest few minutes; 0: as the mean."""
    recorded: Trace | None = None
    """Requests that really came, at 1 a second on average with slow changes taken out."""
    errors: Errors = Errors()
    drawn: bool = False
    """Whether single lengths are made up around what is known of them."""

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

    @property
    def sized_rps(self) -> float:
        """Rate that replicas must carry: the peak."""
        return max(self.rate_rps, self.peak_rps)

    def shared(self, replicas: int) -> "Workload":
        """Return one replica's part where requests go round so many: every so manieth of them.

        Sums of gaps are calmer than gaps, by the square root of their number; bursts of what
        was recorded are shared out.
        """
        if replicas <= 1:
            return self
        recorded = self.recorded
        if recorded is not None:
            recorded = recorded.rank(0, replicas).compressed(replicas)
            recorded = recorded if len(recorded) >= _LEAST_RECORDED else None
        return replace(
            self,
            rate_rps=self.rate_rps / replicas,
            peak_rps=self.peak_rps / replicas,
            cv=self.shared_cv(replicas),
            recorded=recorded,
        )

    def shared_cv(self, replicas: int) -> float:
        """Burstiness of that part."""
        return max(float(self.cv / max(replicas, 1) ** 0.5), CALMEST)

    def within(self, max_model_len: int) -> "Workload":
        """Return what an engine takes that refuses longer requests.

        Made-up lengths are cut; raises `Refused` where those that really came are longer, or
        where the means are.
        """
        if self.longest_tokens <= max_model_len:
            return self
        if not self.drawn:
            longer = int((self.input_tokens + self.output_tokens > max_model_len).sum())
            raise Refused(
                f"max_model_len: {max_model_len} is less than {longer} of "
                f"{self.input_tokens.size} requests have, prompt and answer together (the longest "
                f"{self.longest_tokens}): raise it, or leave them out"
            )
        means = self.mean_input_tokens, self.mean_output_tokens
        return self.resized(*means, self.cv, longest_tokens=max_model_len)

    def at_rate(self, rate_rps: float) -> "Workload":
        """Return the same requests at another rate, its peak in proportion."""
        return replace(self, rate_rps=rate_rps, peak_rps=self.peak_rps * rate_rps / self.rate_rps)

    def resized(
        self, mean_input_tokens: float, mean_output_tokens: float, cv: float, longest_tokens: int
    ) -> "Workload":
        """Return requests of other mean lengths and burstiness, spread about them as these.

        None is longer than `longest_tokens`, prompt and answer together; raises `Refused` where
        that leaves no room for the means.
        """
        if mean_input_tokens + mean_output_tokens > longest_tokens:
            raise Refused(
                f"max_model_len: {longest_tokens} is less than the "
                f"{mean_input_tokens + mean_output_tokens:.0f} tokens of a mean request: raise it, "
                "or shorten prompts"
            )
        inputs = _of_mean(self.input_tokens.astype(np.float64), mean_input_tokens)
        outputs = _of_mean(self.output_tokens.astype(np.float64), mean_output_tokens)
        outputs = np.minimum(outputs, longest_tokens - 1)
        return replace(
            self,
            cv=cv,
            input_tokens=np.minimum(inputs, longest_tokens - outputs),
            output_tokens=outputs,
            recorded=None,
        )

    def trace(self, requests: int, seed: int = 0) -> Trace:
        """Give `requests` arrivals at this rate: as recorded, else gamma-distributed gaps.

        The same seed gives the same requests at every rate, scaled in time, which keeps a
        search over rates free of sampling noise. A recording gives what it has, if that is
        fewer.
        """
        if self.recorded is not None:
            return _stretches(self.recorded, requests).compressed(self.rate_rps)
        rng = np.random.default_rng(seed)
        shape = 1.0 / self.cv**2
        gaps = rng.gamma(shape, 1.0 / (shape * self.rate_rps), requests)
        pick = rng.integers(0, self.input_tokens.size, requests)
        arrival_s = np.cumsum(gaps)
        prompts = self.input_tokens[pick]
        return Trace(
            arrival_s - arrival_s[0],
            prompts,
            self.output_tokens[pick],
            np.minimum((self.hit_ratio * prompts).astype(np.int64), prompts - 1),
        )


def workload_from_trace(trace: Trace) -> Workload:
    """Read rate, peak, burstiness, lengths and prefix hits off a trace.

    Raises `Refused` for fewer than two requests, or all at one moment.
    """
    if len(trace) < 2 or trace.duration_s <= trace.arrival_s[0]:
        raise Refused("trace: needs at least two requests at different times to have a rate")
    gaps = np.diff(trace.arrival_s)
    rate_rps = float(1.0 / gaps.mean())
    even = _without_trend(gaps)
    cv = float(np.clip(even.std(), CALMEST, 10.0))
    outputs = np.maximum(trace.output_tokens, 1)
    return Workload(
        rate_rps=rate_rps,
        cv=cv,
        input_tokens=trace.input_tokens,
        output_tokens=outputs,
        hit_ratio=float(trace.prefix_tokens.sum() / trace.input_tokens.sum()),
        peak_rps=_peak_rps(trace.arrival_s, rate_rps, cv),
        recorded=_kept(trace, even) if len(trace) >= _LEAST_RECORDED else None,
        errors=Errors(_error_of_mean(gaps), *map(_error_of_mean, (trace.input_tokens, outputs))),
    )


def _without_trend(gaps: Floats) -> Floats:
    """Divide each gap by the mean of those around it; their mean is 1."""
    width = min(_LOCAL, gaps.size)
    kernel = np.ones(width)
    around = np.convolve(gaps, kernel, "same") / np.convolve(np.ones(gaps.size), kernel, "same")
    even = gaps / np.maximum(around, 1e-3 * gaps.mean())
    total = even.mean()
    return even / total if total > 0 else np.ones(gaps.size)


def _peak_rps(arrival_s: Floats, rate_rps: float, cv: float) -> float:
    """Rate of the busiest window, less what chance alone makes of a steady rate."""
    span_s = float(arrival_s[-1] - arrival_s[0])
    window_s = max(min(PEAK_S, span_s / 4), min(20 / rate_rps, span_s))
    ends = np.searchsorted(arrival_s, arrival_s + window_s)
    whole = arrival_s <= arrival_s[-1] - window_s
    counts = (ends - np.arange(arrival_s.size))[whole]
    chance = by_chance(rate_rps * window_s, cv, span_s / window_s)
    return max((float(counts.max(initial=0)) - chance) / window_s, rate_rps)


def by_chance(mean_count: float, cv: float, windows: float) -> float:
    """How far the largest of so many counts lies above their mean where the rate is steady.

    Of normal variables of variance cv² · mean: √(2 ln n) deviations.
    """
    return float(np.sqrt(2.0 * np.log(max(windows, 1.0)) * mean_count) * cv)


def _error_of_mean(values: NDArray[np.float64] | Ints) -> float:
    """Relative error of a mean, from how its stretches differ: neighbours may be alike."""
    parts = [part.mean() for part in np.array_split(values, min(_STRETCHES, values.size))]
    mean = float(np.mean(parts))
    spread = float(np.std(parts, ddof=1)) / len(parts) ** 0.5 if len(parts) > 1 else 0.0
    return spread / mean if mean > 0 else 0.0


def _kept(trace: Trace, even: Floats) -> Trace:
    """Keep requests at 1 a second, `even` gaps apart."""
    arrival_s = np.concatenate([[0.0], np.cumsum(even)])
    arrival_s *= (len(trace) - 1) / arrival_s[-1]
    recorded = replace(trace, arrival_s=arrival_s, output_tokens=np.maximum(trace.output_tokens, 1))
    return _stretches(recorded, _RECORDED)


def _stretches(recorded: Trace, requests: int) -> Trace:
    """Give so many requests from all over a recording, in stretches one after the other."""
    n = len(recorded)
    if requests >= n:
        return recorded
    parts = max(min(_STRETCHES, requests // _LEAST_STRETCH), 1)
    length = requests // parts
    starts = np.linspace(0, n - length, parts).astype(np.int64)
    rows = (starts[:, None] + np.arange(length)).ravel()
    gaps = np.diff(recorded.arrival_s, prepend=recorded.arrival_s[0])[rows]
    gaps[0] = 0.0
    arrival_s = np.cumsum(gaps)
    arrival_s *= (rows.size - 1) / max(arrival_s[-1], 1e-9)
    return Trace(
        arrival_s,
        recorded.input_tokens[rows],
        recorded.output_tokens[rows],
        recorded.prefix_tokens[rows],
        None if recorded.priority is None else recorded.priority[rows],
        None if recorded.hashes is None else _rows_of(recorded.hashes, rows),
    )


def _rows_of(hashes: Hashes, rows: Ints) -> Hashes:
    ids = [hashes.ids[hashes.offsets[row] : hashes.offsets[row + 1]] for row in rows]
    return Hashes.of([list(row) for row in ids], hashes.block_tokens)


def workload_from_hints(
    rate_rps: float,
    mean_input_tokens: float,
    mean_output_tokens: float,
    cv: float = 1.0,
    hit_ratio: float = 0.0,
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
    check_ratio(hit_ratio)
    return Workload(
        rate_rps=rate_rps,
        cv=cv,
        input_tokens=_spread(mean_input_tokens, seed=1),
        output_tokens=_spread(mean_output_tokens, seed=2),
        hit_ratio=hit_ratio,
        errors=Errors(_HINTED, _HINTED, _HINTED),
        drawn=True,
    )


def check_ratio(hit_ratio: float) -> None:
    """Refuse what is no share of a prompt."""
    if not 0 <= hit_ratio < 1:
        raise Refused(f"workload: prefix hit ratio must lie in [0, 1), got {hit_ratio}")


def _spread(mean: float, seed: int) -> Ints:
    """Lengths of the given mean, at most four times as long; [SAMPLE]."""
    shape = 1.0 / _LENGTH_CV**2
    drawn = np.random.default_rng(seed).gamma(shape, mean / shape, SAMPLE)
    return _of_mean(np.clip(drawn, 1.0, 4.0 * mean), mean)


def _of_mean(lengths: Floats, mean: float) -> Ints:
    whole: Ints = np.rint(lengths * mean / lengths.mean()).astype(np.int64)
    return np.maximum(whole, 1)
