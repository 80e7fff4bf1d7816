"""A small engine whose twin runs fast, and short requests."""

from typing import Any

from profiler.hardware import GIB
from profiler.layout import Layout
from profiler.memory import EngineMemory
from profiler.profile import EngineProfile
from profiler.scheduler import Limits
from profiler.slo import Slo
from profiler.step_cost import NO_WINDOW, StepCost, roofline_curve
from recommender import Capacity, Latency, Workload, workload_from_hints


def a_cost(speed: float = 1.0, **changes: Any) -> StepCost:
    """10 ms a step and 0.1 ms a token, at `speed` times that rate."""
    fields: dict[str, Any] = dict.fromkeys(StepCost._fields, 0.0)
    fields |= {"dense_s": roofline_curve(1e-4 / speed, 0.01 / speed), "mixed_kv_ratio": 1.0}
    return StepCost(**{**fields, "window_tokens": NO_WINDOW, **changes})


def some_limits(**changes: Any) -> Limits:
    fields = {"max_num_seqs": 16, "max_num_batched_tokens": 512, "num_blocks": 2000}
    return Limits(**{**fields, **changes})


def a_workload(**changes: Any) -> Workload:
    fields: dict[str, Any] = {
        "rate_rps": 2.0,
        "mean_input_tokens": 64,
        "mean_output_tokens": 16,
    }
    return workload_from_hints(**{**fields, **changes})


def a_slo(**changes: Any) -> Slo:
    return Slo(**{"ttft_s": 0.5, "itl_s": 0.05, **changes})


def a_capacity(**changes: Any) -> Capacity:
    fields: dict[str, Any] = {
        "rate_rps": 4.0,
        "latency": Latency(0.2, 0.02, 2.0),
        "binds": "itl",
        "mean_input_tokens": 64.0,
        "mean_output_tokens": 16.0,
        "concurrency": 8.0,
    }
    return Capacity(**{**fields, **changes})


def a_profile(**changes: Any) -> EngineProfile:
    fields: dict[str, Any] = {
        "model": "org/tiny",
        "gpu": "mine",
        "layout": Layout(),
        "cost": a_cost(),
        "memory": EngineMemory(8.0 * GIB, 1.0 * GIB, 1e5, 0.0, 65536.0),
        "max_model_len": 4096,
        "start_up_s": 30.0,
    }
    return EngineProfile(**{**fields, **changes})
