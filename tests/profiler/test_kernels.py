"""Kernels go to the operator that launched them; the tool runs wherever torch is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from e2e.real_engine.install import PYTHON, REPOSITORY, installed
from profiler.architecture import load_architecture
from profiler.decomposition import DEFAULT, read_measured, take_apart
from profiler.errors import Refused
from profiler.hardware import find_gpu
from profiler.measure import kernels
from profiler.measure.kernels import Kernel, Work, attribute, scaled_up
from profiler.operators import Replica

TINY = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 512,
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}  # fmt: skip
EXPERTS = TINY | {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4,
    "num_experts_per_tok": 2,
}  # fmt: skip


def ranged(name: str, ts: float, dur: float, tid: int = 1) -> dict[str, Any]:
    return {"ph": "X", "cat": "user_annotation", "name": name, "ts": ts, "dur": dur, "tid": tid}


def launch(correlation: int, ts: float, tid: int = 1) -> dict[str, Any]:
    return {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": ts, "dur": 2,
            "tid": tid, "args": {"correlation": correlation}}  # fmt: skip


def kernel(name: str, correlation: int, dur: float) -> dict[str, Any]:
    # on a device a kernel runs long after its launch, outside of the range by time
    return {"ph": "X", "cat": "kernel", "name": name, "ts": 9_000 + correlation, "dur": dur,
            "tid": 7, "args": {"correlation": correlation}}  # fmt: skip


OURS = kernels.RANGE
TRACE = [
    ranged(f"{OURS}projections", 0, 100),
    ranged("ProfilerStep#1", 0, 1_000),
    ranged(f"{OURS}decode attention", 100, 50),
    ranged(f"{OURS}projections", 0, 1_000, tid=2),
    launch(1, 10), launch(2, 60), launch(3, 120), launch(4, 500), launch(5, 20, tid=2),
    kernel("gemm", 1, 300), kernel("gemm", 2, 100), kernel("flash_fwd", 3, 70),
    kernel("unasked", 4, 1_000), kernel("other_gemm", 5, 10), kernel("lost", 99, 5),
    {"ph": "M", "name": "process_name"},
]  # fmt: skip


def test_a_kernel_belongs_to_the_range_of_its_launch() -> None:
    found = attribute(TRACE, repeats=2)
    assert found == (
        Kernel("gemm", "projections", 200e-6),
        Kernel("flash_fwd", "decode attention", 35e-6),
        Kernel("other_gemm", "projections", 5e-6),
    )


def test_the_innermost_range_wins() -> None:
    inner = [ranged(f"{OURS}experts", 5, 10), ranged(f"{OURS}feed-forward", 0, 100)]
    (found,) = attribute([*inner, launch(1, 8), kernel("k", 1, 4)], repeats=1)
    assert found.operator == "experts"


def test_on_a_cpu_outermost_operators_count_once() -> None:
    def call(name: str, ts: float, dur: float) -> dict[str, Any]:
        return {"ph": "X", "cat": "cpu_op", "name": name, "ts": ts, "dur": dur, "tid": 1}

    calls = [call("aten::matmul", 10, 50), call("aten::mm", 12, 40), call("aten::add", 70, 5)]
    found = attribute([ranged(f"{OURS}projections", 0, 100), *calls, call("x", 200, 9)], repeats=1)
    assert {k.name: k.seconds for k in found} == {"aten::matmul": 50e-6, "aten::add": 5e-6}


def test_layers_are_scaled_to_the_model_and_the_head_is_not() -> None:
    two = (Kernel("a", "projections", 1.0), Kernel("b", "output head", 1.0))
    assert [k.seconds for k in scaled_up(two, 32, 4)] == [8.0, 1.0]


@pytest.mark.parametrize(
    ("title", "work"),
    [
        ("prefill 512", Work("prefill 512", prefill=512)),
        ("prefill 512@1024", Work("prefill 512@1024", prefill=512, cached=1024)),
        ("decode 64x1024", Work("decode 64x1024", decodes=64, context=1024)),
        ("mixed 8+2x16", Work("mixed 8+2x16", prefill=8, decodes=2, context=16)),
    ],
)
def test_shapes_are_read(title: str, work: Work) -> None:
    assert Work.of(title) == work


def test_a_shape_that_is_none_is_refused() -> None:
    with pytest.raises(Refused, match="--shapes"):
        Work.of("decode 64")


def test_the_same_shapes_are_the_default_on_both_sides() -> None:
    assert kernels.DEFAULT_SHAPES == DEFAULT


def test_without_torch_it_says_so_in_one_line(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY))
    command = [sys.executable, "-m", "profiler.measure.kernels", f"--model={config}", "-o", "x"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: torch is not installed here: run it with the engine's own Python"
    ]


@pytest.mark.vllm
@pytest.mark.skipif(not installed(), reason="no torch: run python -m e2e.real_engine.install")
@pytest.mark.parametrize("config", [TINY, EXPERTS], ids=["dense", "experts"])
def test_a_tiny_model_runs_on_a_cpu_and_its_operators_are_the_prediction_s(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    file, out = tmp_path / "config.json", tmp_path / "kernels.json"
    file.write_text(json.dumps(config))
    shapes = ["prefill 32", "prefill 16@32", "decode 4x64", "mixed 16+4x64"]
    command = [
        str(PYTHON), "-m", "profiler.measure.kernels", f"--model={file}", "--device=cpu",
        "--layers=2", "--repeats=2", f"--output={out}", "--shapes", *shapes,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = read_measured(out)
    assert table.gpu == "CPU"
    replica = Replica(load_architecture(str(file)), find_gpu("L4"))
    for step in take_apart(replica, shapes, measured=table):
        timed = {row.name for row in step.rows if row.measured_s}
        predicted = {row.name for row in step.rows if row.predicted_s}
        assert predicted - timed == {"overhead"}, step.title
        assert timed <= predicted, step.title
        assert (step.measured_s or 0) > 0
