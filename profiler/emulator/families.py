"""vLLM 0.32's counters and histograms: name, help, and where the recorder keeps the value.

Read by `metrics`; what has labels of its own, and the gauges, are written out there.
"""

from collections.abc import Callable

from profiler.emulator.engine import RealTimeEngine
from profiler.emulator.recorder import Histogram, Recorder

Read = Callable[[Recorder], float]

_FLOPS = "(for Model Flops Utilization calculations)."
COUNTERS: tuple[tuple[str, str, Read], ...] = (
    (
        "vllm:estimated_flops_per_gpu",
        f"Estimated number of floating point operations per GPU {_FLOPS}",
        lambda r: 0,
    ),
    (
        "vllm:estimated_read_bytes_per_gpu",
        f"Estimated number of bytes read from memory per GPU {_FLOPS}",
        lambda r: 0,
    ),
    (
        "vllm:estimated_write_bytes_per_gpu",
        f"Estimated number of bytes written to memory per GPU {_FLOPS}",
        lambda r: 0,
    ),
    (
        "vllm:prefix_cache_queries",
        "Prefix cache queries, in terms of number of queried tokens.",
        lambda r: r.prompt_tokens,
    ),
    (
        "vllm:prefix_cache_hits",
        "Prefix cache hits, in terms of number of cached tokens.",
        lambda r: r.cached_tokens,
    ),
    (
        "vllm:external_prefix_cache_queries",
        "External prefix cache queries from KV connector cross-instance cache sharing, "
        "in terms of number of queried tokens.",
        lambda r: 0,
    ),
    (
        "vllm:external_prefix_cache_hits",
        "External prefix cache hits from KV connector cross-instance cache sharing, "
        "in terms of number of cached tokens.",
        lambda r: 0,
    ),
    (
        "vllm:mm_cache_queries",
        "Multi-modal cache queries, in terms of number of queried items.",
        lambda r: 0,
    ),
    (
        "vllm:mm_cache_hits",
        "Multi-modal cache hits, in terms of number of cached items.",
        lambda r: 0,
    ),
    ("vllm:prompt_tokens", "Number of prefill tokens processed.", lambda r: r.prompt_tokens),
    (
        "vllm:prompt_tokens_cached",
        "Number of cached prompt tokens (local + external).",
        lambda r: r.cached_tokens,
    ),
    (
        "vllm:generation_tokens",
        "Number of generation tokens processed.",
        lambda r: r.generation_tokens,
    ),
)

_SPENT = "Histogram of time spent in {} phase for request."
HISTOGRAMS: tuple[tuple[str, str, Callable[[Recorder], Histogram]], ...] = (
    (
        "request_prompt_tokens",
        "Number of prefill tokens processed.",
        lambda r: r.request_prompt_tokens,
    ),
    (
        "request_generation_tokens",
        "Number of generation tokens processed.",
        lambda r: r.request_generation_tokens,
    ),
    (
        "iteration_tokens_total",
        "Histogram of number of tokens per engine_step.",
        lambda r: r.iteration_tokens,
    ),
    (
        "request_max_num_generation_tokens",
        "Histogram of maximum number of requested generation tokens.",
        lambda r: r.request_max_generation_tokens,
    ),
    ("request_params_n", "Histogram of the n request parameter.", lambda r: r.params_n),
    (
        "request_params_max_tokens",
        "Histogram of the max_tokens request parameter.",
        lambda r: r.params_max_tokens,
    ),
    (
        "time_to_first_token_seconds",
        "Histogram of time to first token in seconds.",
        lambda r: r.time_to_first_token,
    ),
    (
        "inter_token_latency_seconds",
        "Histogram of inter-token latency in seconds.",
        lambda r: r.inter_token_latency,
    ),
    (
        "request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        lambda r: r.time_per_output_token,
    ),
    (
        "e2e_request_latency_seconds",
        "Histogram of e2e request latency in seconds.",
        lambda r: r.e2e,
    ),
    ("request_queue_time_seconds", _SPENT.format("WAITING"), lambda r: r.queue),
    ("request_inference_time_seconds", _SPENT.format("RUNNING"), lambda r: r.inference),
    ("request_prefill_time_seconds", _SPENT.format("PREFILL"), lambda r: r.prefill),
    ("request_decode_time_seconds", _SPENT.format("DECODE"), lambda r: r.decode),
    (
        "request_num_preemptions",
        "Histogram of the number of times a request was preempted.",
        lambda r: r.request_preemptions,
    ),
    (
        "request_prefill_kv_computed_tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        lambda r: r.prefill_kv_computed,
    ),
)


def cache_config(engine: RealTimeEngine) -> dict[str, str]:
    """Labels of `vllm:cache_config_info`."""
    limits, options = engine.limits, engine.options
    held = limits.num_blocks * limits.block_size
    return {
        "_block_size_resolved": "True",
        "block_size": str(limits.block_size),
        "cache_dtype": "auto",
        "cache_hit_alignment_tokens": "None",
        "effective_attention_block_size": str(limits.block_size),
        "enable_mamba_shared_prefix_checkpoint": "False",
        "enable_prefix_caching": str(bool(limits.prefix_caching)),
        "engine": "0",
        "gpu_memory_utilization": str(options.gpu_memory_utilization),
        "hash_block_size": "None",
        "is_attention_free": "False",
        "kv_cache_dtype_skip_layers": "[]",
        "kv_cache_layout": "None",
        "kv_cache_max_concurrency": str(held / engine.max_model_len),
        "kv_cache_memory_bytes": str(options.kv_cache_bytes),
        "kv_cache_size_tokens": str(held),
        "kv_offloading_backend": "native",
        "kv_offloading_size": "None",
        "kv_sharing_fast_prefill": "False",
        "mamba_block_size": "None",
        "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "none",
        "mamba_page_size_padded": "None",
        "mamba_ssm_cache_dtype": "float32",
        "num_cpu_blocks": "None",
        "num_gpu_blocks": str(limits.num_blocks),
        "num_gpu_blocks_override": str(options.num_gpu_blocks_override),
        "prefix_cache_retention_interval": "0",
        "prefix_caching_hash_algo": "sha256",
        "prefix_match_unit": "None",
        "replayssm_buffer_len": "16",
        "skip_page_size_padded": "None",
        "sliding_window": "None",
        "swa_bounded_replay": "True",
        "use_kda_recoverssm": "False",
        "use_replayssm": "False",
        "user_specified_block_size": "False",
    }
