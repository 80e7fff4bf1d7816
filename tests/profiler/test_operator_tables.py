"""Operator tables of a known engine give its steps back; faults name file, row and column."""

from pathlib import Path

import numpy as np
import pytest

from profiler.architecture import load_architecture
from profiler.errors import Refused
from profiler.estimate import GROUPS
from profiler.hardware import find_gpu
from profiler.operators import Replica
from profiler.scheduler import Shape
from profiler.sources.operator_tables import (
    HOST_SEQUENCE_S,
    STEP_OVERHEAD_S,
    operator_estimate,
    read_operator_tables,
)
from profiler.step_cost import step_s

REPLICA = Replica(load_architecture("Llama-3.1-8B"), find_gpu("RTX-4090"))
LAYERS = REPLICA.architecture.layers
TOKENS = (1, 16, 64, 128, 256, 512, 1024, 2048)
MATRIX_US = 60.0
"""One matrix up to 256 tokens; then in proportion."""
PAIR_US, KV_US, READ_US, MIXED_RATIO, PADDED_US = 1e-4, 4e-3, 2e-3, 1.8, 2e-4


def matrix_us(tokens: int) -> float:
    return MATRIX_US * max(tokens / 256, 1.0)


def attention_us(chunk: int, prefix: int, decodes: int, context: int) -> float:
    time_us = (
        10.0 + PAIR_US * chunk * (prefix + chunk / 2) + READ_US * (prefix + chunk) * (chunk > 0)
    )
    ratio = MIXED_RATIO if chunk else 1.0
    return time_us + decodes * (KV_US * context * ratio + PADDED_US * chunk)


def write_tables(folder: Path) -> Path:
    prefix = folder / "card_model_tp1"
    dense = [f"qkv_proj,{t},{matrix_us(t)}" for t in TOKENS]
    dense += [f"embedding,{t},3.0" for t in TOKENS]
    heads = [f"lm_head,{n},{900 + n}" for n in (1, 64, 256)]
    rows = [
        f"{c},{p},{n},{k},{attention_us(c, p, n, k)}"
        for c in (0, 64, 512, 2048)
        for p in (0, 1024)
        for n in (0, 8, 64)
        for k in (128, 1024)
        if (c or n) and (c or not p)
    ]
    for kind, head, lines in (
        ("dense", "layer,tokens,time_us", dense),
        ("per_sequence", "layer,sequences,time_us", heads),
        ("attention", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", rows),
    ):
        prefix.with_name(f"{prefix.name}.{kind}.csv").write_text("\n".join([head, *lines]) + "\n")
    return prefix


def truth_s(chunk: int, decodes: int, context: int) -> float:
    tokens, sequences = chunk + decodes, decodes + (chunk > 0)
    us = LAYERS * (matrix_us(tokens) + attention_us(chunk, 0, decodes, context))
    us += 3.0 + 900 + sequences
    return us * 1e-6 + STEP_OVERHEAD_S + HOST_SEQUENCE_S * sequences


@pytest.mark.parametrize(
    ("chunk", "decodes", "context"),
    [(0, 1, 500), (0, 48, 700), (700, 0, 0), (2048, 0, 0), (512, 40, 600)],
)
def test_a_known_engine_s_steps_come_back(tmp_path, chunk, decodes, context):
    estimate, _ = operator_estimate(REPLICA, read_operator_tables(write_tables(tmp_path)))
    prefills = int(chunk > 0)
    shape = Shape(
        chunk + decodes, decodes + prefills, prefills, chunk**2 / 2, 0.0,
        float(decodes * context), 0.0, float(chunk), chunk,
    )  # fmt: skip
    assert step_s(estimate.cost, shape) == pytest.approx(truth_s(chunk, decodes, context), rel=0.02)


def test_what_tables_do_not_hold_stays_a_guess_and_is_said(tmp_path):
    estimate, notes = operator_estimate(REPLICA, read_operator_tables(write_tables(tmp_path)))
    origins = dict(zip(GROUPS, estimate.origins, strict=True))
    assert origins["compute"] == "operator tables"
    assert origins["request"] == "data sheet"
    assert any("extrapolated beyond" in note for note in notes)
    assert (np.diff(estimate.cost.dense_s) >= 0).all()


def test_an_unknown_layer_is_counted_and_flagged(tmp_path):
    prefix = write_tables(tmp_path)
    file = prefix.with_name(f"{prefix.name}.dense.csv")
    file.write_text(file.read_text() + "surprise,1,5.0\nsurprise,2048,5.0\n")
    _, notes = operator_estimate(REPLICA, read_operator_tables(prefix))
    assert any("'surprise' is not known" in note for note in notes)


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("dense", "", "no column layer, tokens, time_us"),
        ("dense", "layer,tokens,time_us\n", "holds no rows"),
        ("dense", "layer,tokens,time_us\nqkv_proj,1,soon\n", r"row 1: time_us is 'soon'"),
        ("dense", "layer,tokens,time_us\nqkv_proj,1,-3\n", r"row 1: time_us is -3\.0"),
        ("dense", "layer,tokens,time_us\nqkv_proj,1\n", "row 1: time_us is None"),
        ("attention", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1,16,9\n",
         "0 rows of pure prefill"),
    ],
)  # fmt: skip
def test_a_broken_table_names_file_row_and_column(tmp_path, kind, text, told):
    prefix = write_tables(tmp_path)
    prefix.with_name(f"{prefix.name}.{kind}.csv").write_text(text)
    with pytest.raises(Refused, match=told):
        operator_estimate(REPLICA, read_operator_tables(prefix))


def test_a_missing_table_is_told(tmp_path):
    with pytest.raises(Refused, match=r"nothing\.dense\.csv: cannot be read"):
        read_operator_tables(tmp_path / "nothing")
