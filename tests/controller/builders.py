"""Builders of services, observations, readings and manifests; each takes overrides."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from controller.api.llmservice import EngineType
from controller.decide import Decision, Numbers, Reason, State
from controller.observation import (
    Demand,
    Load,
    Observation,
    Phase,
    Replica,
    ReplicaId,
    Sighting,
)
from controller.service import Bounds, Service, service_id
from monitor import EngineSignals, Histogram, Reading
from profiler.configuration import Configuration
from profiler.hardware import GIB
from profiler.layout import Layout
from profiler.memory import EngineMemory
from profiler.profile import EngineProfile, Source
from profiler.slo import Slo
from profiler.step_cost import NO_WINDOW, StepCost, roofline_curve
from recommender import Capacity, Latency, workload_from_hints

GROUP_VERSION = "serving.whaleflux.io/v1alpha1"


def a_cost(**changes: Any) -> StepCost:
    fields: dict[str, Any] = dict.fromkeys(StepCost._fields, 0.0)
    fields |= {
        "step_overhead_s": 0.002,
        "dense_s": roofline_curve(2e-5, 0.008),
        "sequence_s": 2e-5,
        "mixed_kv_ratio": 1.0,
        "window_tokens": NO_WINDOW,
    }
    return StepCost(**{**fields, **changes})


def a_profile(**changes: Any) -> EngineProfile:
    memory = EngineMemory(16.0 * GIB, 2.0 * GIB, 1024.0, 0.0, 32768.0)
    fields: dict[str, Any] = {
        "model": "org/tiny",
        "gpu": "L4",
        "layout": Layout(),
        "cost": a_cost(),
        "memory": memory,
        "max_model_len": 8192,
        "start_up_s": 30.0,
        "source": Source.MEASURED,
    }
    return EngineProfile(**{**fields, **changes})


def a_capacity(rate_rps: float = 4.0, **changes: Any) -> Capacity:
    fields: dict[str, Any] = {
        "rate_rps": rate_rps,
        "latency": Latency(0.2, 0.02, 2.0),
        "binds": "ttft",
        "mean_input_tokens": 128.0,
        "mean_output_tokens": 32.0,
        "concurrency": 8.0,
    }
    return Capacity(**{**fields, **changes})


def a_service(**changes: Any) -> Service:
    """One to five replicas and one standby, 4 requests a second each."""
    fields: dict[str, Any] = {
        "id": service_id("default", "chat"),
        "name": "chat",
        "namespace": "default",
        "generation": 1,
        "model": "org/tiny",
        "served_name": "tiny",
        "gpu": "L4",
        "gpu_product": "NVIDIA-L4",
        "engine": EngineType.EMULATED,
        "image": "",
        "command": (),
        "args": (),
        "slo": Slo(ttft_s=1.0, itl_s=0.05),
        "bounds": Bounds(1, 5),
        "standbys": 1,
        "profile": a_profile(),
        "configuration": Configuration(max_num_seqs=16, max_model_len=4096),
        "capacity": a_capacity(),
        "calm_rps": 4.0,
        "workload": workload_from_hints(2.0, 128, 32),
    }
    return Service(**{**fields, **changes})


def a_replica(name: str = "r1", phase: Phase = Phase.SERVING, **changes: Any) -> Replica:
    ready = phase in (Phase.STANDBY, Phase.SERVING, Phase.DRAINING)
    fields: dict[str, Any] = {"created_s": 0.0, "ready_s": 30.0 if ready else None}
    return Replica(ReplicaId(name), phase, **{**fields, **changes})


def a_sighting(name: str, phase: Phase, *, wedged: bool = False, **changes: Any) -> Sighting:
    load = Load(1.0, 0.0, 0.1, 100.0) if phase is Phase.SERVING else None
    return Sighting(a_replica(name, phase, **changes), load, wedged)


_LETTERS = {
    "S": Phase.SERVING,
    "b": Phase.STANDBY,
    "s": Phase.STARTING,
    "p": Phase.PENDING,
    "d": Phase.DRAINING,
    "F": Phase.FAILED,
    "f": Phase.FAILED,
    "W": Phase.SERVING,
}


def a_fleet(letters: str, old: str = "") -> tuple[Sighting, ...]:
    """One replica a letter, oldest first: S(erving), b(acking up), s(tarting), p(ending),
    d(raining), F(ailed), f(ailed before it was ready), W(edged). Those of `old` run a former
    configuration. Named by letter and place: S0, b1 …; old ones after an `o`: oS0."""
    current = (_one(c, f"{c}{i}", 100.0 + i, stale=False) for i, c in enumerate(letters))
    former = (_one(c, f"o{c}{i}", float(i), stale=True) for i, c in enumerate(old))
    return (*former, *current)


def _one(letter: str, name: str, created_s: float, *, stale: bool) -> Sighting:
    ready_s = created_s + 30.0 if letter in "SbdFW" else None
    return a_sighting(
        name,
        _LETTERS[letter],
        wedged=letter == "W",
        created_s=created_s,
        ready_s=ready_s,
        stale=stale,
    )


def an_observation(fleet: str = "Sb", *, old: str = "", **changes: Any) -> Observation:
    """One serving replica and a standby, an idle queue, 2 requests a second."""
    fields: dict[str, Any] = {
        "service": a_service(),
        "sightings": a_fleet(fleet, old),
        "demand": a_demand(),
        "capacity_rps": 4.0,
        "start_up_s": 30.0,
    }
    return Observation(**{**fields, **changes})


def a_demand(
    arrival_rps: float | None = 2.0, waiting: float | None = 0.0, attained: float | None = 1.0
) -> Demand:
    return Demand(arrival_rps, waiting, attained)


BLIND = Demand(None, None, None)
"""What is known when no serving replica could be read."""


def a_decision(**changes: Any) -> Decision:
    fields: dict[str, Any] = {
        "serving": 1,
        "standby": 1,
        "actions": (),
        "reasons": (Reason.STEADY,),
        "numbers": Numbers(2.0, 2.3, 0.0, 4.0, 30.0, 1.0),
        "message": "1 serving + 1 standby: the serving replicas carry the demand",
    }
    return Decision(**{**fields, **changes})


def a_state(serving: int = 1, **changes: Any) -> State:
    return replace(State(serving=serving), **changes)


def a_histogram(values: Sequence[float], bounds: Sequence[float] = (0.05, 1.0)) -> Histogram:
    """Counted values, whatever their unit."""
    edges = (*bounds, math.inf)
    counts = tuple(float(sum(value <= edge for value in values)) for edge in edges)
    return Histogram(edges, counts, float(sum(values)))


def some_signals(
    *, finished: float = 0.0, good: float | None = None, tokens: float = 0.0, **changes: Any
) -> EngineSignals:
    """An engine's page after `finished` requests, `good` of them within a second and 50 ms."""
    kept = int(finished if good is None else good)
    lost = int(finished) - kept
    fields: dict[str, Any] = {
        "engine": "vllm",
        "running": 0.0,
        "waiting": 0.0,
        "kv_usage_ratio": 0.1,
        "prompt_tokens_total": 10.0 * finished,
        "generation_tokens_total": tokens,
        "requests_finished": {"stop": finished},
        "ttft": a_histogram([0.5] * kept + [2.0] * lost),
        "tpot": a_histogram([0.02] * int(finished)),
        "e2e": a_histogram([0.9] * int(finished)),
    }
    return EngineSignals(**{**fields, **changes})


def a_reading(at_s: float, **changes: Any) -> Reading:
    return Reading(some_signals(**changes), at_s)


def a_manifest(*, name: str = "chat", **spec: Any) -> dict[str, Any]:
    """A small emulated service; `spec` replaces whole fields, None drops one."""
    fields: dict[str, Any] = {
        "model": {"uri": "meta-llama/Llama-3.2-1B-Instruct", "servedName": "small"},
        "engine": {"type": "emulated", "maxNumSeqs": 16, "maxModelLen": 4096},
        "slo": {"ttftMs": 1000, "itlMs": 60},
        "workload": {"requestsPerSecond": "2", "inputTokens": 128, "outputTokens": 32},
        "scaling": {"min": 1, "max": 3},
        "placement": {"gpu": "L4"},
        "resilience": {"standbys": 1},
    }
    given = {key: value for key, value in {**fields, **spec}.items() if value is not None}
    return {
        "apiVersion": GROUP_VERSION,
        "kind": "LLMService",
        "metadata": {"name": name},
        "spec": given,
    }
