"""Architectures against published facts, and configs that are none."""

import json

import pytest

from profiler.architecture import (
    PUBLISHED,
    Precision,
    Weights,
    bundled_models,
    load_architecture,
    parse_config,
    quantised,
    served_as,
)
from profiler.errors import Refused
from profiler.hardware import GIB, Dtype

DENSE = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100}
MOE = {**DENSE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def groups(
    bits: int, kind: str, size: int | None = None, activations: int | None = None
) -> dict[str, object]:
    weights = {"num_bits": bits, "type": kind, "group_size": size}
    inputs = {"num_bits": activations} if activations else None
    group = {"weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


@pytest.mark.parametrize(
    ("model", "billions", "active_billions"),
    [
        ("Llama-3.1-8B-Instruct", 8.03, 6.98),
        ("Llama-3.3-70B-Instruct", 70.55, 68.45),
        ("Qwen3-0.6B", 0.596, 0.44),
        ("Qwen3-32B", 32.76, 31.21),
        ("Qwen3-30B-A3B", 30.53, 2.73),
        ("Mixtral-8x7B-Instruct-v0.1", 46.70, 12.62),
        ("DeepSeek-V3", 671.03, 35.7),
        ("gpt-oss-20b", 20.91, 3.03),
        ("gpt-oss-120b", 116.8, 4.55),
        ("MiniMax-M2.5", 228.7, 9.8),
        ("Qwen3.5-397B-A17B", 396.8, 15.3),
        ("Qwen3-235B-A22B-FP8", 235.1, 20.95),
        ("Kimi-K2-Instruct", 1026.4, 30.5),
        ("Llama-3.1-405B", 405.9, 401.7),
        ("Llama-4-Scout-17B-16E-Instruct", 108.6, 15.1),
        ("Llama-4-Maverick-17B-128E-Instruct", 401.6, 15.1),
        ("GLM-4.5-Air", 106.9, 12.2),
        ("Mistral-Small-3.2-24B-Instruct-2506", 24.01, 22.2),
        ("gemma-3-4b-it", 4.30, 3.21),
    ],
)
def test_parameter_counts_meet_the_model_cards(model, billions, active_billions):
    architecture = load_architecture(model)
    assert architecture.parameters / 1e9 == pytest.approx(billions, rel=0.002)
    assert architecture.active_parameters / 1e9 == pytest.approx(active_billions, rel=0.01)


def test_every_bundled_model_is_read():
    assert len(bundled_models()) >= 12
    for name in bundled_models():
        assert load_architecture(name).weight_bytes > 0
    for (model, _), checkpoint in PUBLISHED.items():
        assert load_architecture(model).parameters == load_architecture(checkpoint).parameters


def test_latent_attention_caches_one_vector_per_layer():
    deepseek = load_architecture("DeepSeek-V3")
    assert deepseek.kv_elements_per_token() == 512 + 64
    assert deepseek.kv_elements_per_token_and_gpu(8) == 576, "every GPU holds it whole"


def test_grouped_queries_share_kv_heads_and_replicate_them_beyond_their_number():
    llama = load_architecture("Llama-3.1-8B-Instruct")
    assert llama.kv_elements_per_token() * 2 * llama.layers == 131072
    assert llama.kv_elements_per_token_and_gpu(4) == 2 * 2 * 128
    assert llama.kv_elements_per_token_and_gpu(16) == 2 * 1 * 128


def test_quantised_weights_take_their_bits():
    fp8 = load_architecture("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic")
    assert fp8.weights.compute is Dtype.FP8
    assert fp8.weight_bytes / GIB == pytest.approx(2 * 33.88, rel=0.01)  # a start-up report
    awq = parse_config("x", {**DENSE, "quantization_config": {"quant_method": "awq", "bits": 4}})
    assert awq.weights.linear_bits == pytest.approx(4.125)
    assert awq.weights.compute is Dtype.BF16


QUANTISED = {
    "fp8": ({"quant_method": "fp8"}, 8.0, Dtype.FP8),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, 8.0, Dtype.FP8),
    "modelopt fp8": ({"quant_method": "modelopt", "quant_algo": "FP8"}, 8.0, Dtype.FP8),
    "modelopt nvfp4": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5, Dtype.FP4),
    "modelopt says no method": ({"quant_algo": "FP8"}, 8.0, Dtype.FP8),
    "compressed fp8": (groups(8, "float", activations=8), 8.0, Dtype.FP8),
    "compressed int8": (groups(8, "int", activations=8), 8.0, Dtype.INT8),
    "compressed w8a16": (groups(8, "int"), 8.0, Dtype.BF16),
    "compressed w4a16": (groups(4, "int", size=128), 4.125, Dtype.BF16),
    "compressed nvfp4": (groups(4, "float", size=16, activations=4), 4.5, Dtype.FP4),
    "gptq by 32": ({"quant_method": "gptq", "bits": 4, "group_size": 32}, 4.5, Dtype.BF16),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5, Dtype.BF16),
}


@pytest.mark.parametrize("dialect", QUANTISED)
def test_every_dialect_of_quantisation_is_read(dialect):
    quantised_by, bits, compute = QUANTISED[dialect]
    weights = parse_config("m", {**DENSE, "quantization_config": quantised_by}).weights
    assert (weights.linear_bits, weights.compute) == (bits, compute)
    assert weights.other_bits == 16


def test_what_a_checkpoint_leaves_alone_keeps_its_bits():
    minimax = load_architecture("nvidia/MiniMax-M2.5-NVFP4").weights
    assert (minimax.linear_bits, minimax.expert_bits) == (16.0, 4.5), "attention is left alone"
    kimi = load_architecture("Kimi-K2.5").weights
    assert (kimi.linear_bits, kimi.expert_bits, kimi.compute) == (16.0, 4.5, Dtype.BF16)
    mixed = load_architecture("nvidia/Kimi-K2.5-NVFP4").weights
    assert 4.5 < mixed.linear_bits < 16, "attention is left alone, the shared expert is not"
    half = {"quant_method": "fp8", "ignore": ["model.layers.0.self_attn", "model.layers.0.mlp"]}
    assert parse_config("m", {**DENSE, "quantization_config": half}).weights.linear_bits == 12


def test_modelopt_may_say_it_in_a_file_of_its_own(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    told = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(told))
    assert load_architecture(str(tmp_path)).weights.linear_bits == 4.5


def test_a_model_is_the_same_in_another_precision():
    qwen = load_architecture("Qwen3-30B-A3B")
    fp8 = quantised(qwen, Precision.FP8)
    assert (fp8.parameters, fp8.weights.expert_bits) == (qwen.parameters, 8.0)
    experts_only = quantised(qwen, Precision.BF16, experts=Precision.NVFP4).weights
    assert experts_only == Weights(16.0, 4.5, 16.0, Dtype.FP4)


@pytest.mark.parametrize(
    ("model", "linear", "experts", "name", "bits"),
    [
        ("Qwen/Qwen3-32B", "", "", "Qwen/Qwen3-32B", 16.0),
        ("Qwen/Qwen3-32B", "fp8", "fp8", "Qwen/Qwen3-32B-FP8", 8.0),
        ("meta-llama/Llama-3.1-70B", "nvfp4", "nvfp4", "meta-llama/Llama-3.1-70B", 4.5),
        ("openai/gpt-oss-120b", "fp4", "nvfp4", "openai/gpt-oss-120b", 4.25),
        ("moonshotai/Kimi-K2.5", "int4_wo", "int4_wo", "moonshotai/Kimi-K2.5", 4.5),
        ("deepseek-ai/DeepSeek-R1", "fp8", "fp8_block", "deepseek-ai/DeepSeek-R1", 8.0),
        ("Qwen/Qwen3.5-397B-A17B", "fp8", "fp8_block", "Qwen/Qwen3.5-397B-A17B-FP8", 8.0),
        ("MiniMaxAI/MiniMax-M2.5", "nvfp4", "nvfp4", "nvidia/MiniMax-M2.5-NVFP4", 4.5),
    ],
)
def test_a_benchmarks_precision_finds_the_checkpoint_it_served(model, linear, experts, name, bits):
    served = served_as(model, linear, experts)
    assert (served.name, served.weights.expert_bits) == (name, bits)


def test_a_precision_nobody_knows_is_refused():
    with pytest.raises(Refused, match="precision: 'fp3' is not one of"):
        served_as("Qwen3-32B", "fp3")


def test_linear_layers_keep_a_state_and_no_cache():
    hybrid = load_architecture("Qwen3.5-397B-A17B")
    assert (hybrid.linear_layers, hybrid.full_attention_layers, hybrid.layers) == (45, 15, 60)
    assert hybrid.linear is not None
    assert hybrid.linear.state_bytes == 4 * 64 * 128 * 128 + 2 * (2 * 16 + 64) * 128 * 3
    by_type = {
        **bundled_models()["Qwen/Qwen3.5-27B"],
        "layer_types": ["linear_attention"] * 60 + ["full_attention"] * 4,
    }
    assert parse_config("m", by_type).linear_layers == 60


def test_experts_may_skip_layers():
    moe = {**MOE, "num_hidden_layers": 8}
    layers: dict[str, tuple[dict[str, object], int]] = {
        "all": ({}, 8),
        "first": ({"first_k_dense_replace": 3}, 5),
        "every other": ({"decoder_sparse_step": 2}, 4),
        "named": ({"mlp_only_layers": [0, 7]}, 6),
    }
    for name, (extra, count) in layers.items():
        experts = parse_config("m", {**moe, **extra}).experts
        assert experts is not None
        assert experts.layers == count, name


def test_unknown_fields_and_nested_text_configs_do_not_matter():
    nested = {"model_type": "m", "vision_config": {}, "text_config": {**DENSE, "torch_dtype": None}}
    assert parse_config("m", {**nested, "surprise": object()}).multimodal
    assert parse_config("m", nested).hidden_size == 64


def test_windows_count_only_their_layers():
    assert load_architecture("gpt-oss-20b").window_layers == 12
    gemma = load_architecture("gemma-3-27b-it")
    assert (gemma.window_tokens, gemma.window_layers, gemma.layers) == (1024, 52, 62)
    unused = parse_config("x", {**DENSE, "sliding_window": 4096, "use_sliding_window": False})
    assert unused.window_layers == 0


def test_a_config_is_read_from_a_folder_and_from_a_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    assert load_architecture(str(tmp_path)).layers == 2
    assert load_architecture(str(tmp_path / "config.json")).head_size == 16


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "has no num_hidden_layers, so it is no language model"),
        ({**DENSE, "hidden_size": -1}, "hidden_size must be an integer ≥ 1, got -1"),
        ({**DENSE, "hidden_size": "64"}, "hidden_size must be an integer ≥ 1, got '64'"),
        ({**DENSE, "num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({**DENSE, "torch_dtype": "int3"}, "torch_dtype 'int3' is not one of"),
        ({**DENSE, "quantization_config": {"quant_method": "magic"}}, "quant_method 'magic'"),
        ({**DENSE, "quantization_config": "fp8"}, "quantization_config must be an object"),
        ({**DENSE, "quantization_config": {"quant_algo": "FP3"}}, "quant_algo 'FP3' is not known"),
        (
            {**DENSE, "quantization_config": {"quant_method": "gptq", "bits": "4"}},
            "bits must be a positive integer, got '4'",
        ),
        (
            {**DENSE, "quantization_config": {"config_groups": {"g": None}}},
            "a group without weights",
        ),
        ({**DENSE, "num_hidden_layers": 0}, "num_hidden_layers must be an integer ≥ 1, got 0"),
        ({**DENSE, "num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10000"),
        ({**DENSE, "num_attention_heads": True}, "num_attention_heads must be an integer"),
        ({**DENSE, "hidden_size": 65}, "65 is no multiple of num_attention_heads 4, and there is"),
        ({**DENSE, "tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({**DENSE, "sliding_window": -4}, "sliding_window must be an integer ≥ 0, got -4"),
        ({**DENSE, "layer_types": ["full_attention"]}, "layer_types must name each of the 2"),
        ({**DENSE, "layer_types": ["mamba"] * 2}, "layer_types 'mamba' is not one of"),
        ({**DENSE, "layer_types": "full"}, "layer_types must name each"),
        ({**MOE, "num_experts_per_tok": 5}, "num_experts_per_tok 5 exceeds the 4 experts"),
        (
            {k: v for k, v in MOE.items() if k != "moe_intermediate_size"},
            "has no moe_intermediate_size",
        ),
        ({**MOE, "mlp_only_layers": 3}, "mlp_only_layers must be a list, got 3"),
        ({**MOE, "decoder_sparse_step": 0}, "decoder_sparse_step must be an integer ≥ 1"),
        ({**DENSE, "kv_lora_rank": 8}, "has no qk_rope_head_dim"),
        ({**DENSE, "hybrid_override_pattern": "M*"}, "hybrid_override_pattern: Mamba layers"),
        ({**DENSE, "index_topk": 2048}, "index_topk: sparse attention"),
    ],
)
def test_a_config_that_is_no_model_names_the_field(config, told):
    with pytest.raises(Refused, match=told):
        parse_config("m", config)


@pytest.mark.parametrize(
    ("content", "told"), [("{", "is not JSON"), ("[]", "holds no JSON object")]
)
def test_a_broken_file_is_told(tmp_path, content, told):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Refused, match=told):
        load_architecture(str(tmp_path))


def test_a_missing_file_and_an_unknown_name_are_told(tmp_path):
    with pytest.raises(Refused, match=r"cannot read .*config\.json"):
        load_architecture(str(tmp_path))
    with pytest.raises(Refused, match=r"neither a folder with a config\.json nor a bundled model"):
        load_architecture("nobody/nothing")
