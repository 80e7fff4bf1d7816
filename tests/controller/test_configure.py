"""The configuration of a service: pinned, recommended, kept, and changed for a reason."""

from dataclasses import replace
from typing import Any

import pytest

from controller.api import parse_service
from controller.api.llmservice import LLMServiceSpec
from controller.configure import Choice, InForce, Origin, choose, offers_of, pins_of
from profiler.configuration import Configuration, Quantization
from profiler.errors import Refused
from profiler.operators import KvDtype
from profiler.slo import Slo
from recommender import workload_from_hints
from tests.controller.builders import a_manifest, a_profile

SLO = Slo(ttft_s=1.0, itl_s=0.05)
WORKLOAD = workload_from_hints(20.0, 512, 128)
MODEL = {"uri": "meta-llama/Llama-3.2-1B-Instruct"}


def spec(**changes: Any) -> LLMServiceSpec:
    fields = {"model": MODEL, "placement": {"gpu": "L4"}, "engine": {"type": "vllm"}, **changes}
    return parse_service(a_manifest(**fields), "here").spec


def chosen(in_force: InForce | None = None, **changes: Any) -> Choice:
    return choose(spec(**changes), {}, WORKLOAD, SLO, in_force)


@pytest.fixture(scope="module")
def first() -> Choice:
    return chosen()


def test_what_is_open_is_recommended_with_its_reason(first: Choice) -> None:
    assert first.origin is Origin.RECOMMENDED
    assert first.message.startswith("L4 TP1 carries ")
    assert " binds; " in first.message


def test_what_runs_is_kept_while_nothing_is_clearly_better(first: Choice) -> None:
    running = replace(first.candidate.configuration, max_num_seqs=300)
    kept = chosen(InForce("L4", running))
    assert kept.origin is Origin.KEPT
    assert kept.candidate.configuration == running


def test_what_is_clearly_worse_is_replaced(first: Choice) -> None:
    poor = replace(first.candidate.configuration, max_num_seqs=1)
    found = chosen(InForce("L4", poor))
    assert found.origin is Origin.RECOMMENDED
    assert found.candidate.configuration == first.candidate.configuration


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": {"type": "vllm", "maxNumSeqs": 64}},
        {"engine": {"type": "vllm", "prefixCaching": "Disabled"}},
        {"placement": {"gpu": "L40S"}},
    ],
)
def test_what_the_spec_forbids_is_not_kept(first: Choice, changes: dict[str, Any]) -> None:
    running = replace(first.candidate.configuration, max_num_seqs=300)
    assert chosen(InForce("L4", running), **changes).origin is Origin.RECOMMENDED


def test_what_would_not_start_is_not_kept(first: Choice) -> None:
    impossible = replace(first.candidate.configuration, gpu_memory_utilization=0.05)
    assert chosen(InForce("L4", impossible)).origin is Origin.RECOMMENDED


def test_pins_are_read_from_the_manifest() -> None:
    engine = {
        "type": "vllm", "tensorParallelSize": 2, "pipelineParallelSize": 2, "dataParallelSize": 1,
        "expertParallel": "Disabled", "kvCacheDtype": "any", "quantization": "fp8",
        "chunkedPrefill": "Enabled", "prefixCaching": "Disabled", "maxNumSeqs": 8,
        "gpuMemoryUtilizationPercent": 80,
    }  # fmt: skip
    pins = pins_of(spec(engine=engine).engine)
    assert (pins.tensor_parallel_size, pins.pipeline_parallel_size) == (2, 2)
    assert pins.enable_expert_parallel is False
    assert (pins.enable_chunked_prefill, pins.enable_prefix_caching) == (True, False)
    assert pins.kv_cache_dtypes == (KvDtype.AUTO, KvDtype.FP8)
    assert pins.quantizations == (Quantization.FP8,)
    assert (pins.max_num_seqs, pins.gpu_memory_utilization) == (8, 0.8)


def test_the_emulated_engine_has_one_scheduler() -> None:
    assert pins_of(spec(engine={"type": "emulated"}).engine).data_parallel_size == 1
    assert pins_of(spec().engine).data_parallel_size is None


def test_the_cheapest_of_several_gpu_types_is_taken() -> None:
    gpus = [{"gpu": "H100-SXM", "pricePerHour": "4"}, {"gpu": "L4", "pricePerHour": "0.8"}]
    placement = {"gpus": gpus, "nodeGpus": 2}
    offers = offers_of(spec(placement=placement).placement)
    assert [(o.gpu, o.price_per_hour, o.node_gpus) for o in offers] == [
        ("H100-SXM", 4.0, 2), ("L4", 0.8, 2),
    ]  # fmt: skip
    assert chosen(placement=placement).candidate.profile.gpu == "L4"


@pytest.mark.parametrize(
    ("placement", "told"),
    [
        ({}, "give gpu or gpus, and not both"),
        ({"gpu": "L4", "gpus": [{"gpu": "L40S"}]}, "give gpu or gpus, and not both"),
        ({"gpus": [{"gpu": "L4"}], "profile": "p"}, "a profile is for one GPU type"),
    ],
)
def test_gpus_are_named_in_one_way(placement: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told):
        spec(placement=placement)


def test_a_named_profile_is_predicted_with_and_kept() -> None:
    profiles = {"mine": a_profile()}
    placement = {"gpu": "L4", "profile": "mine"}
    workload = workload_from_hints(2.0, 128, 32)
    found = choose(spec(placement=placement), profiles, workload, SLO)
    assert found.candidate.profile == profiles["mine"]
    in_force = InForce("L4", found.candidate.configuration)
    again = choose(spec(placement=placement), profiles, workload, SLO, in_force)
    assert again.origin is Origin.KEPT
    assert again.candidate.configuration == found.candidate.configuration


def test_a_configuration_is_what_replicas_run_and_on_what() -> None:
    assert InForce("L4", Configuration()) != InForce("L40S", Configuration())
    assert InForce("L4", Configuration()) == InForce("L4", Configuration())
