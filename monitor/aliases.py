"""What each engine calls a signal, newest name first.

Read by `monitor.signals` alone. Names churn between releases: a release that renames a
metric needs one more string here and nothing else. A signal without an entry is one the
engine does not publish, and is reported as absent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Finished:
    """A counter of ended requests: its reason is a label's value, or the same for all."""

    metric: str
    label: str | None
    reason: str = "unspecified"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine's metrics. Keys are the field names of `monitor.signals.EngineSignals`."""

    engine: str
    prefix: bytes
    """What every metric of this engine begins with."""
    gauges: Mapping[str, tuple[str, ...]]
    counters: Mapping[str, tuple[str, ...]]
    histograms: Mapping[str, tuple[str, ...]]
    finished: tuple[Finished, ...]
    cache_info: str | None = None
    """A metric whose labels hold `kv_cache_size_tokens`, or `num_gpu_blocks` and `block_size`."""
    sleep_state: str | None = None
    """A gauge per `sleep_state`; the one labelled `awake` is 0 while the engine sleeps."""
    wanted: frozenset[str] = field(init=False)
    """Every sample name to look for in a page."""

    def __post_init__(self) -> None:
        """List the wanted names once, not once a page."""
        names = {
            name for table in (self.gauges, self.counters) for n in table.values() for name in n
        }
        for bases in self.histograms.values():
            names.update(base + suffix for base in bases for suffix in ("_bucket", "_sum"))
        names.update(ended.metric for ended in self.finished)
        names.update(name for name in (self.cache_info, self.sleep_state) if name is not None)
        object.__setattr__(self, "wanted", frozenset(names))


VLLM = Dialect(
    engine="vllm",
    prefix=b"vllm:",
    gauges={
        "running": ("vllm:num_requests_running",),
        "waiting": ("vllm:num_requests_waiting",),
        "kv_usage_ratio": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    },
    counters={
        "preemptions_total": ("vllm:num_preemptions_total",),
        "prompt_tokens_total": ("vllm:prompt_tokens_total",),
        "generation_tokens_total": ("vllm:generation_tokens_total",),
        "prefix_cache_hits_total": (
            "vllm:prefix_cache_hits_total",
            "vllm:gpu_prefix_cache_hits_total",
        ),
        "prefix_cache_queries_total": (
            "vllm:prefix_cache_queries_total",
            "vllm:gpu_prefix_cache_queries_total",
        ),
    },
    histograms={
        "ttft": ("vllm:time_to_first_token_seconds",),
        # the older name measured the same gaps, token by token, whatever it says
        "itl": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
        "tpot": ("vllm:request_time_per_output_token_seconds",),
        "e2e": ("vllm:e2e_request_latency_seconds",),
        "queue_time": ("vllm:request_queue_time_seconds",),
        "prefill_time": ("vllm:request_prefill_time_seconds",),
        "decode_time": ("vllm:request_decode_time_seconds",),
        "prompt_length": ("vllm:request_prompt_tokens",),
        "generation_length": ("vllm:request_generation_tokens",),
    },
    finished=(Finished("vllm:request_success_total", "finished_reason"),),
    cache_info="vllm:cache_config_info",
    sleep_state="vllm:engine_sleep_state",
)

SGLANG = Dialect(
    engine="sglang",
    prefix=b"sglang:",
    gauges={
        "running": ("sglang:num_running_reqs",),
        "waiting": ("sglang:num_queue_reqs",),
        "kv_usage_ratio": ("sglang:token_usage",),
        "kv_capacity_tokens": ("sglang:max_total_num_tokens",),
        "max_num_seqs": ("sglang:max_running_requests",),
    },
    counters={
        "preemptions_total": ("sglang:num_retracted_requests_total",),
        "prompt_tokens_total": ("sglang:prompt_tokens_total",),
        "generation_tokens_total": ("sglang:generation_tokens_total",),
        "prefix_cache_hits_total": ("sglang:cached_tokens_total",),
        "prefix_cache_queries_total": ("sglang:prompt_tokens_total",),
    },
    histograms={
        "ttft": ("sglang:time_to_first_token_seconds",),
        "itl": ("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
        "tpot": ("sglang:request_time_per_output_token_seconds",),
        "e2e": ("sglang:e2e_request_latency_seconds",),
        "queue_time": ("sglang:queue_time_seconds",),
        "prompt_length": ("sglang:prompt_tokens_histogram",),
        "generation_length": ("sglang:generation_tokens_histogram",),
    },
    finished=(
        Finished("sglang:num_requests_total", None),
        Finished("sglang:num_aborted_requests_total", None, "abort"),
    ),
)

TGI = Dialect(
    engine="tgi",
    prefix=b"tgi_",
    gauges={
        "running": ("tgi_batch_current_size",),
        "waiting": ("tgi_queue_size",),
    },
    counters={
        "prompt_tokens_total": ("tgi_request_input_length_sum",),
        "generation_tokens_total": ("tgi_request_generated_tokens_sum",),
    },
    histograms={
        "tpot": ("tgi_request_mean_time_per_token_duration",),
        "e2e": ("tgi_request_duration",),
        "queue_time": ("tgi_request_queue_duration",),
        "prompt_length": ("tgi_request_input_length",),
        "generation_length": ("tgi_request_generated_tokens",),
    },
    finished=(
        Finished("tgi_request_success", None),
        Finished("tgi_request_failure", None, "error"),
    ),
)

DIALECTS = (VLLM, SGLANG, TGI)
"""In the order they are looked for."""
