"""What may be chosen, and what an engine would refuse."""

from dataclasses import replace

import pytest

from profiler.architecture import load_architecture
from profiler.configuration import Configuration, Quantization
from profiler.errors import Refused
from profiler.hardware import find_gpu
from profiler.layout import Layout
from profiler.operators import KvDtype
from recommender import Pins
from recommender.space import Variant, batchings, plain, refusal, variants
from tests.recommender.builders import a_profile, a_workload

DENSE = load_architecture("Llama-3.1-8B-Instruct")
EXPERTS = load_architecture("mistralai/Mixtral-8x7B-Instruct-v0.1")
BLOCKS = load_architecture("Qwen/Qwen3-235B-A22B-FP8")
H100, A100 = find_gpu("H100-SXM"), find_gpu("A100-80GB")


def layouts(name: str, pins: Pins | None = None, node_gpus: int = 8) -> set[Layout]:
    found, _ = variants(load_architecture(name), H100, pins or Pins(), node_gpus)
    return {variant.layout for variant in found}


@pytest.mark.parametrize("node_gpus", [1, 2, 4, 8])
def test_no_replica_is_larger_than_a_node(node_gpus: int) -> None:
    found = layouts("Llama-3.1-8B-Instruct", node_gpus=node_gpus)
    assert found
    assert max(layout.gpus for layout in found) == node_gpus


def test_a_dense_model_shares_no_experts() -> None:
    assert all(layout.data == 1 and not layout.expert for layout in layouts(DENSE.name))


def test_a_mixture_may_share_its_experts_in_both_ways() -> None:
    found = layouts(EXPERTS.name)
    assert Layout(2, 1, 4) in found
    assert Layout(2, 1, 4, expert=True) in found
    assert Layout(1, expert=True) not in found  # one GPU has nothing to share
    assert not any(layout.pipeline > 1 and layout.data > 1 for layout in found)


def test_a_pin_leaves_what_agrees_with_it() -> None:
    found = layouts(EXPERTS.name, Pins(tensor_parallel_size=2, enable_expert_parallel=True))
    assert found
    assert all(layout.tensor == 2 and layout.expert for layout in found)


@pytest.mark.parametrize(
    ("pins", "told"),
    [
        (Pins(tensor_parallel_size=16), "tensor_parallel_size 16: asks for 16 GPUs a replica"),
        (Pins(tensor_parallel_size=4, pipeline_parallel_size=4), "asks for 16 GPUs"),
    ],
)
def test_pins_that_no_node_can_hold_are_refused_by_name(pins: Pins, told: str) -> None:
    with pytest.raises(Refused, match=told):
        variants(DENSE, H100, pins, 8)


def test_formats_are_chosen_only_among_those_allowed() -> None:
    plain_ways, _ = variants(DENSE, H100, Pins(), 1)
    every, _ = variants(
        DENSE, H100, Pins(kv_cache_dtypes=tuple(KvDtype), quantizations=tuple(Quantization)), 1
    )
    assert {(v.kv_dtype, v.quantization) for v in plain_ways} == {(KvDtype.AUTO, Quantization.NONE)}
    assert len(every) == 4 * len(plain_ways)


@pytest.mark.parametrize(
    ("variant", "told"),
    [
        (Variant(Layout(), KvDtype.FP8), "kv_cache_dtype: fp8 needs a GPU that computes in FP8"),
        (Variant(Layout(), quantization=Quantization.FP8), "quantization: fp8 needs a GPU"),
        (Variant(Layout(3)), "3 does not divide the 32 attention heads"),
    ],
)
def test_what_the_engine_would_refuse_is_told_in_a_line(variant: Variant, told: str) -> None:
    line = refusal(DENSE, A100, variant)
    assert line is not None
    assert told in line
    assert "\n" not in line


def test_a_quantised_checkpoint_is_not_quantised_again() -> None:
    line = refusal(BLOCKS, H100, Variant(Layout(4), quantization=Quantization.FP8))
    assert line == f"quantization: {BLOCKS.name} is quantised already"


def test_a_slice_of_a_matrix_must_be_whole_quantisation_blocks() -> None:
    """1,536 over 8 GPUs are 192, no multiple of 128: vLLM stops; whole experts per GPU fit."""
    line = refusal(BLOCKS, H100, Variant(Layout(8)))
    assert line is not None
    assert "no multiple of its quantisation blocks of 128" in line
    assert refusal(BLOCKS, H100, Variant(Layout(8, expert=True))) is None
    assert refusal(BLOCKS, H100, Variant(Layout(4))) is None


def test_key_value_heads_are_shared_out_or_copied_evenly() -> None:
    odd = replace(DENSE, heads=24, kv_heads=6)
    assert refusal(odd, H100, Variant(Layout(2))) is None
    line = refusal(odd, H100, Variant(Layout(4)))
    assert line is not None
    assert "neither divides the 6 key-value heads" in line


def test_batch_limits_keep_the_engines_rules() -> None:
    start = plain(a_profile(), a_workload(), Pins())
    found = batchings(start, Pins())
    assert found[0] == start
    assert len(set(found)) == len(found) > 50
    for one in found:
        assert one.max_num_batched_tokens >= one.max_num_seqs
        if not one.enable_chunked_prefill:
            assert one.max_num_batched_tokens >= (one.max_model_len or 0)


def test_pinned_batch_limits_leave_one_choice() -> None:
    pins = Pins(
        max_num_seqs=32, max_num_batched_tokens=2048, gpu_memory_utilization=0.8,
        enable_chunked_prefill=True,
    )  # fmt: skip
    start = plain(a_profile(), a_workload(), pins)
    assert batchings(start, pins) == [start]
    assert pins.allow(start)


def test_what_is_pinned_decides_what_may_go_on_running() -> None:
    running = Configuration(max_num_seqs=64)
    assert Pins().allow(running)
    assert Pins(max_num_seqs=64).allow(running)
    assert not Pins(max_num_seqs=32).allow(running)
    assert not Pins(tensor_parallel_size=2).allow(running)
    assert not Pins(kv_cache_dtypes=(KvDtype.FP8,)).allow(running)
