"""KV cache that vLLM reported at start-up on an H100, predicted from config.json alone.

python -m benchmarks.memory --rows FILE

A row gives model, TP size, utilisation and what the engine said of its memory, GiB. Options
that rows do not give are vLLM's defaults on a card of 70 GiB or more. Where a row's own parts
do not add up to its utilisation, it was served with another: the row is told, and counted
both ways.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from benchmarks.figure import need, tell
from profiler.architecture import load_architecture
from profiler.configuration import Configuration
from profiler.errors import Refused
from profiler.hardware import GIB, find_gpu
from profiler.layout import Layout
from profiler.memory import predict_memory

GOAL = 0.02


def summed_utilization(row: dict[str, str]) -> float:
    """Utilisation that the reported parts add up to, to the percent that people set."""
    parts = ("weights_gib", "activation_peak_gib", "non_torch_gib", "kv_cache_gib")
    return round(sum(float(row[part]) for part in parts) / float(row["gpu_total_gib"]), 2)


def predict_row(row: dict[str, str], utilization: float) -> float:
    """Relative error of one row's KV cache, signed; where the room goes to stderr."""
    tp = int(row["tp"])
    configuration = Configuration(
        tensor_parallel_size=tp,
        gpu_memory_utilization=utilization,
        max_model_len=int(row["max_model_len"]),
        max_num_seqs=1024,
        max_num_batched_tokens=8192,
    )
    architecture = load_architecture(row["model"])
    memory = predict_memory(architecture, find_gpu("H100-SXM"), Layout(tp))
    found = {
        "weights_gib": memory.weights_bytes / GIB,
        "activation_peak_gib": memory.activation_bytes(configuration) / GIB,
        "non_torch_gib": memory.non_torch_bytes / GIB,
        "kv_cache_gib": memory.kv_bytes(configuration) / GIB,
    }
    parts = ", ".join(f"{name} {value:.2f} ({row[name]})" for name, value in found.items())
    print(f"{row['model']} TP{tp}, predicted (reported): {parts}", file=sys.stderr)
    return found["kv_cache_gib"] / float(row["kv_cache_gib"]) - 1.0


def main(argv: list[str]) -> int:
    """Print a figure per row and their means; 1 when those that add up miss the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", required=True, type=Path)
    stated_errors: list[float] = []
    errors: list[float] = []
    with need(parser.parse_args(argv).rows).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            case = f"vLLM start-up, {row['model']} TP{row['tp']}"
            stated, summed = float(row["gpu_memory_utilization"]), summed_utilization(row)
            try:
                stated_errors.append(abs(predict_row(row, stated)))
            except Refused as refused:
                print(f"skipped: {case}: {refused}", file=sys.stderr)
                continue
            errors.append(stated_errors[-1])
            if summed != stated:
                print(f"{case}: says {stated}, its parts add up to {summed}", file=sys.stderr)
                errors[-1] = abs(predict_row(row, summed))
            tell(case, "KV capacity, |error|", errors[-1], "ratio", GOAL, "lower")
    mean = float(np.mean(errors)) if errors else float("nan")
    case = f"{len(errors)} vLLM start-ups"
    as_stated = float(np.mean(stated_errors)) if errors else float("nan")
    tell(f"{case}, as stated", "KV capacity, mean |error|", as_stated, "ratio", GOAL, "lower")
    tell(case, "KV capacity, mean |error|", mean, "ratio", GOAL, "lower")
    return 0 if mean <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
