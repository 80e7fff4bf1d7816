"""One replica's signals, the same for every engine.

Called with a `/metrics` page by `monitor.sources`; read by detectors, SLOs and the
controller's observation. A signal the page lacks, or shows as NaN or negative, is None and
never zero. It judges nothing: what a value means for the service is for others to say.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType

from monitor.aliases import DIALECTS, Dialect
from monitor.exposition import Exposition, Sample, has_prefix, read_exposition
from monitor.histogram import Histogram
from profiler.errors import Refused


class NotAnEngine(Refused):
    """The page belongs to no engine we know."""


@dataclass(frozen=True, slots=True)
class EngineSignals:
    """What one page says. Engine cores of one replica are summed; None: not on the page."""

    engine: str
    """`vllm`, `sglang` or `tgi`."""
    model: str | None = None
    """The served name; None when the engine does not label it."""
    running: float | None = None
    """Requests in execution batches."""
    waiting: float | None = None
    """Requests in the engine's own queue."""
    kv_usage_ratio: float | None = None
    """KV cache in use, 0–1; the mean over engine cores, which have equal caches."""
    preemptions_total: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    requests_finished: Mapping[str, float] | None = None
    """Ended requests by reason, aborted and failed ones included."""
    ttft: Histogram | None = None
    """Time to first token, s, per request."""
    itl: Histogram | None = None
    """Gap between two tokens, s, per token."""
    tpot: Histogram | None = None
    """Mean gap between a request's tokens, s, per request."""
    e2e: Histogram | None = None
    """Arrival to last token, s, per request."""
    queue_time: Histogram | None = None
    """Waiting in the engine before execution, s, per request."""
    prefill_time: Histogram | None = None
    """First scheduled to first token, s, per request."""
    decode_time: Histogram | None = None
    """First to last token, s, per request."""
    prompt_length: Histogram | None = None
    """Prompt tokens per request."""
    generation_length: Histogram | None = None
    """Generated tokens per request."""
    prefix_cache_hits_total: float | None = None
    """Prompt tokens found in the prefix cache."""
    prefix_cache_queries_total: float | None = None
    """Prompt tokens looked up in the prefix cache."""
    asleep: bool | None = None
    """Whether any engine core is in sleep mode."""
    kv_capacity_tokens: float | None = None
    """Tokens the KV cache holds."""
    max_num_seqs: float | None = None
    """Requests a batch may hold."""
    absent: tuple[str, ...] = ()
    """Names of the fields above that this page lacks."""
    malformed: int = 0
    """Lines of wanted metrics that could not be read."""


class Freshness(StrEnum):
    """Whether a reading may be acted on."""

    FRESH = "fresh"
    STALE = "stale"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Reading:
    """One attempt to read a replica: its signals, or why there are none."""

    signals: EngineSignals | None
    at_s: float | None
    """When the attempt ended, on the clock of `now_s`; None when there was none yet."""
    error: str | None = None

    def freshness(self, now_s: float, stale_after_s: float) -> Freshness:
        """Missing without signals, stale when they are older than `stale_after_s`."""
        if self.signals is None or self.at_s is None:
            return Freshness.MISSING
        return Freshness.STALE if now_s - self.at_s > stale_after_s else Freshness.FRESH


def read_signals(page: bytes) -> EngineSignals:
    """Read a `/metrics` page of any known engine; `NotAnEngine` when it is none's."""
    dialect = next((d for d in DIALECTS if has_prefix(page, d.prefix)), None)
    if dialect is None:
        known = ", ".join(f"{d.prefix.decode()}* ({d.engine})" for d in DIALECTS)
        raise NotAnEngine(
            f"the page has none of {known}: point the scrape at the engine's own /metrics"
        )
    seen = read_exposition(page, dialect.wanted)
    found = {
        **{name: _total(_first(seen, names)) for name, names in dialect.gauges.items()},
        **{name: _total(_first(seen, names)) for name, names in dialect.counters.items()},
        **{name: _histogram(seen, bases) for name, bases in dialect.histograms.items()},
        **_particulars(seen, dialect),
    }
    absent = (f.name for f in fields(EngineSignals) if f.name not in _NOT_SIGNALS)
    return EngineSignals(
        engine=dialect.engine,
        absent=tuple(name for name in absent if found.get(name) is None),
        malformed=seen.malformed,
        **found,  # type: ignore[arg-type]  # the tables' keys are field names, under test
    )


_NOT_SIGNALS = frozenset({"engine", "absent", "malformed"})


def _particulars(seen: Exposition, dialect: Dialect) -> dict[str, object]:
    """The signals that are no plain gauge, counter or histogram."""
    usage = _first(seen, dialect.gauges.get("kv_usage_ratio", ()))
    total = _total(usage)
    found: dict[str, object] = {
        "model": _model(seen),
        "kv_usage_ratio": None if total is None else total / len(usage),
        "requests_finished": _finished(seen, dialect),
        "asleep": _asleep(seen, dialect),
    }
    if dialect.cache_info is not None:
        found["kv_capacity_tokens"] = _kv_capacity_tokens(seen, dialect.cache_info)
    return found


def _first(seen: Exposition, names: Iterable[str]) -> tuple[Sample, ...]:
    """The samples of the newest name that the page knows."""
    return next((seen.samples[name] for name in names if name in seen.samples), ())


def _total(samples: tuple[Sample, ...]) -> float | None:
    """The sum over engine cores; None when there is none, or one of them is unknown."""
    if not samples or not all(0 <= s.value < math.inf for s in samples):  # NaN is not >= 0
        return None
    return sum(s.value for s in samples)


def _histogram(seen: Exposition, bases: tuple[str, ...]) -> Histogram | None:
    """The sum over label sets; None when a bucket is unknown or sets have other bounds."""
    base = next((b for b in bases if f"{b}_bucket" in seen.samples), None)
    if base is None:
        return None
    sums = seen.samples.get(f"{base}_sum", ())
    buckets = seen.samples[f"{base}_bucket"]
    counts: dict[float, float] = {}
    try:
        for labels, value in buckets:
            bound = float(labels["le"])
            counts[bound] = counts.get(bound, 0.0) + value
        if len(buckets) != len(counts) * len(sums):
            return None
        cumulative = dict(sorted(counts.items()))
        total = sum(s.value for s in sums)
        return Histogram(tuple(cumulative), tuple(cumulative.values()), total)
    except (KeyError, ValueError):
        return None


def _model(seen: Exposition) -> str | None:
    """The first sample's `model_name`: a replica serves one model, whatever its adapters."""
    labels = (s.labels for samples in seen.samples.values() for s in samples)
    return next((found["model_name"] for found in labels if "model_name" in found), None)


def _finished(seen: Exposition, dialect: Dialect) -> Mapping[str, float] | None:
    counts: dict[str, float] = {}
    for ended in dialect.finished:
        for sample in seen.samples.get(ended.metric, ()):
            if not 0 <= sample.value < math.inf:
                return None
            reason = sample.labels.get(ended.label, "unknown") if ended.label else ended.reason
            counts[reason] = counts.get(reason, 0.0) + sample.value
    return MappingProxyType(counts) if counts else None


def _asleep(seen: Exposition, dialect: Dialect) -> bool | None:
    samples = seen.samples.get(dialect.sleep_state or "", ())
    awake = [s.value for s in samples if s.labels.get("sleep_state") == "awake"]
    if not awake or any(math.isnan(value) for value in awake):
        return None
    return any(value == 0 for value in awake)


def _kv_capacity_tokens(seen: Exposition, metric: str) -> float | None:
    """The sum over engine cores of the cache each was configured with."""
    tokens = [_cache_tokens(s.labels) for s in seen.samples.get(metric, ())]
    known = [t for t in tokens if t is not None]
    return sum(known) if known and len(known) == len(tokens) else None


def _cache_tokens(labels: Mapping[str, str]) -> float | None:
    """`kv_cache_size_tokens` where published (0.12 on), else blocks × tokens per block."""
    tokens = _positive(labels.get("kv_cache_size_tokens"))
    if tokens is not None:
        return tokens
    blocks = _positive(labels.get("num_gpu_blocks"))
    block_tokens = _positive(labels.get("block_size"))
    return None if blocks is None or block_tokens is None else blocks * block_tokens


def _positive(text: str | None) -> float | None:
    """A label's number; None for "None" and anything else that is no positive number."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
