"""Signals mean the same for every engine, and what is missing stays missing."""

from dataclasses import fields

import pytest

from monitor import EngineSignals, Freshness, NotAnEngine, Reading, read_signals
from monitor.aliases import DIALECTS
from tests.monitor.pages import E2E, ITL, TTFT, Engine, vllm


def test_reads_a_vllm_page() -> None:
    engine = (
        vllm({TTFT: [0.05, 0.5], E2E: [0.9, 5.0]})
        .gauge("vllm:num_requests_running", 3)
        .gauge("vllm:num_requests_waiting", 2)
        .gauge("vllm:kv_cache_usage_perc", 0.25)
        .counter("vllm:num_preemptions", 1)
        .counter("vllm:prompt_tokens", 100)
        .counter("vllm:request_success", 4, finished_reason="stop")
        .counter("vllm:request_success", 1, finished_reason="abort")
    )
    seen = read_signals(engine.page())
    assert (seen.engine, seen.model) == ("vllm", "tiny")
    assert (seen.running, seen.waiting, seen.kv_usage_ratio) == (3, 2, 0.25)
    assert (seen.preemptions_total, seen.prompt_tokens_total) == (1, 100)
    assert seen.requests_finished == {"stop": 4, "abort": 1}
    assert seen.ttft is not None
    assert (seen.ttft.bounds[:2], seen.ttft.cumulative) == ((0.1, 1.0), (1, 2, 2))
    assert seen.ttft.sum == pytest.approx(0.55)
    assert seen.malformed == 0


def test_names_what_the_page_lacks() -> None:
    seen = read_signals(vllm().page())
    assert seen.waiting is None
    assert "waiting" in seen.absent
    assert "running" not in seen.absent
    assert all(getattr(seen, name) is None for name in seen.absent)


def test_older_names_mean_the_same() -> None:
    engine = vllm({"vllm:time_per_output_token_seconds": [0.02]})
    seen = read_signals(engine.gauge("vllm:gpu_cache_usage_perc", 0.5).page())
    assert seen.kv_usage_ratio == 0.5
    assert seen.itl is not None
    assert seen.tpot is None


def test_the_newer_name_wins_where_both_are_shown() -> None:
    engine = vllm({"vllm:time_per_output_token_seconds": [5.0] * 3, ITL: [0.02]})
    seen = read_signals(engine.page())
    assert seen.itl is not None
    assert seen.itl.count == 1


@pytest.mark.parametrize("value", [float("nan"), -1.0, float("inf")])
def test_a_gauge_that_cannot_be_is_missing(value: float) -> None:
    seen = read_signals(vllm().gauge("vllm:num_requests_waiting", value).page())
    assert seen.waiting is None
    assert "waiting" in seen.absent


def two_cores(waiting: float = 2) -> bytes:
    return b"".join(
        Engine(core=core)
        .gauge("vllm:num_requests_waiting", count)
        .gauge("vllm:kv_cache_usage_perc", usage)
        .gauge("vllm:cache_config_info", 1, num_gpu_blocks="10", block_size="16")
        .observed(TTFT, [0.05, 0.5])
        .page()
        for core, count, usage in (("0", 1.0, 0.2), ("1", waiting, 0.6))
    )


def test_engine_cores_are_summed() -> None:
    seen = read_signals(two_cores())
    assert seen.waiting == 3
    assert seen.kv_usage_ratio == pytest.approx(0.4)
    assert seen.kv_capacity_tokens == 320
    assert seen.ttft is not None
    assert seen.ttft.cumulative == (2, 4, 4)


def test_one_unknown_core_makes_the_sum_unknown() -> None:
    assert read_signals(two_cores(waiting=float("nan"))).waiting is None


@pytest.mark.parametrize(
    "lines",
    [
        f'{TTFT}_bucket{{le="1"}} 1\n{TTFT}_sum 1\n',
        f'{TTFT}_bucket{{le="1"}} 2\n{TTFT}_bucket{{le="+Inf"}} 1\n{TTFT}_sum 1\n',
        f'{TTFT}_bucket{{le="x"}} 1\n{TTFT}_sum 1\n',
        f"{TTFT}_bucket 1\n{TTFT}_sum 1\n",
        f'{TTFT}_bucket{{le="+Inf"}} NaN\n{TTFT}_sum 1\n',
        f'{TTFT}_bucket{{le="+Inf"}} 1\n',
        f'{TTFT}_bucket{{le="+Inf",e="0"}} 1\n{TTFT}_bucket{{le="+Inf",e="1"}} 1\n{TTFT}_sum 1\n',
    ],
)
def test_a_broken_histogram_is_missing(lines: str) -> None:
    seen = read_signals(lines.encode())
    assert seen.ttft is None
    assert "ttft" in seen.absent


@pytest.mark.parametrize(
    ("labels", "tokens"),
    [
        ({"kv_cache_size_tokens": "3072", "num_gpu_blocks": "9", "block_size": "9"}, 3072),
        ({"num_gpu_blocks": "24", "block_size": "128"}, 3072),
        ({"kv_cache_size_tokens": "None", "num_gpu_blocks": "24", "block_size": "128"}, 3072),
        ({"num_gpu_blocks": "None", "block_size": "128"}, None),
        ({"block_size": "128"}, None),
    ],
)
def test_capacity_comes_from_the_cache_config(labels: dict[str, str], tokens: float | None) -> None:
    page = vllm().gauge("vllm:cache_config_info", 1, **labels).page()
    assert read_signals(page).kv_capacity_tokens == tokens


@pytest.mark.parametrize(("awake", "asleep"), [(1, False), (0, True), (float("nan"), None)])
def test_tells_sleep_from_waking(awake: float, asleep: bool | None) -> None:
    engine = vllm().gauge("vllm:engine_sleep_state", awake, sleep_state="awake")
    engine.gauge("vllm:engine_sleep_state", 0, sleep_state="discard_all")
    assert read_signals(engine.page()).asleep is asleep


def test_reads_an_sglang_page() -> None:
    seen = read_signals(
        b"# HELP sglang:num_running_reqs vllm: is not this engine\n"
        b'sglang:num_running_reqs{model_name="m",tp_rank="0"} 5.0\n'
        b'sglang:num_queue_reqs{model_name="m"} 1.0\n'
        b'sglang:token_usage{model_name="m"} 0.28\n'
        b'sglang:max_total_num_tokens{model_name="m"} 161721.0\n'
        b'sglang:num_requests_total{model_name="m"} 9.0\n'
        b'sglang:num_aborted_requests_total{model_name="m"} 2.0\n'
    )
    assert (seen.engine, seen.model, seen.running, seen.waiting) == ("sglang", "m", 5, 1)
    assert (seen.kv_usage_ratio, seen.kv_capacity_tokens) == (0.28, 161721)
    assert seen.requests_finished == {"unspecified": 9, "abort": 2}
    assert seen.ttft is None


def test_reads_a_tgi_page() -> None:
    seen = read_signals(
        b"tgi_queue_size 4\ntgi_batch_current_size 8\n"
        b'tgi_request_success{method="generate"} 7\n'
        b'tgi_request_failure{err="overloaded"} 1\ntgi_request_failure{err="validation"} 2\n'
        b'tgi_request_input_length_bucket{le="+Inf"} 7\ntgi_request_input_length_sum 70\n'
    )
    assert (seen.engine, seen.model, seen.running, seen.waiting) == ("tgi", None, 8, 4)
    assert seen.requests_finished == {"unspecified": 7, "error": 3}
    assert seen.prompt_tokens_total == 70
    assert seen.prompt_length is not None
    assert seen.prompt_length.mean == 10


@pytest.mark.parametrize("page", [b"", b"process_cpu_seconds_total 7\n", b"# TYPE vllm:x gauge\n"])
def test_another_page_is_refused_with_the_mend(page: bytes) -> None:
    with pytest.raises(NotAnEngine, match="point the scrape at the engine"):
        read_signals(page)


def test_every_alias_is_a_signal_and_carries_its_engines_prefix() -> None:
    names = {f.name for f in fields(EngineSignals)}
    for dialect in DIALECTS:
        assert {*dialect.gauges, *dialect.counters, *dialect.histograms} <= names
        assert all(name.startswith(dialect.prefix.decode()) for name in dialect.wanted)


def test_a_reading_is_fresh_then_stale() -> None:
    reading = Reading(EngineSignals("vllm"), at_s=10.0)
    assert reading.freshness(now_s=15.0, stale_after_s=5.0) is Freshness.FRESH
    assert reading.freshness(now_s=15.1, stale_after_s=5.0) is Freshness.STALE


def test_a_reading_without_signals_is_missing_however_recent() -> None:
    assert Reading(None, 10.0, "refused").freshness(10.0, 5.0) is Freshness.MISSING
    assert Reading(None, None).freshness(10.0, 5.0) is Freshness.MISSING
