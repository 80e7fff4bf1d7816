"""The analytical step cost: sums of operators, monotone, and sensible about hardware."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.analytical import analytical_cost
from profiler.architecture import load_architecture
from profiler.hardware import find_gpu
from profiler.layout import Layout
from profiler.operators import Replica, decompose
from profiler.scheduler import Shape
from profiler.step_cost import step_s


def replica(model: str = "Llama-3.1-8B-Instruct", gpu: str = "H100-SXM", tp: int = 1) -> Replica:
    return Replica(load_architecture(model), find_gpu(gpu), Layout(tp))


def prefill(tokens: int) -> Shape:
    pairs = tokens * tokens / 2
    return Shape(tokens, 1, 1, pairs, pairs, 0.0, 0.0)


def decode(sequences: int, context: int) -> Shape:
    kv = float(sequences * context)
    return Shape(sequences, sequences, 0, 0.0, 0.0, kv, kv)


@pytest.mark.parametrize(
    ("model", "tp"),
    [
        ("Llama-3.1-8B-Instruct", 1),
        ("Llama-3.3-70B-Instruct", 4),
        ("Mixtral-8x7B-Instruct-v0.1", 2),
        ("DeepSeek-V3", 8),
        ("gpt-oss-20b", 1),
    ],
)
@pytest.mark.parametrize("shape", [prefill(4096), decode(1, 500), decode(64, 2000)])
def test_the_constants_price_a_step_as_the_sum_of_its_operators(model, tp, shape):
    whole = step_s(analytical_cost(replica(model, tp=tp)), shape)
    parts = sum(operator.seconds for operator in decompose(replica(model, tp=tp), shape))
    # between its points the dense curve is a straight line, where a roofline has a knee
    assert whole == pytest.approx(parts, rel=0.03)


shapes = st.builds(
    Shape,
    tokens=st.integers(1, 20_000),
    sequences=st.integers(1, 512),
    prefill_sequences=st.integers(0, 8),
    prefill_token_pairs=st.floats(0, 1e9),
    prefill_window_token_pairs=st.floats(0, 1e8),
    kv_tokens=st.floats(0, 1e7),
    kv_window_tokens=st.floats(0, 1e6),
    prefill_kv_tokens=st.floats(0, 1e7),
    longest_chunk_tokens=st.integers(0, 20_000),
)


@given(shapes, st.sampled_from(Shape._fields), st.integers(1, 1000))
def test_a_larger_step_never_costs_less(shape, name, more):
    shape = shape._replace(sequences=max(shape.sequences, shape.prefill_sequences))
    larger = shape._replace(**{name: getattr(shape, name) + more})
    if name == "prefill_sequences":  # more of them, and not instead of decodes
        larger = larger._replace(sequences=shape.sequences + more)
    for model in ("Llama-3.1-8B-Instruct", "gpt-oss-20b"):
        cost = analytical_cost(replica(model))
        cost = cost._replace(mixed_sequence_s=1e-5, padded_query_s=1e-8, prefill_kv_s=1e-9)
        assert step_s(cost, larger) >= step_s(cost, shape)


def test_decode_is_bound_by_bandwidth_and_prefill_by_compute():
    h100, h200 = analytical_cost(replica()), analytical_cost(replica(gpu="H200"))
    assert step_s(h200, decode(8, 4000)) < 0.85 * step_s(h100, decode(8, 4000))
    assert step_s(h200, prefill(8192)) == pytest.approx(step_s(h100, prefill(8192)), rel=0.01)


def test_decode_attention_is_dearer_in_a_step_that_prefills_too():
    cost = analytical_cost(replica())
    pure, mixed = decode(64, 4000), decode(64, 4000)._replace(prefill_sequences=1)
    assert step_s(cost, mixed) - step_s(cost, pure) == pytest.approx(
        (cost.mixed_kv_ratio - 1) * cost.kv_token_s * 64 * 4000
    )


def test_tensor_parallelism_trades_messages_for_less_work_per_gpu():
    alone, four = (
        replica("Llama-3.3-70B-Instruct", "H200", 1),
        replica("Llama-3.3-70B-Instruct", "H200", 4),
    )
    assert step_s(analytical_cost(four), decode(16, 2000)) < step_s(
        analytical_cost(alone), decode(16, 2000)
    )
    messages = {o.name: o for o in decompose(four, decode(16, 2000))}["all-reduce"]
    assert messages.message_bytes == pytest.approx(2 * 80 * 2 * 3 / 4 * 16 * 8192 * 2)


def test_sliding_windows_stop_the_growth_of_attention():
    cost = analytical_cost(replica("gpt-oss-20b"))
    short, long = Shape(1, 1, 0, 0, 0, 1000, 128), Shape(1, 1, 0, 0, 0, 50_000, 128)
    assert step_s(cost, long) - step_s(cost, short) == pytest.approx(cost.kv_token_s * 49_000)


def test_a_small_batch_of_a_mixture_reads_few_experts():
    mixture = replica("Qwen3-30B-A3B")
    one, many = mixture.experts(decode(1, 100)), mixture.experts(decode(256, 100))
    assert one.read_bytes == pytest.approx(mixture.architecture.expert_bytes * 8 / 128)
    assert many.read_bytes == pytest.approx(mixture.architecture.expert_bytes, rel=1e-6)
