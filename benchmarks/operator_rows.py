"""Steps priced from measured operator tables, as rows of the population.

End-to-end rows cover data-centre GPUs; operator tables tell of the cards that were measured
kernel by kernel.
"""

from pathlib import Path

from benchmarks.silicon_rows import QUEUED_S, Row
from benchmarks.vllm_runs import Run, read_run, tables_of
from profiler.efficiencies import members
from profiler.exposure import Exposure
from profiler.operators import KvDtype, Replica
from profiler.scheduler import Shape
from profiler.sources.operator_tables import operator_estimate, read_operator_tables
from profiler.step_cost import step_s


def _decode(sequences: int, context: int) -> Shape:
    kv = float(sequences * context)
    return Shape(sequences, sequences, 0, 0.0, 0.0, kv, kv)


def _prefill(tokens: int) -> Shape:
    pairs = tokens**2 / 2
    return Shape(tokens, 1, 1, pairs, pairs, 0.0, 0.0, tokens, tokens)


def _mixed(tokens: int, sequences: int, context: int) -> Shape:
    chunk, rest = _prefill(tokens), _decode(sequences, context)
    return chunk._replace(
        tokens=chunk.tokens + rest.tokens,
        sequences=1 + rest.sequences,
        kv_tokens=rest.kv_tokens,
        kv_window_tokens=rest.kv_window_tokens,
    )


SHAPES = (
    _decode(1, 500), _decode(16, 1000), _decode(64, 1000), _decode(128, 700),
    _prefill(128), _prefill(512), _prefill(1024), _prefill(2048),
    _mixed(256, 32, 700), _mixed(512, 64, 700), _mixed(1024, 120, 500),
)  # fmt: skip


def operator_rows(folder: Path) -> list[Row]:
    """Give the steps of every run in the folder that has its operator tables."""
    runs = [read_run(file) for file in sorted(folder.glob("*.requests.jsonl"))]
    return [row for run in runs if tables_of(run, folder) for row in _rows(run, folder)]


def _rows(run: Run, folder: Path) -> list[Row]:
    prefix = tables_of(run, folder)
    assert prefix is not None
    known, _ = operator_estimate(run.replica, read_operator_tables(prefix))
    replica = Replica(run.replica.architecture, run.replica.gpu, run.replica.layout, KvDtype.AUTO)
    belongs = members(replica.architecture, replica.gpu.name, "vllm", run.version)
    return [
        Row(
            id=f"{run.name} {shape.tokens}",
            replica=replica,
            members=belongs,
            client="file",
            deployment=run.name,
            lengths=(0, 0),
            clients=1,
            ttft_s=2 * QUEUED_S,  # a step has none: it does not count
            tpot_s=step_s(known.cost, shape),
            first=exposure,
            later=exposure,
            middle=exposure,
            tpot=exposure,
        )
        for shape in SHAPES
        for exposure in (Exposure.of([(shape, 1.0)]),)
    ]
