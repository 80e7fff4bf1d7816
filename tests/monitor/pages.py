"""Pages as engines write them, made with the library that the engines use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

TTFT = "vllm:time_to_first_token_seconds"
ITL = "vllm:inter_token_latency_seconds"
TPOT = "vllm:request_time_per_output_token_seconds"
E2E = "vllm:e2e_request_latency_seconds"


@dataclass
class Engine:
    """A registry with vLLM's labels; `page()` is what its /metrics would answer."""

    core: str = "0"
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    known: dict[str, Gauge | Counter | Histogram] = field(default_factory=dict)

    def gauge(self, name: str, value: float, **labels: str) -> "Engine":
        names = ["engine", "model_name", *labels]
        metric = self.known.setdefault(name, Gauge(name, "g", names, registry=None))
        assert isinstance(metric, Gauge)
        metric.labels(self.core, "tiny", *labels.values()).set(value)
        return self

    def counter(self, name: str, by: float, **labels: str) -> "Engine":
        names = ["engine", "model_name", *labels]
        metric = self.known.setdefault(name, Counter(name, "c", names, registry=None))
        assert isinstance(metric, Counter)
        metric.labels(self.core, "tiny", *labels.values()).inc(by)
        return self

    def observed(
        self, name: str, values: Sequence[float], bounds: Sequence[float] = (0.1, 1.0)
    ) -> "Engine":
        new = Histogram(name, "h", ["engine", "model_name"], registry=None, buckets=bounds)
        metric = self.known.setdefault(name, new)
        assert isinstance(metric, Histogram)
        child = metric.labels(self.core, "tiny")
        for value in values:
            child.observe(value)
        return self

    def page(self) -> bytes:
        registry = CollectorRegistry()
        for metric in self.known.values():
            registry.register(metric)
        return generate_latest(registry)


def vllm(histograms: Mapping[str, Sequence[float]] | None = None) -> Engine:
    """An engine that has served what `histograms` say."""
    engine = Engine()
    for name, values in (histograms or {}).items():
        engine.observed(name, values)
    return engine.gauge("vllm:num_requests_running", 0)
