"""Architectures against published facts, and configs that are none."""

import json

import pytest

from profiler.architecture import bundled_models, load_architecture, parse_config
from profiler.errors import Refused
from profiler.hardware import GIB, Dtype

DENSE = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100}


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
