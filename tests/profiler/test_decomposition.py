"""A step taken apart: its parts add up, and what was measured stands beside them."""

import json
from pathlib import Path

import pytest

from profiler.architecture import load_architecture
from profiler.decomposition import (
    DEFAULT,
    Bound,
    MeasuredTable,
    parse_shape,
    read_measured,
    take_apart,
)
from profiler.errors import Refused
from profiler.hardware import find_gpu
from profiler.layout import Layout
from profiler.operators import Replica, decompose
from profiler.profile import resolve_profile
from profiler.step_cost import step_s

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
REPLICA = Replica(load_architecture(MODEL), find_gpu("H100-SXM"))
COST = resolve_profile(MODEL, "H100-SXM").cost


def test_operators_add_up_to_the_step_and_so_do_the_groups() -> None:
    for step in take_apart(REPLICA, DEFAULT, COST):
        operators = decompose(REPLICA, step.shape)
        assert step.predicted_s == pytest.approx(sum(o.seconds for o in operators))
        assert step.profile_s == pytest.approx(step_s(COST, step.shape))
        assert step.measured_s is None


def test_prefill_is_bound_by_compute_and_decode_by_memory() -> None:
    prefill, decode = take_apart(REPLICA, ("prefill 4096", "decode 8x1024"))
    bound = {row.name: row.bound for row in prefill.rows}
    assert bound["feed-forward"] is bound["prefill attention"] is Bound.COMPUTE
    bound = {row.name: row.bound for row in decode.rows}
    assert bound["feed-forward"] is bound["decode attention"] is Bound.MEMORY
    assert bound["overhead"] is Bound.FIXED
    rows = {row.name: row for row in decode.rows}
    assert rows["feed-forward"].intensity == pytest.approx(8.0)
    assert rows["overhead"].intensity is None


def test_messages_between_gpus_are_bound_by_the_link() -> None:
    replica = Replica(REPLICA.architecture, REPLICA.gpu, Layout(tensor=4))
    (step,) = take_apart(replica, ("decode 8x1024",))
    assert {r.name: r.bound for r in step.rows}["all-reduce"] is Bound.LINK


def test_measured_operators_stand_beside_the_predicted_and_others_join() -> None:
    table = MeasuredTable("CPU", "m", {"decode 8x1024": {"feed-forward": 0.5, "norms": 0.1}})
    other, step = take_apart(REPLICA, ("prefill 64", "decode 8x1024"), None, table)
    assert other.measured_s is None
    rows = {row.name: row for row in step.rows}
    assert rows["feed-forward"].measured_s == 0.5
    assert rows["norms"].predicted_s is None
    assert rows["projections"].measured_s is None
    assert step.measured_s == pytest.approx(0.6)


def test_shapes_are_read_as_written() -> None:
    assert parse_shape("prefill 512@1024").prefill_kv_tokens == 1536
    assert parse_shape("decode 64x1024").kv_tokens == 64 * 1024
    assert parse_shape("decode 64 × 1024") == parse_shape("decode 64x1024")
    mixed = parse_shape("mixed 512+64x1024")
    assert (mixed.tokens, mixed.sequences, mixed.prefill_sequences) == (576, 65, 1)


@pytest.mark.parametrize(
    "title", ["prefill x", "prefill 0", "decode 64", "decode 0x5", "mixed 5x5"]
)
def test_a_shape_that_is_none_says_how_it_is_written(title: str) -> None:
    with pytest.raises(Refused, match=f"--{title.partition(' ')[0]}: .* write 2048"):
        parse_shape(title)


def test_a_table_is_read(tmp_path: Path) -> None:
    file = tmp_path / "k.json"
    shapes = [{"shape": "prefill 64", "operators": {"projections": 0.1}, "kernels": []}]
    file.write_text(json.dumps({"gpu": "H200", "model": "m", "shapes": shapes, "notes": ["n"]}))
    assert read_measured(file) == MeasuredTable(
        "H200", "m", {"prefill 64": {"projections": 0.1}}, ("n",)
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"gpu": 1, "model": 2, "shapes": [3]}'])
def test_a_damaged_table_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "k.json"
    file.write_text(text)
    with pytest.raises(Refused, match="is no table of operators"):
        read_measured(file)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot read"):
        read_measured(tmp_path / "none.json")
