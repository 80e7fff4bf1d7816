"""The memory of a measured profile holds what the engine says it holds."""

from dataclasses import replace

import pytest

from profiler.architecture import load_architecture
from profiler.configuration import Configuration
from profiler.measure.profiling import CacheFacts
from profiler.measure.profiling.memory import generic_memory, measured_memory
from profiler.profile import resolve_profile

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
PRIOR = resolve_profile(MODEL, "H100-SXM").memory
CONFIGURATION = Configuration(max_num_batched_tokens=4096)


@pytest.mark.parametrize("tokens", [300_000, 400_000, 436_000, 480_000])
def test_blocks_are_the_engine_s(tokens: int) -> None:
    cache = CacheFacts(capacity_tokens=tokens, gpu_memory_utilization=0.9)
    memory, notes = measured_memory(PRIOR, cache, 4096)
    assert memory.kv_blocks(CONFIGURATION) == pytest.approx(tokens / 16, abs=1)
    assert min(memory.non_torch_bytes, memory.activation_bytes_per_batched_token) >= 0
    assert bool(notes) == (memory.weights_bytes < PRIOR.weights_bytes)


def test_an_overridden_or_unknown_cache_leaves_the_prior() -> None:
    for cache in (CacheFacts(), CacheFacts(capacity_tokens=512, blocks_overridden=True)):
        memory, notes = measured_memory(PRIOR, cache, 4096)
        assert memory == PRIOR
        assert notes


def test_an_unknown_card_has_room_for_what_its_engine_reports() -> None:
    cache = CacheFacts(capacity_tokens=43_680, block_tokens=32, gpu_memory_utilization=0.92)
    configuration = replace(CONFIGURATION, block_size=32, gpu_memory_utilization=0.92)
    for architecture in (None, load_architecture(MODEL)):
        memory = generic_memory(architecture, cache)
        assert memory.kv_blocks(configuration) == 43_680 // 32


def test_without_an_architecture_the_cache_s_own_size_says_what_a_token_takes() -> None:
    cache = CacheFacts(capacity_tokens=1000, cache_bytes=24_576_000)
    assert generic_memory(None, cache).kv_bytes_per_token == 24_576
