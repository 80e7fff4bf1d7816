"""`/metrics` as vLLM 0.32 exports it: names, help, types, labels, buckets.

A `Collector` reads the recorder at scrape time; nothing here runs while tokens flow. A
family that the emulator has no cause for (LoRA, KV connectors, multi-modal, FLOPs) stays
at zero, as it does on a plain vLLM.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from profiler.emulator.engine import RealTimeEngine
from profiler.emulator.families import COUNTERS, HISTOGRAMS, cache_config
from profiler.emulator.recorder import Histogram

_BASE = ("engine", "model_name")


def histogram_samples(
    family: Metric, labels: dict[str, str], histogram: Histogram, created_s: float
) -> None:
    """Add a histogram's buckets, count, sum and creation time to its family."""
    bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
    running = list(accumulate(histogram.counts))
    for bound, value in zip(bounds, running, strict=True):
        family.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, value)
    family.add_sample(f"{family.name}_count", labels, running[-1])
    family.add_sample(f"{family.name}_sum", labels, histogram.total)
    family.add_sample(f"{family.name}_created", labels, created_s)


class EngineCollector(Collector):
    """The engine's families, read at scrape time."""

    def __init__(self, engine: RealTimeEngine, created_s: float) -> None:
        self._engine = engine
        self._created_s = created_s
        self._base = ("0", engine.options.names[0])
        self.xid: int | None = None
        """Code of an injected device error; None: the card is well."""

    def collect(self) -> Iterator[Metric]:
        """Give every family."""
        yield from self._gauges()
        yield from self._counters()
        labels = dict(zip(_BASE, self._base, strict=True))
        for name, text, read in HISTOGRAMS:
            family = HistogramMetricFamily(f"vllm:{name}", text)
            histogram_samples(family, labels, read(self._engine.recorder), self._created_s)
            yield family
        yield self._cache_config()
        if self.xid is not None:
            yield self._device_error(self.xid)

    def _gauges(self) -> Iterator[Metric]:
        engine, level = self._engine, self._engine.sleep_level
        yield self._gauge(
            "vllm:num_requests_running",
            "Number of requests in model execution batches.",
            [((), engine.running)],
        )
        yield self._gauge(
            "vllm:num_requests_waiting",
            "Number of requests waiting to be processed.",
            [((), engine.waiting)],
        )
        yield self._gauge(
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for "
            "scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV "
            "transfer, blocked status). Sum of all reasons equals vllm:num_requests_waiting.",
            [(("capacity",), engine.waiting), (("deferred",), 0)],
            ("reason",),
        )
        yield self._gauge(
            "vllm:engine_sleep_state",
            "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is "
            "awake; weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep "
            "level 2.",
            [
                (("awake",), float(level == 0)),
                (("weights_offloaded",), float(level == 1)),
                (("discard_all",), float(level == 2)),
            ],
            ("sleep_state",),
        )
        yield self._gauge(
            "vllm:kv_cache_usage_perc",
            "KV-cache usage. 1 means 100 percent usage.",
            [((), engine.kv_usage_ratio)],
        )

    def _counters(self) -> Iterator[Metric]:
        r = self._engine.recorder
        for name, text, read in COUNTERS:
            yield self._counter(name, text, [((), read(r))])
        yield self._counter(
            "vllm:num_preemptions",
            "Cumulative number of preemption from the engine.",
            [((), self._engine.preemptions)],
        )
        yield self._counter(
            "vllm:prompt_tokens_by_source",
            "Number of prompt tokens by source.",
            [
                (("local_compute",), r.prompt_tokens - r.cached_tokens),
                (("local_cache_hit",), r.cached_tokens),
                (("external_kv_transfer",), 0),
            ],
            ("source",),
        )
        yield self._counter(
            "vllm:prompt_tokens_cached_by_source",
            "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), "
            "host (offloaded to DRAM), disk, p2p (transferred from another vLLM instance) or "
            "external_unspecified. Counted at admission; sums to vllm:prefix_cache_hits + "
            "vllm:external_prefix_cache_hits.",
            [
                (("device",), r.cached_tokens),
                *(((t,), 0) for t in ("host", "p2p", "disk", "external_unspecified")),
            ],
            ("source",),
        )
        yield self._counter(
            "vllm:request_success",
            "Count of successfully processed requests.",
            [((str(finish),), number) for finish, number in r.finished.items()],
            ("finished_reason",),
        )
        yield self._rejections()

    def _rejections(self) -> Metric:
        family = CounterMetricFamily(
            "vllm:admission_rejections",
            "Number of admission attempts rejected by a queue limit, by reason.",
            labels=("model_name", "reason"),
        )
        for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
            family.add_metric((self._base[1], reason), 0, created=self._created_s)
        return family

    def _gauge(
        self,
        name: str,
        text: str,
        values: Iterable[tuple[tuple[str, ...], float]],
        more: tuple[str, ...] = (),
    ) -> Metric:
        family = GaugeMetricFamily(name, text, labels=(*_BASE, *more))
        for labels, value in values:
            family.add_metric((*self._base, *labels), value)
        return family

    def _counter(
        self,
        name: str,
        text: str,
        values: Iterable[tuple[tuple[str, ...], float]],
        more: tuple[str, ...] = (),
    ) -> Metric:
        family = CounterMetricFamily(name, text, labels=(*_BASE, *more))
        for labels, value in values:
            family.add_metric((*self._base, *labels), value, created=self._created_s)
        return family

    def _device_error(self, code: int) -> Metric:
        family = GaugeMetricFamily(
            "DCGM_FI_DEV_XID_ERRORS",
            "Value of the last XID error encountered.",
            labels=("gpu", "device", "modelName"),
        )
        family.add_metric(("0", "nvidia0", self._engine.options.gpu), code)
        return family

    def _cache_config(self) -> Metric:
        labels = cache_config(self._engine)
        family = GaugeMetricFamily(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            labels=tuple(labels),
        )
        family.add_metric(tuple(labels.values()), 1)
        return family


class Page:
    """The whole `/metrics` page: the process, the engine, the HTTP server."""

    def __init__(self, engine: RealTimeEngine, http: Collector, created_s: float) -> None:
        registry = CollectorRegistry()
        GCCollector(registry=registry)
        PlatformCollector(registry=registry)
        ProcessCollector(registry=registry)
        self.engine = EngineCollector(engine, created_s)
        registry.register(self.engine)
        registry.register(http)
        self._registry = registry

    def render(self) -> bytes:
        """Write it in the text format of Prometheus."""
        return generate_latest(self._registry)
