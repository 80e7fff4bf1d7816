"""Memory against start-up reports; the EngineProfile document there and back."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from profiler.architecture import bundled_models, load_architecture, parse_config
from profiler.configuration import Configuration
from profiler.document import parse_profile_document, read_profile, to_document
from profiler.errors import DoesNotFit, Refused
from profiler.hardware import GIB, GPUS, Dtype, find_gpu
from profiler.layout import ONE_GPU, Layout
from profiler.memory import EngineMemory, predict_memory
from profiler.profile import resolve_profile

# Published start-up reports of vLLM V1 on an H100 (GiB): weights, KV cache at utilisation 0.9.
REPORTS = [
    ("Llama-3.1-8B-Instruct", 1, 14.99, 51.38),
    ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", 2, 33.88, 32.00),
    ("Qwen3-0.6B", 1, 1.12, 64.45),
    ("Qwen3-32B", 1, 61.03, 4.45),
    ("Qwen3-32B", 2, 30.59, 34.49),
    ("gpt-oss-20b", 1, 13.47, 50.28),
]


@pytest.mark.parametrize(("model", "tp", "weights_gib", "kv_gib"), REPORTS)
def test_memory_meets_published_start_up_reports(model, tp, weights_gib, kv_gib):
    memory = predict_memory(load_architecture(model), find_gpu("H100-SXM"), Layout(tp))
    assert memory.weights_bytes / GIB == pytest.approx(weights_gib, rel=0.005)
    # vLLM's defaults on cards of 70 GiB or more
    asked = Configuration(tp, max_num_seqs=1024, max_num_batched_tokens=8192)
    left = memory.kv_bytes(asked) / GIB
    assert left == pytest.approx(kv_gib, abs=0.08)


def memory_of(model: str, layout: Layout = ONE_GPU, gpu: str = "H200") -> EngineMemory:
    return predict_memory(load_architecture(model), find_gpu(gpu), layout)


def test_the_peak_is_the_sampler_at_many_sequences_and_the_forward_pass_at_few():
    memory = memory_of("Llama-3.1-8B-Instruct")
    many = memory.activation_bytes(Configuration(max_num_seqs=1024))
    assert many / GIB == pytest.approx(4.76, abs=0.02)  # a start-up report
    few = Configuration(max_num_seqs=8, max_num_batched_tokens=8192)
    assert memory.activation_bytes(few) == pytest.approx(2 * (2 * 4096 + 3 * 14336) * 8192)


def test_mxfp4_experts_take_what_the_kernels_of_each_generation_pad_them_to():
    plain = load_architecture("gpt-oss-120b").weight_bytes
    h100, b200, l40s = (
        memory_of("gpt-oss-120b", gpu=gpu).weights_bytes for gpu in ("H100-SXM", "B200", "L40S")
    )
    assert h100 / GIB == pytest.approx(64.38, abs=0.1)  # a start-up report
    assert plain < h100 < l40s < b200, "2880 is rounded to 3072 on both sides"


def test_windowed_layers_hold_their_window_and_linear_layers_a_state():
    gemma, llama = memory_of("gemma-3-27b-it"), memory_of("Llama-3.1-8B-Instruct")
    per_layer = 2 * 16 * 128 * 2
    assert gemma.kv_bytes_per_token == 10 * per_layer
    assert gemma.kv_bytes_per_sequence == 52 * per_layer * 1024
    hybrid = memory_of("Qwen3.5-27B")
    assert hybrid.kv_bytes_per_token == 16 * 2 * 4 * 256 * 2
    assert hybrid.kv_bytes_per_sequence == load_architecture("Qwen3.5-27B").state_bytes_per_sequence
    assert llama.kv_bytes_per_sequence == 0


@given(st.floats(64, 100_000), st.sampled_from(["gemma-3-27b-it", "Qwen3.5-27B", "gpt-oss-20b"]))
def test_longer_sequences_share_no_fewer_blocks(tokens, model):
    memory, configuration = memory_of(model), Configuration()
    few = memory.kv_blocks(configuration, tokens)
    assert few <= memory.kv_blocks(configuration, 2 * tokens)
    held = few * configuration.block_size / tokens  # sequences of that length
    bytes_held = held * (tokens * memory.kv_bytes_per_token + memory.kv_bytes_per_sequence)
    assert bytes_held <= memory.kv_bytes(configuration) * (1 + 1e-9)


def test_a_model_windowed_in_every_layer_pays_by_the_token():
    config = {**bundled_models()["mistralai/Mistral-7B-Instruct-v0.3"], "sliding_window": 4096}
    memory = predict_memory(parse_config("m", config), find_gpu("H200"))
    assert (memory.kv_bytes_per_token, memory.kv_bytes_per_sequence) == (131072, 0)


@pytest.mark.parametrize(
    ("layout", "gib"),
    [
        (Layout(8), 78.4),
        (Layout(8, expert=True), 78.4),
        (Layout(1, data=8, expert=True), 93.8),  # attention and tables whole on each
        (Layout(4, pipeline=2), 79.6),  # 31 of 61 layers
    ],
)
def test_layouts_share_the_weights_out(layout, gib):
    assert memory_of("DeepSeek-R1", layout).weights_bytes / GIB == pytest.approx(gib, abs=0.1)


@given(
    st.sampled_from(["Llama-3.1-8B-Instruct", "gpt-oss-20b", "Qwen3.5-35B-A3B", "gemma-3-27b-it"]),
    st.sampled_from([1, 2, 4]),
)
def test_more_gpus_never_hold_more_each(model, tp):
    less, more = memory_of(model, Layout(tp)), memory_of(model, Layout(2 * tp))
    for name in ("weights_bytes", "kv_bytes_per_token", "kv_bytes_per_sequence"):
        assert getattr(more, name) <= getattr(less, name)
    few, many = Configuration(max_num_seqs=16), Configuration(max_num_seqs=64)
    assert less.kv_bytes(many) <= less.kv_bytes(few)


def test_what_does_not_fit_says_what_takes_the_room():
    profile = resolve_profile("Llama-3.3-70B-Instruct", "H100-SXM")
    with pytest.raises(DoesNotFit, match=r"weights take 131\.4.*raise tensor_parallel_size"):
        profile.limits(Configuration())


def test_a_peak_too_high_says_which_option_lowers_it():
    profile = resolve_profile("Qwen3-32B", "H100-SXM")
    with pytest.raises(DoesNotFit, match=r"lower max_num_seqs from 2048, or raise tensor_par"):
        profile.limits(Configuration(max_num_seqs=2048, max_num_batched_tokens=8192))
    with pytest.raises(DoesNotFit, match="lower max_num_batched_tokens from 131072"):
        profile.limits(Configuration(max_num_seqs=1, max_num_batched_tokens=131072))


def test_a_cache_too_small_for_one_sequence_says_the_length_that_would_do():
    profile = resolve_profile("Llama-3.1-8B-Instruct", "A10G")
    with pytest.raises(DoesNotFit, match=r"set max_model_len to (\d+) or less") as told:
        profile.limits(Configuration(max_num_batched_tokens=2048, max_num_seqs=64))
    fits = int(str(told.value).split("set max_model_len to ")[1].split()[0])
    profile.limits(Configuration(max_num_batched_tokens=2048, max_num_seqs=64, max_model_len=fits))


@pytest.mark.parametrize(
    ("gpu", "tp", "told"),
    [
        ("H100", 1, "did you mean H100-SXM or H100-PCIe"),
        ("L40", 1, "did you mean L40S"),
        ("abacus", 1, "known: A100-40GB"),
        ("H100-SXM", 3, "does not divide the 32 attention heads"),
        ("H100-SXM", 16, "exceeds the 8 H100-SXM that one node joins"),
    ],
)
def test_what_no_cluster_has_is_refused_with_a_hint(gpu, tp, told):
    with pytest.raises(Refused, match=told):
        resolve_profile("Llama-3.1-8B-Instruct", gpu, Layout(tp))


def test_the_catalogue_is_complete_and_ordered_as_the_market_is():
    wanted = {
        "A100-40GB", "A100-80GB", "H100-SXM", "H100-PCIe", "H200", "B200", "L40S", "A10G", "L4",
        "RTX-4090", "RTX-PRO-6000",
    }  # fmt: skip
    assert wanted <= set(GPUS)
    assert all(gpu.source and gpu.memory_bytes > 20 * GIB for gpu in GPUS.values())
    assert find_gpu("nvidia-h200").flops(Dtype.FP8) > find_gpu("a100-80gb").flops(Dtype.BF16)
    assert find_gpu("A100-80GB").flops(Dtype.FP8) == find_gpu("A100-80GB").flops(Dtype.BF16)


@given(
    st.sampled_from(["Llama-3.1-8B-Instruct", "gpt-oss-20b", "DeepSeek-V3", "Qwen3-30B-A3B"]),
    st.sampled_from(sorted(GPUS)),
    st.sampled_from([1, 2, 4, 8]),
)
def test_a_document_reads_back_as_the_profile_it_was_written_from(model, gpu, tp):
    profile = resolve_profile(model, gpu, Layout(tp))
    back = parse_profile_document(to_document(profile, "p"), "here")
    for name, value in profile.cost._asdict().items():
        assert getattr(back.cost, name) == pytest.approx(value, rel=1e-8)
    assert back.uncertainty.array() == pytest.approx(profile.uncertainty.array())
    assert back.kv_dtype is profile.kv_dtype
    assert back.memory.weights_bytes == pytest.approx(profile.memory.weights_bytes, rel=1e-8)
    assert (back.model, back.gpu, back.tensor_parallel_size) == (profile.model, gpu, tp)
    assert back.start_up_s == pytest.approx(profile.start_up_s, abs=1e-3)


def test_a_profile_is_read_from_a_file_or_given_inline(tmp_path):
    document = to_document(resolve_profile("Llama-3.1-8B-Instruct", "L4"), "p")
    file = tmp_path / "profile.yaml"
    file.write_text(yaml.safe_dump(document))
    assert read_profile(str(file)) == read_profile(
        yaml.safe_dump(document, default_flow_style=True)
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "Other"}, "holds no EngineProfile"),
        ({"spec": {}}, r"spec\.model: Field required"),
        ({"spec": {"stepCost": {"stepOverheadS": "-1"}}}, r"spec\.stepCost\.stepOverheadS"),
        ({"spec": {"surprise": 1}}, r"spec\.surprise: Extra inputs"),
        ({"spec": {"maxModelLen": 0}}, r"spec\.maxModelLen: Input should be greater than 0"),
    ],
)
def test_a_broken_document_names_the_field(tmp_path, change, told):
    document = to_document(resolve_profile("Llama-3.1-8B-Instruct", "L4"), "p")
    spec = change.pop("spec", None)
    document |= change
    if spec == {}:
        document["spec"] = {}
    elif spec is not None:
        for key, value in spec.items():
            old = document["spec"].get(key)
            document["spec"][key] = {**old, **value} if isinstance(old, dict) else value
    file = tmp_path / "profile.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(Refused, match=told):
        read_profile(str(file))


def test_a_missing_profile_file_is_told():
    with pytest.raises(Refused, match=r"cannot read /nowhere\.yaml"):
        read_profile("/nowhere.yaml")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size must be at least 1"),
        ({"gpu_memory_utilization": 1.2}, r"must lie in \(0, 1\]"),
        ({"max_num_seqs": 512, "max_num_batched_tokens": 256}, "must be at least max_num_seqs"),
    ],
)
def test_a_configuration_no_engine_starts_with_is_refused(options, told):
    with pytest.raises(Refused, match=told):
        Configuration(**options)
