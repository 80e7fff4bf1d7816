"""The plan for programs: JSON, and an LLMService ready to apply."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from controller.api import GROUP, VERSION
from controller.api.llmservice import Switch
from profiler.configuration import Quantization
from profiler.operators import KvDtype
from profiler.slo import Slo
from recommender import (
    Candidate,
    Comparison,
    Explanation,
    Question,
    Recommendation,
    Split,
    Workload,
    how_sure,
    what_binds,
)
from recommender.explanation import QUANTILES, WhatIf

_SCALING_ROOM = 2
"""Most serving replicas in the manifest, relative to those found."""


@dataclass(frozen=True, slots=True)
class Told:
    """Everything that a plan has to tell."""

    asked: Question
    found: Recommendation
    story: Explanation | None
    beside: Comparison | None
    notes: tuple[str, ...]
    """Of how the workload was read."""


def as_dict(told: Told) -> dict[str, Any]:
    """Give it all as JSON takes it; what is not known is null."""
    asked, found = told.asked, told.found
    best, rate_rps = found.best, asked.workload.sized_rps
    sure = how_sure(best, asked.workload, asked.slo)
    content = {
        "workload": _workload(asked.workload, told.notes),
        "best": _candidate(best, rate_rps),
        "boundBy": asdict(what_binds(best, asked.workload, asked.slo)),
        "sureness": asdict(sure),
        "runnersUp": [_candidate(candidate, rate_rps) for candidate in found.runners_up],
        "notPossible": list(found.not_possible),
        "candidatesPriced": found.priced,
        "candidatesScored": found.scored,
    }
    if told.story is not None:
        content["explanation"] = _story(told.story, rate_rps)
    if told.beside is not None:
        content["comparison"] = _comparison(told.beside, rate_rps)
    known: dict[str, Any] = _without_nan(content)
    return known


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _workload(workload: Workload, notes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "requestsPerSecond": round(workload.rate_rps, 4),
        "peakRequestsPerSecond": round(workload.sized_rps, 4),
        "burstiness": round(workload.cv, 3),
        "inputTokens": round(workload.mean_input_tokens, 1),
        "outputTokens": round(workload.mean_output_tokens, 1),
        "prefixHitRatio": round(workload.hit_ratio, 4),
        "relativeErrors": asdict(workload.errors),
        "notes": list(notes),
    }


def _candidate(candidate: Candidate, rate_rps: float) -> dict[str, Any]:
    c, capacity = candidate.configuration, candidate.capacity
    return {
        "model": candidate.profile.model,
        "gpu": candidate.profile.gpu,
        "gpusPerReplica": candidate.gpus,
        "tensorParallelSize": c.tensor_parallel_size,
        "pipelineParallelSize": c.pipeline_parallel_size,
        "dataParallelSize": c.data_parallel_size,
        "enableExpertParallel": c.enable_expert_parallel,
        "kvCacheDtype": c.kv_cache_dtype.value,
        "quantization": c.quantization.value,
        "maxNumSeqs": c.max_num_seqs,
        "maxNumBatchedTokens": c.max_num_batched_tokens,
        "gpuMemoryUtilization": c.gpu_memory_utilization,
        "maxModelLen": c.max_model_len,
        "enableChunkedPrefill": c.enable_chunked_prefill,
        "requestsPerSecondPerReplica": round(capacity.rate_rps, 4),
        "requestsPerSecondPerGpu": round(candidate.rps_per_gpu, 4),
        "replicas": candidate.replicas(rate_rps),
        "costPerHour": round(candidate.cost_per_hour(rate_rps), 4),
        "boundBy": capacity.binds,
        "latency": {
            "ttftMs": round(capacity.latency.ttft_s * 1e3, 2),
            "itlMs": round(capacity.latency.itl_s * 1e3, 3),
            "e2eMs": round(capacity.latency.e2e_s * 1e3, 1),
        },
        "flags": list(c.engine_args()),
    }


def _story(story: Explanation, rate_rps: float) -> dict[str, Any]:
    return {
        "why": list(story.why),
        "attainedRatio": round(story.attained_ratio, 5),
        "latency": {
            each.metric.value: {
                "meanSeconds": each.mean_s,
                "quantileSeconds": dict(zip(map(str, QUANTILES), each.quantiles, strict=True)),
            }
            for each in story.distribution
        },
        "whatIf": [_what_if(each, rate_rps) for each in story.what_if],
        "pareto": [asdict(point) for point in story.pareto],
        "split": None if story.split is None else _split(story.split, rate_rps),
        "splitSays": story.split_says,
    }


def _what_if(each: WhatIf, rate_rps: float) -> dict[str, Any]:
    candidate = None if each.candidate is None else _candidate(each.candidate, rate_rps)
    return {
        "change": each.change,
        "says": each.says,
        "replicas": each.replicas,
        "costPerHour": each.cost_per_hour,
        "candidate": candidate,
    }


def _split(pair: Split, rate_rps: float) -> dict[str, Any]:
    prefill, decode = pair.replicas(rate_rps)
    return {
        "prefill": {**_candidate(pair.prefill, rate_rps), "replicas": prefill},
        "decode": {**_candidate(pair.decode, rate_rps), "replicas": decode},
        "requestsPerSecondPerGpu": round(pair.rps_per_gpu, 4),
        "costPerHour": round(pair.cost_per_hour(rate_rps), 4),
        "transferSeconds": pair.transfer_s,
    }


def _comparison(beside: Comparison, rate_rps: float) -> dict[str, Any]:
    running = None if beside.running is None else _candidate(beside.running, rate_rps)
    return {"says": beside.says, "running": running, "costPerHour": beside.cost_per_hour}


# --- ready to apply ---


def as_manifest(told: Told) -> dict[str, Any]:
    """Give an LLMService that pins what was found."""
    best, workload = told.found.best, told.asked.workload
    name = best.profile.model.split("/")[-1].lower()
    name = "".join(ch if ch.isalnum() else "-" for ch in name).strip("-")[:40].rstrip("-")
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "LLMService",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": best.profile.model},
            "engine": _engine(best),
            "slo": _slo(told.asked.slo),
            "workload": {
                "requestsPerSecond": f"{workload.rate_rps:.3f}",
                "inputTokens": round(workload.mean_input_tokens),
                "outputTokens": round(workload.mean_output_tokens),
                "burstiness": f"{workload.cv:.2f}",
                "prefixHitPercent": round(100 * workload.hit_ratio),
            },
            "scaling": {"min": 1, "max": _SCALING_ROOM * best.replicas(workload.sized_rps)},
            "placement": {"gpu": best.profile.gpu},
            "resilience": {"standbys": 1},
        },
    }


def _engine(best: Candidate) -> dict[str, Any]:
    c = best.configuration
    spec: dict[str, Any] = {
        "type": "vllm",
        "tensorParallelSize": c.tensor_parallel_size,
        "pipelineParallelSize": c.pipeline_parallel_size,
    }
    if c.data_parallel_size > 1:
        spec["dataParallelSize"] = c.data_parallel_size
    if c.enable_expert_parallel:
        spec["expertParallel"] = Switch.ENABLED.value
    if c.kv_cache_dtype is not KvDtype.AUTO:
        spec["kvCacheDtype"] = c.kv_cache_dtype.value
    if c.quantization is not Quantization.NONE:
        spec["quantization"] = c.quantization.value
    if not c.enable_chunked_prefill:
        spec["chunkedPrefill"] = Switch.DISABLED.value
    if not c.enable_prefix_caching:
        spec["prefixCaching"] = Switch.DISABLED.value
    return {
        **spec,
        "maxNumSeqs": c.max_num_seqs,
        "maxNumBatchedTokens": c.max_num_batched_tokens,
        "gpuMemoryUtilizationPercent": round(100 * c.gpu_memory_utilization),
        "maxModelLen": c.max_model_len,
    }


def _slo(slo: Slo) -> dict[str, int]:
    bounds = {"ttftMs": slo.ttft_s, "itlMs": slo.itl_s, "e2eMs": slo.e2e_s}
    given = {name: round(bound * 1e3) for name, bound in bounds.items() if bound is not None}
    return {**given, "percentile": round(100 * slo.percentile)}
