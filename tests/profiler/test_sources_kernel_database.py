"""Constants fitted to a database of kernels: known ones come back; the real one is met."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from profiler.architecture import load_architecture, served_as
from profiler.errors import Refused
from profiler.estimate import DATA_SHEET, GROUPS, KERNELS
from profiler.hardware import find_gpu
from profiler.layout import Layout
from profiler.operators import KvDtype, Replica
from profiler.scheduler import Shape
from profiler.sources.kernel_database import (
    ENGINES,
    kernel_database_estimate,
    model_config,
    open_database,
)
from profiler.sources.kernel_fit import NAME, Answer, fit_kernels
from profiler.step_cost import step_s

PAIR_S, READ_S, KV_S, SEQUENCE_S, LINK_S = 3e-11, 2e-10, 4e-11, 5e-6, 1e-7
HEAD_S, LINK_FIXED_S, ATTENTION_FIXED_S = 4e-4, 6e-4, 3e-4


def dense_s(tokens: float) -> float:
    return 5e-3 + 1.5e-5 * max(tokens - 200, 0)


@dataclass
class Fake:
    """A database with known constants; `silent` shapes have no answer."""

    silent: int = 1 << 60
    slow: float = 1.0
    source: str = "silicon"

    def prefill(self, sequences: int, tokens: int, prefix: int) -> Sequence[Answer]:
        if tokens + prefix > self.silent:
            raise LookupError("beyond the table")
        new = sequences * tokens
        pairs, read = new * (prefix + tokens / 2), sequences * (prefix + tokens)
        attention = ATTENTION_FIXED_S + PAIR_S * pairs + READ_S * read
        return self._answers("context", new, sequences, attention)

    def decode(self, sequences: int, context: int) -> Sequence[Answer]:
        if context > self.silent:
            raise LookupError("beyond the table")
        kv = sequences * context
        return self._answers("generation", sequences, sequences, ATTENTION_FIXED_S + KV_S * kv)

    def _answers(self, phase: str, new: int, sequences: int, attention: float) -> list[Answer]:
        return [
            Answer(f"{phase}_gate_ffn1_gemm", dense_s(new) * self.slow, "silicon"),
            Answer(f"{phase}_attention", attention, self.source),
            Answer(f"{phase}_logits_gemm", HEAD_S + SEQUENCE_S * sequences, "silicon"),
            Answer(f"{phase}_ar_1", LINK_FIXED_S + LINK_S * new, "silicon"),
        ]


def replica(
    model: str = "Llama-3.1-8B", gpu: str = "H100-SXM", layout: Layout | None = None
) -> Replica:
    return Replica(load_architecture(model), find_gpu(gpu), layout or Layout())


def test_known_constants_come_back():
    asked = replica()
    estimate, notes = fit_kernels(asked, Fake())
    cost = estimate.cost
    assert cost.prefill_pair_s == pytest.approx(PAIR_S, rel=1e-3)
    assert cost.prefill_kv_s == pytest.approx(READ_S, rel=1e-2)
    assert cost.kv_token_s == pytest.approx(KV_S, rel=1e-3)
    assert cost.token_link_s == pytest.approx(LINK_S, rel=1e-3)
    own = cost.sequence_s - asked.efficiency.sequence_s
    assert own == pytest.approx(SEQUENCE_S, rel=1e-3)
    assert cost.step_overhead_s == pytest.approx(asked.overhead_s + LINK_FIXED_S, rel=1e-3)
    for tokens in (32, 256, 2048):
        step = step_s(cost, Shape(tokens, 1, 0, 0.0, 0.0, 0.0, 0.0)) - asked.overhead_s
        alone = dense_s(tokens) + ATTENTION_FIXED_S + HEAD_S + SEQUENCE_S + LINK_FIXED_S
        expected = alone + LINK_S * tokens + asked.efficiency.sequence_s
        assert step == pytest.approx(expected, rel=2e-3)
    assert notes == ("step overhead, API time and mixed steps are not in it: priors were used",)


def test_windowed_layers_get_constants_of_their_own():
    window, kv_s, window_kv_s = 128, 2e-11, 6e-11

    class Windowed(Fake):
        def decode(self, sequences: int, context: int) -> Sequence[Answer]:
            seen = min(context, window)
            attention = sequences * (kv_s * context + window_kv_s * seen)
            return self._answers("generation", sequences, sequences, attention)

    cost = fit_kernels(replica("gpt-oss-20b"), Windowed())[0].cost
    assert cost.kv_token_s == pytest.approx(kv_s, rel=1e-3)
    # a window that every context fills looks like a cost of the sequence, and adds up to it
    filled = cost.kv_window_token_s * window + cost.sequence_s
    own = SEQUENCE_S + replica().efficiency.sequence_s
    assert filled == pytest.approx(window_kv_s * window + own, rel=0.01)


def test_what_the_database_knows_is_its_own_and_the_rest_the_data_sheets():
    estimate, _ = fit_kernels(replica(), Fake())
    origins = dict(zip(GROUPS, estimate.origins, strict=True))
    assert {name for name, origin in origins.items() if origin == NAME} == {
        "weights", "compute", "prefill_attention", "decode_attention", "link", "sequence",
    }  # fmt: skip
    assert estimate.uncertainty.compute == KERNELS.compute
    assert estimate.uncertainty.mixed == DATA_SHEET.mixed


def test_gaps_and_computed_answers_are_told():
    estimate, notes = fit_kernels(replica(), Fake(silent=9000, source="mixed", slow=0.01))
    assert any("no answer for" in note for note in notes)
    assert any("attention" in note and "partly computed" in note for note in notes)
    assert estimate.cost.kv_token_s == pytest.approx(KV_S, rel=0.01)


def test_tables_full_of_launch_times_are_doubted():
    estimate, notes = fit_kernels(replica(), Fake(slow=10.0))
    assert any("launch times" in note for note in notes)
    assert estimate.uncertainty.weights > 1.0, "a data sheet is believed first"


def test_noise_never_makes_a_curve_fall():
    random = np.random.default_rng(7)

    class Noisy(Fake):
        def _answers(self, phase: str, new: int, sequences: int, attention: float) -> list[Answer]:
            exact = super()._answers(phase, new, sequences, attention)
            return [a._replace(seconds=a.seconds * random.uniform(0.7, 1.3)) for a in exact]

    cost = fit_kernels(replica(), Noisy())[0].cost
    assert np.all(np.diff(cost.dense_s) >= 0)
    assert min(cost.dense_s) > 0


def test_too_few_answers_are_refused():
    with pytest.raises(Refused, match=r"answers \d decode shapes of this model"):
        fit_kernels(replica(), Fake(silent=0))


def test_an_absent_package_is_one_line_with_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiconfigurator_core.sdk.engine", None)
    with pytest.raises(Refused, match=r"pip install 'whaleflux\[kernels\]'"):
        kernel_database_estimate(replica())


@pytest.mark.parametrize(
    ("gpu", "engine", "told"),
    [("RTX-4090", "vllm", "has no RTX-4090"), ("H100-SXM", "tgi", "engine 'tgi' is not one of")],
)
def test_what_it_cannot_know_is_refused(gpu, engine, told):
    with pytest.raises(Refused, match=told):
        kernel_database_estimate(replica(gpu=gpu), engine)


@pytest.mark.parametrize(
    ("model", "family", "noted"),
    [
        ("Qwen3-32B", "LlamaForCausalLM", False),
        ("gemma-3-27b-it", "LlamaForCausalLM", True),
        ("Qwen3-30B-A3B", "Qwen3MoeForCausalLM", False),
        ("GLM-4.5-Air", "Qwen3MoeForCausalLM", True),
        ("gpt-oss-20b", "GptOssForCausalLM", False),
        ("DeepSeek-V3", "DeepseekV3ForCausalLM", False),
        ("Qwen3.5-35B-A3B", "Qwen3_5MoeForConditionalGeneration", False),
        ("Qwen3.5-27B", "Qwen3_5ForConditionalGeneration", False),
    ],
)
def test_a_model_is_told_in_the_packages_terms(model, family, noted):
    config, notes = model_config(load_architecture(model))
    assert config["architectures"] == [family]
    assert bool(notes) is noted


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip(
        "aiconfigurator_core",
        reason="no kernel database: install whaleflux[kernels]",
    )


HELD_OUT = [(700, 0), (3000, 0), (1500, 3000), (5000, 700)]


@pytest.mark.parametrize(
    ("model", "precision", "gpu", "tp"),
    [
        ("Llama-3.1-8B", "", "H100-SXM", 1),
        ("Llama-3.1-70B", "fp8", "H100-SXM", 4),
        ("Qwen3-32B", "", "H200", 2),
        ("DeepSeek-R1", "", "H200", 8),
        ("gpt-oss-120b", "", "B200", 1),
        ("Llama-3.1-8B", "", "A100-40GB", 1),
    ],
)
def test_the_formula_meets_the_database_at_shapes_it_was_not_fitted_on(
    package, model, precision, gpu, tp
):
    asked = Replica(served_as(model, precision), find_gpu(gpu), Layout(tp))
    estimate, notes = kernel_database_estimate(asked)
    assert any("priors" in note for note in notes)
    if gpu == "A100-40GB":
        assert any("scaled" in note for note in notes)
        return
    kernels, _ = open_database(asked, ENGINES["vllm"])
    cost = estimate.cost._replace(
        step_overhead_s=estimate.cost.step_overhead_s - asked.overhead_s,
        sequence_s=estimate.cost.sequence_s - asked.efficiency.sequence_s,
    )
    window = asked.architecture.window_tokens
    errors = []
    for a, k in HELD_OUT:
        seen = float(np.minimum(k + np.arange(a) + 0.5, window).sum()) if window else 0.0
        shape = Shape(a, 1, 1, a * (k + a / 2), seen, 0.0, 0.0, float(k + a), a)
        errors.append(step_s(cost, shape) / sum(x.seconds for x in kernels.prefill(1, a, k)) - 1)
    for n, c in ((3, 700), (20, 3000), (77, 1500), (200, 5000)):
        shape = Shape(n, n, 0, 0.0, 0.0, float(n * c), float(n * min(c, window)))
        errors.append(step_s(cost, shape) / sum(x.seconds for x in kernels.decode(n, c)) - 1)
    assert np.median(np.abs(errors)) < 0.05
    assert np.max(np.abs(errors)) < 0.2


def test_layouts_and_the_cache_format_reach_the_database(package):
    deepseek = Replica(load_architecture("DeepSeek-R1"), find_gpu("H200"), Layout(8, expert=True))
    assert kernel_database_estimate(deepseek)[0].cost.token_link_s > 0
    llama = replica()
    halved = kernel_database_estimate(replace(llama, kv_dtype=KvDtype.FP8))[0].cost
    assert halved.kv_token_s < 0.8 * kernel_database_estimate(llama)[0].cost.kv_token_s


def test_a_layout_the_database_has_no_tables_for_is_refused_in_one_line(package):
    with pytest.raises(Refused, match="kernel database: cannot answer for") as told:
        kernel_database_estimate(replica(gpu="L4"))
    assert "\n" not in str(told.value)
