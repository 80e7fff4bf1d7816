"""Memory against start-up reports; the EngineProfile document there and back."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from profiler.architecture import load_architecture
from profiler.configuration import Configuration
from profiler.document import parse_profile_document, read_profile, to_document
from profiler.errors import DoesNotFit, Refused
from profiler.hardware import GIB, GPUS, Dtype, find_gpu
from profiler.layout import Layout
from profiler.memory import predict_memory
from profiler.profile import resolve_profile

# Published start-up reports of vLLM V1 on an H100 (GiB): weights, KV cache at utilisation 0.9.
REPORTS = [
    ("Llama-3.1-8B-Instruct", 1, 14.99, 51.38),
    ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", 2, 33.88, 32.00),
    ("Qwen3-0.6B", 1, 1.12, 64.45),
    ("Qwen3-32B", 1, 61.03, 4.45),
    ("Qwen3-32B", 2, 30.59, 34.49),
]


@pytest.mark.parametrize(("model", "tp", "weights_gib", "kv_gib"), REPORTS)
def test_memory_meets_published_start_up_reports(model, tp, weights_gib, kv_gib):
    memory = predict_memory(load_architecture(model), find_gpu("H100-SXM"), Layout(tp))
    assert memory.weights_bytes / GIB == pytest.approx(weights_gib, rel=0.01)
    left = memory.kv_bytes(Configuration(tensor_parallel_size=tp)) / GIB
    assert left == pytest.approx(kv_gib, abs=0.2)


def test_what_does_not_fit_says_what_takes_the_room():
    profile = resolve_profile("Llama-3.3-70B-Instruct", "H100-SXM")
    with pytest.raises(DoesNotFit, match=r"weights take 131\.4.*raise tensor_parallel_size"):
        profile.limits(Configuration())


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
    assert (back.uncertainty, back.kv_dtype) == (profile.uncertainty, profile.kv_dtype)
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
