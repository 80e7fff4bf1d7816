"""Recorded vLLM runs against the twin: per-request latency, predicted beside measured.

python -m benchmarks.vllm_runs --runs DIR

A run is GPU_MODEL.requests.jsonl (queued, first and last token stamps) with its .meta.json;
its operators are profile_GPU_MODEL_tpN.{dense,per_sequence,attention}.csv. Each run is
predicted from its operator tables, and again from the data sheet alone.
"""

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import need, tell
from profiler.analytical import analytical_cost
from profiler.architecture import load_architecture
from profiler.configuration import Configuration
from profiler.efficiencies import find_efficiency
from profiler.errors import Refused
from profiler.estimate import Estimate, combine
from profiler.hardware import GPUS, find_gpu
from profiler.layout import Layout
from profiler.operators import Replica
from profiler.profile import resolve_profile
from profiler.scheduler import Limits
from profiler.sources.kernel_database import kernel_database_estimate
from profiler.sources.operator_tables import operator_estimate, read_operator_tables
from profiler.trace import Trace
from profiler.twin import Timings, simulate

Floats = NDArray[np.float64]
GOALS = {"mean": 0.02, "p50": 0.09, "p90": 0.09, "p99": 0.09}
UNMEASURED_GOAL = 0.07


@dataclass(frozen=True)
class Run:
    """One recorded run; times in seconds, [requests]."""

    name: str
    version: str
    replica: Replica
    limits: Limits
    trace: Trace
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats


def read_run(file: Path) -> Run:
    """Read the stamps and what the engine was configured with."""
    name = file.name.removesuffix(".requests.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    rows.sort(key=lambda row: row["queued_ts"])
    queued, first, last = (
        np.array([row[key] for row in rows], np.float64)
        for key in ("queued_ts", "first_token_ts", "last_token_ts")
    )
    output = np.array([row["output_toks"] for row in rows])
    meta = json.loads(file.with_name(f"{name}.meta.json").read_text())
    gpu, _, _ = name.partition("_")
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot_s = np.where(output > 1, (last - first) / (output - 1), np.nan)
    replica, limits = _engine(gpu, meta)
    trace = Trace.of(queued - queued[0], [row["input_toks"] for row in rows], output)
    version = str(meta.get("vllm_version") or "")
    return Run(name, version, replica, limits, trace, first - queued, tpot_s, last - queued)


def _engine(gpu: str, meta: dict[str, Any]) -> tuple[Replica, Limits]:
    """The replica, and its scheduler's bounds; KV blocks as reported, or else as predicted."""
    asked = meta["engine_kwargs"]
    layout = Layout(
        tensor=asked.get("tensor_parallel_size") or 1,
        data=asked.get("data_parallel_size") or 1,
        expert=bool(asked.get("enable_expert_parallel")),
    )
    card = next(g for g in GPUS.values() if g.name.replace("-", "") == gpu.replace("-", ""))
    architecture = load_architecture(asked["model"])
    configuration = Configuration(
        tensor_parallel_size=layout.tensor,
        data_parallel_size=layout.data,
        enable_expert_parallel=layout.expert,
        max_num_seqs=asked["max_num_seqs"],
        max_num_batched_tokens=asked["max_num_batched_tokens"],
        max_model_len=asked.get("max_model_len") or min(architecture.max_model_len, 32_768),
        async_scheduling=True,  # vLLM's default since 0.14
    )
    limits = resolve_profile(architecture.name, card.name, layout).limits(configuration)
    reported = (meta.get("kv_cache") or {}).get("num_gpu_blocks")
    return (
        Replica(architecture, find_gpu(card.name), layout),
        limits if reported is None else limits._replace(num_blocks=reported),
    )


def estimates(run: Run, folder: Path) -> dict[str, tuple[Estimate, float]]:
    """Give the sources to try, each with its goal for the mean error."""
    replica = run.replica
    found = {}
    if prefix := tables_of(run, folder):
        measured, notes = operator_estimate(replica, read_operator_tables(prefix))
        for note in notes:
            print(f"{run.name}: {note}", file=sys.stderr)
        found["operator tables"] = measured, GOALS["mean"]
    else:
        print(f"{run.name}: no operator tables profile_{run.name}_tpN.*.csv", file=sys.stderr)
    efficiency, errors_ = find_efficiency(
        replica.architecture, replica.gpu.name, "vllm", run.version
    )
    guess = Estimate.from_source(
        "data sheet", analytical_cost(dataclasses.replace(replica, efficiency=efficiency)), errors_
    )
    found["data sheet"] = guess, UNMEASURED_GOAL
    try:
        kernels, _ = kernel_database_estimate(replica)
        found["kernel database"] = combine(guess, kernels), UNMEASURED_GOAL
    except Refused as error:
        print(f"{run.name}: no kernel database: {error}", file=sys.stderr)
    return found


def tables_of(run: Run, folder: Path) -> Path | None:
    """Prefix of a run's operator tables; None where there are none."""
    prefix = folder / f"profile_{run.name}_tp{run.replica.layout.tensor}"
    return prefix if prefix.with_name(f"{prefix.name}.dense.csv").exists() else None


def errors(run: Run, timings: Timings) -> dict[str, dict[str, float]]:
    """Relative error of the mean and of the percentiles, per latency."""
    compared = {}
    for name, predicted, measured in (
        ("TTFT", timings.ttft_s, run.ttft_s),
        ("TPOT", timings.itl_s, run.tpot_s),
        ("E2E", timings.e2e_s, run.e2e_s),
    ):
        kept = np.isfinite(measured)
        p, m = predicted[kept], measured[kept]
        compared[name] = {"mean": p.mean() / m.mean() - 1} | {
            f"p{q}": float(np.percentile(p, q) / np.percentile(m, q) - 1) for q in (50, 90, 99)
        }
    return compared


def main() -> None:
    """Predict every run of the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    folder = need(parser.parse_args().runs)
    files = sorted(folder.glob("*.requests.jsonl"))
    if not files:
        print(f"skipped: no *.requests.jsonl in {folder}", file=sys.stderr)
    for file in files:
        run = read_run(file)
        for source, (estimate, goal) in estimates(run, folder).items():
            cost = estimate.cost._replace(request_s=0.0)  # stamps begin in the engine's queue
            found = errors(run, simulate(run.trace, cost, run.limits))
            for latency, by_statistic in found.items():
                for statistic, error in by_statistic.items():
                    bound = goal if statistic == "mean" else max(goal, GOALS[statistic])
                    metric = f"{latency} {statistic} error"
                    tell(f"{run.name} from {source}", metric, abs(error), "ratio", bound, "lower")


if __name__ == "__main__":
    main()
