"""Step cost from kernels that NVIDIA measured on the same GPU type.

The optional package `aiconfigurator-core` (Apache-2.0, `pip install 'whaleflux[kernels]'`)
holds tables of kernel times and answers what one engine step takes, operator by operator; it
is asked at some two hundred shapes (`kernel_fit`), which takes about a second. It is imported
here alone, and only when it is asked; what it raises becomes `Refused`.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from profiler.architecture import Architecture
from profiler.errors import Refused
from profiler.estimate import DATA_SHEET, GROUPS, Estimate, Uncertainty, scaled
from profiler.hardware import Dtype, find_gpu
from profiler.operators import KvDtype, Replica
from profiler.sources.kernel_fit import Answer, Kernels, fit_kernels

_EXTRA = "pip install 'whaleflux[kernels]'"

_SYSTEMS = {
    "A100-80GB": "a100_sxm", "H100-SXM": "h100_sxm", "H100-PCIe": "h100_pcie", "H200": "h200_sxm",
    "B200": "b200_sxm", "L40S": "l40s", "L4": "l4", "RTX-PRO-6000": "rtx_pro_6000_server",
}  # fmt: skip
_NEAREST = {"A100-40GB": "A100-80GB"}
"""GPUs that the database lacks, and the one of the same chip whose kernels are scaled.

Scaling from another chip was tried and is worse than the plain data sheet: an RTX 4090 from an
L40S missed a recorded run's latency by 40 %, from an RTX PRO 6000 by 20 %, where the data sheet
alone missed it by 9 %.
"""
_PROBE_TOKENS = 1024
ENGINES = {"vllm": "vllm", "sglang": "sglang", "tensorrt-llm": "trtllm"}


def kernel_database_estimate(
    replica: Replica, engine: str = "vllm"
) -> tuple[Estimate, tuple[str, ...]]:
    """Constants from the database's kernels, and notes on what it did not know.

    A GPU that it lacks is scaled from its nearest kin by their data sheets, with a note and a
    wider error. Raises `Refused`, one line, where the package is absent, or where it knows
    neither the GPU nor the model.
    """
    known = _NEAREST.get(replica.gpu.name, replica.gpu.name)
    if known not in _SYSTEMS:
        raise Refused(
            f"kernel database: has no {replica.gpu.name} (it has {', '.join(_SYSTEMS)}); "
            "use another source"
        )
    if engine not in ENGINES:
        raise Refused(f"kernel database: engine {engine!r} is not one of {', '.join(ENGINES)}")
    asked = replace(replica, gpu=find_gpu(known))
    kernels, notes = open_database(asked, ENGINES[engine])
    estimate, more = fit_kernels(asked, kernels)
    if known != replica.gpu.name:
        estimate = _rescaled(estimate, asked, replica)
        more += (f"kernels of {known} scaled to {replica.gpu.name} by their data sheets",)
    return estimate, notes + more


def _rescaled(estimate: Estimate, known: Replica, wanted: Replica) -> Estimate:
    """Scale each group by what the data sheets say of it; errors between the two sources'."""
    dtype = known.architecture.weights.compute
    compute = known.gpu.flops(dtype) / wanted.gpu.flops(dtype)
    attention = known.gpu.flops(Dtype.BF16) / wanted.gpu.flops(Dtype.BF16)
    reading = known.gpu.bandwidth_bytes_s / wanted.gpu.bandwidth_bytes_s
    link = known.gpu.link_bytes_s / wanted.gpu.link_bytes_s
    ratios = {
        "weights": reading, "compute": compute, "prefill_attention": attention,
        "decode_attention": reading, "link": link,
    }  # fmt: skip
    factors = np.log([ratios.get(name, 1.0) for name in GROUPS])
    errors = (estimate.uncertainty.array() + DATA_SHEET.array()) / 2.0
    return replace(
        estimate, cost=scaled(estimate.cost, factors), uncertainty=Uncertainty.of(errors)
    )


@dataclass(frozen=True, slots=True)
class _Database:
    """A model compiled by the package; its errors become `LookupError`."""

    handle: Any

    def prefill(self, sequences: int, tokens: int, prefix: int) -> Sequence[Answer]:
        """Operators of a prefill step."""
        return self._answers(
            lambda: self.handle.run_static_per_op(
                batch_size=sequences, isl=tokens + prefix, osl=1, prefix=prefix, mode="static_ctx"
            )[0]
        )

    def decode(self, sequences: int, context: int) -> Sequence[Answer]:
        """Operators of a decode step."""
        return self._answers(lambda: self.handle.decode_step_per_op(sequences, context, 1))

    @staticmethod
    def _answers(ask: Callable[[], list[tuple[str, float, float, str]]]) -> list[Answer]:
        try:
            rows = ask()
        except Exception as error:  # the package raises many kinds, some from Rust
            raise LookupError(str(error)) from error
        answers = [Answer(name, ms / 1e3, source) for name, ms, _, source in rows]
        if not all(np.isfinite(a.seconds) and a.seconds >= 0 for a in answers):
            raise LookupError("no finite answer")
        return answers


def open_database(replica: Replica, backend: str) -> tuple[Kernels, tuple[str, ...]]:
    """Compile the replica's model for the package; `Refused` says why it cannot."""
    try:
        package = import_module("aiconfigurator_core.sdk.engine")
    except ImportError as error:
        raise Refused(f"kernel database: not installed: {_EXTRA}, or use another source") from error
    config, notes = model_config(replica.architecture)
    told = ""
    for linear, experts in _quant_modes(replica):
        with tempfile.TemporaryDirectory() as folder, _borrowed() as borrowed:
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            try:
                handle = package.EngineHandle.compile(
                    folder,
                    _SYSTEMS[replica.gpu.name],
                    backend,
                    **_layout(replica),
                    gemm_quant_mode=linear,
                    moe_quant_mode=experts,
                    kvcache_quant_mode="fp8" if replica.kv_dtype is KvDtype.FP8 else "bfloat16",
                    fmha_quant_mode="bfloat16",
                )
                database = _Database(handle)
                database.decode(1, _PROBE_TOKENS)
                database.prefill(1, _PROBE_TOKENS, 0)
            except Exception as error:  # as above
                told = told or " ".join(str(error).split())[:200]
                continue
        if replica.architecture.latent:
            notes += tuple(f"kernel database: {table} borrowed" for table in borrowed)
        return database, notes
    raise Refused(
        f"kernel database: cannot answer for {replica.architecture.name} on {replica.gpu.name} "
        f"{replica.layout}: {told}; use another source"
    )


def _layout(replica: Replica) -> dict[str, int]:
    layout = replica.layout
    sharing = {"moe_tp_size": 1, "moe_ep_size": layout.expert_gpus}
    if not layout.expert:
        sharing = {"moe_tp_size": layout.expert_gpus, "moe_ep_size": 1}
    return {
        "tp_size": layout.tensor, "pp_size": layout.pipeline, "attention_dp_size": layout.data,
        **(sharing if replica.architecture.experts else {}),
    }  # fmt: skip


def _quant_modes(replica: Replica) -> Iterator[tuple[str, str]]:
    """The package's names of our precisions, the likeliest first."""
    weights = replica.architecture.weights
    fp4 = "nvfp4" if Dtype.FP4 in dict(replica.gpu.peak_flops) else "nvfp4_wo"
    mx = ["w4a8_mxfp4_mxfp8", "w4a16_mxfp4"] if fp4 == "nvfp4" else ["w4a16_mxfp4"]

    def names(bits: float) -> list[str]:
        if bits >= 12:
            return ["bfloat16"]
        if bits >= 6:
            blocks = ["fp8_block", "fp8"] if replica.architecture.experts else ["fp8", "fp8_block"]
            return ["sq"] if weights.compute is Dtype.INT8 else blocks
        if weights.compute is Dtype.FP4:
            return [fp4, "nvfp4_wo", "w4a16_nvfp4"]
        return mx if bits == 4.25 else ["int4_wo"]

    return product(names(weights.linear_bits), names(weights.expert_bits))


def model_config(a: Architecture) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write a config.json that the package reads; and notes on what it leaves out."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "num_hidden_layers": a.layers,
        "hidden_size": a.hidden_size, "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads, "head_dim": a.head_size,
        "intermediate_size": a.intermediate_size, "vocab_size": a.vocab_size,
        "max_position_embeddings": a.max_model_len, "torch_dtype": "bfloat16",
    }  # fmt: skip
    notes: list[str] = []
    if a.experts is not None:
        config |= {
            "architectures": ["Qwen3MoeForCausalLM"], "num_experts": a.experts.count,
            "num_experts_per_tok": a.experts.per_token,
            "moe_intermediate_size": a.experts.intermediate_size,
        }  # fmt: skip
        other = a.experts.shared_intermediate_size > 0 or a.experts.layers < a.layers
        if other and not a.latent and not a.linear:
            notes.append("kernel database: shared experts and dense layers are left out")
    if a.latent is not None:
        config |= _latent_config(a)
    elif a.linear is not None:
        config |= _hybrid_config(a)
    elif a.window_layers and a.experts is not None:
        config |= {"architectures": ["GptOssForCausalLM"], "sliding_window": a.window_tokens}
    elif a.window_layers:
        notes.append("kernel database: sliding windows are priced as full attention")
    return config, tuple(notes)


def _latent_config(a: Architecture) -> dict[str, Any]:
    m, e = a.latent, a.experts
    if m is None or e is None:
        raise Refused(f"kernel database: has no latent attention without experts ({a.name})")
    return {
        "architectures": ["DeepseekV3ForCausalLM"], "kv_lora_rank": m.kv_rank,
        "q_lora_rank": m.q_rank or None, "qk_rope_head_dim": m.rope_size,
        "qk_nope_head_dim": m.nope_size, "v_head_dim": m.value_size, "n_routed_experts": e.count,
        "n_shared_experts": e.shared_intermediate_size // e.intermediate_size,
        "first_k_dense_replace": a.layers - e.layers,
    }  # fmt: skip


def _hybrid_config(a: Architecture) -> dict[str, Any]:
    assert a.linear is not None  # noqa: S101
    every = a.layers // max(a.full_attention_layers, 1)
    text: Mapping[str, Any] = {
        "linear_num_key_heads": a.linear.key_heads, "linear_num_value_heads": a.linear.value_heads,
        "linear_key_head_dim": a.linear.key_size, "linear_value_head_dim": a.linear.value_size,
        "linear_conv_kernel_dim": a.linear.convolution, "full_attention_interval": every,
        "attn_output_gate": a.gated_attention,
        "layer_types": [
            "linear_attention" if (i + 1) % every else "full_attention" for i in range(a.layers)
        ],
    }  # fmt: skip
    if a.experts is None:
        return {"architectures": ["Qwen3_5ForConditionalGeneration"], **text}
    shared = {"shared_expert_intermediate_size": a.experts.shared_intermediate_size}
    return {"architectures": ["Qwen3_5MoeForConditionalGeneration"], **text, **shared}


@contextlib.contextmanager
def _borrowed() -> Iterator[list[str]]:
    """Keep the package's log to ourselves: which tables it took from another engine."""
    log = logging.getLogger("aiconfigurator_core")
    tables: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            words = record.getMessage().split()
            tables.extend(w for w in words if w.endswith("_perf.parquet") and "mla" in w)

    listener, before = Listener(), (log.propagate, log.level)
    log.addHandler(listener)
    log.propagate = False
    try:
        yield tables
    finally:
        log.removeHandler(listener)
        log.propagate, level = before
        log.setLevel(level)
