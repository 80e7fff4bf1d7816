"""The `http_*` families of the HTTP server, as vLLM's instrumentation names them.

An aiohttp middleware counts; the collector is read at scrape time. Probes and scrapes are
not counted, as in vLLM.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from profiler.emulator.metrics import histogram_samples
from profiler.emulator.recorder import HTTP_COARSE_S, HTTP_FINE_S, Histogram

UNCOUNTED = frozenset({"/metrics", "/health", "/ping", "/version", "/load", "/server_info"})


class HttpCollector(Collector):
    """Requests by handler, method and status class; sizes in bytes, durations in seconds."""

    def __init__(self, created_s: float) -> None:
        self._created_s = created_s
        self._requests: dict[tuple[str, str, str], int] = {}
        self._sizes: dict[tuple[str, str], list[float]] = {}
        self._fine = Histogram(HTTP_FINE_S)
        self._coarse: dict[tuple[str, str], Histogram] = {}

    def count(self, handler: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = handler, method, f"{status // 100}xx"
        self._requests[key] = self._requests.get(key, 0) + 1
        self._fine.observe(seconds)
        self._coarse.setdefault((handler, method), Histogram(HTTP_COARSE_S)).observe(seconds)

    def measure(self, handler: str, request_bytes: int, response_bytes: int) -> None:
        """Add content lengths; 0 where there was no header."""
        for way, size in (("request", request_bytes), ("response", response_bytes)):
            held = self._sizes.setdefault((way, handler), [0, 0.0])
            held[0] += 1
            held[1] += size

    def collect(self) -> Iterator[Metric]:
        """Give every family."""
        requests = CounterMetricFamily(
            "http_requests",
            "Total number of requests by method, status and handler.",
            labels=("handler", "method", "status"),
        )
        for labels, number in self._requests.items():
            requests.add_metric(labels, number, created=self._created_s)
        yield requests
        yield self._size("request", "Content length of incoming requests by handler. ")
        yield self._size("response", "Content length of outgoing responses by handler. ")
        yield from self._durations()

    def _size(self, way: str, text: str) -> Metric:
        more = "Only value of header is respected. Otherwise ignored. No percentile calculated. "
        family = SummaryMetricFamily(f"http_{way}_size_bytes", text + more)
        for (held_way, handler), (number, total) in self._sizes.items():
            if held_way == way:
                labels = {"handler": handler}
                family.add_sample(f"{family.name}_count", labels, number)
                family.add_sample(f"{family.name}_sum", labels, total)
                family.add_sample(f"{family.name}_created", labels, self._created_s)
        return family

    def _durations(self) -> Iterator[Metric]:
        fine = HistogramMetricFamily(
            "http_request_duration_highr_seconds",
            "Latency with many buckets but no API specific labels. "
            "Made for more accurate percentile calculations. ",
        )
        histogram_samples(fine, {}, self._fine, self._created_s)
        yield fine
        coarse = HistogramMetricFamily(
            "http_request_duration_seconds",
            "Latency with only few buckets by handler. "
            "Made to be only used if aggregation by handler is important. ",
        )
        for (handler, method), histogram in self._coarse.items():
            labels: dict[str, Any] = {"handler": handler, "method": method}
            histogram_samples(coarse, labels, histogram, self._created_s)
        yield coarse
