"""The page has vLLM 0.32's families, and after a known load it tells the truth."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from profiler.emulator import Options

from .emulated import STEP_S, Emulated, emulated, some_limits, until

REAL = Path(__file__).parents[4] / "shared" / "data" / "engine" / "vllm_0.32_metrics.txt"


async def loaded(server: Emulated, requests: int, **body: Any) -> None:
    """Serve that many at once; they all join the same first step."""
    sent = [server.post("/v1/completions", ignore_eos=True, **body) for _ in range(requests)]
    await until(lambda: server.engine.in_flight == requests)
    await server.clock.advance(1e6)
    for answer in sent:
        assert (await answer).status == 200


async def test_a_known_load_is_counted_exactly() -> None:
    async with emulated(limits=some_limits(num_blocks=640)) as server:
        await loaded(server, 5, prompt=list(range(20)), max_tokens=4)
        page = await server.metrics()
    assert page["vllm:prompt_tokens_total"] == page["vllm:request_prompt_tokens_sum"] == 100
    assert page["vllm:generation_tokens_total"] == page["vllm:request_generation_tokens_sum"] == 20
    assert page["vllm:request_success_total{finished_reason=length}"] == 5
    assert page["vllm:iteration_tokens_total_sum"] == 120
    assert page["vllm:inter_token_latency_seconds_count"] == 15
    assert page["vllm:inter_token_latency_seconds_sum"] == pytest.approx(15 * STEP_S)
    assert page["vllm:request_decode_time_seconds_sum"] == pytest.approx(15 * STEP_S)
    assert page["vllm:request_time_per_output_token_seconds_sum"] == pytest.approx(5 * STEP_S)
    assert page["vllm:request_params_max_tokens_sum"] == 20
    for family in ("time_to_first_token", "e2e_request_latency", "request_queue_time",
                   "request_inference_time", "request_prefill_time"):  # fmt: skip
        assert page[f"vllm:{family}_seconds_count"] == 5
    parts = ("request_queue_time", "request_prefill_time", "request_decode_time")
    whole = sum(page[f"vllm:{part}_seconds_sum"] for part in parts)
    assert page["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(whole)
    assert page["http_requests_total{handler=/v1/completions,method=POST,status=2xx}"] == 5


async def test_gauges_show_the_load_under_way() -> None:
    async with emulated(limits=some_limits(max_num_seqs=2)) as server:
        sent = [server.post("/v1/completions", prompt=list(range(100)), max_tokens=9)
                for _ in range(3)]  # fmt: skip
        await until(lambda: server.engine.in_flight == 3)
        await server.clock.advance(1.5 * STEP_S)
        page = await server.metrics()
        await server.clock.advance(1e6)
        for answer in sent:
            await answer
    assert page["vllm:num_requests_running"] == 2
    assert page["vllm:num_requests_waiting"] == 1
    assert page["vllm:num_requests_waiting_by_reason{reason=capacity}"] == 1
    assert 0 < page["vllm:kv_cache_usage_perc"] <= 1


async def test_cache_hits_are_counted_by_source() -> None:
    async with emulated() as server:
        for _ in range(2):
            await loaded(server, 1, prompt=list(range(40)), max_tokens=2)
        page = await server.metrics()
    assert page["vllm:prefix_cache_queries_total"] == 80
    assert page["vllm:prefix_cache_hits_total"] == 32
    assert page["vllm:prompt_tokens_by_source_total{source=local_compute}"] == 48
    assert page["vllm:prompt_tokens_by_source_total{source=local_cache_hit}"] == 32
    assert page["vllm:prompt_tokens_cached_by_source_total{source=device}"] == 32
    assert page["vllm:request_prefill_kv_computed_tokens_sum"] == 48


async def test_preemptions_are_counted_per_request() -> None:
    async with emulated(limits=some_limits(num_blocks=12, prefix_caching=0)) as server:
        await loaded(server, 3, prompt=list(range(40)), max_tokens=60)
        page = await server.metrics()
    assert page["vllm:num_preemptions_total"] > 0
    assert page["vllm:request_num_preemptions_sum"] == page["vllm:num_preemptions_total"]


async def test_the_cache_s_configuration_is_told() -> None:
    async with (
        emulated(gpu_memory_utilization=0.8) as server,
        server.session.get("/metrics") as response,
    ):
        families = text_string_to_metric_families(await response.text())
        info = next(f for f in families if f.name == "vllm:cache_config_info")
    labels = info.samples[0].labels
    assert (labels["num_gpu_blocks"], labels["block_size"]) == ("64", "16")
    assert (labels["kv_cache_size_tokens"], labels["gpu_memory_utilization"]) == ("1024", "0.8")


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data is not here: no real page")
async def test_families_are_those_of_the_real_page() -> None:
    """Types, help, label names and bounds, from the model length that the page was made with."""
    async with emulated(limits=some_limits(num_blocks=32), max_model_len=512) as server:
        await server.completion()
        async with server.session.get("/metrics") as response:
            ours = outline(await response.text())
    real = outline(REAL.read_text(encoding="utf-8"))
    assert ours.keys() == real.keys()
    for name in real:
        assert ours[name] == real[name], name


def outline(page: str) -> dict[str, tuple[object, ...]]:
    """Each family's type, help, and its samples' names, label names and bounds."""
    held: dict[str, tuple[object, ...]] = {}
    for family in text_string_to_metric_families(page):
        shapes = frozenset(
            (s.name, tuple(sorted(s.labels)), s.labels.get("le"), *fixed(s.labels))
            for s in family.samples
        )
        held[family.name] = (family.type, family.documentation, shapes)
    return held


def fixed(labels: dict[str, str]) -> list[str | None]:
    """Values of labels that do not depend on model or load."""
    return [labels.get(name) for name in ("reason", "source", "finished_reason", "sleep_state")]


def test_a_secret_does_not_show_in_the_options() -> None:
    assert "hush" not in repr(Options(model="m", api_key="hush"))
