"""Requests a second that the twin simulates on one core, step by step.

python -m benchmarks.replay_speed --trace azure2023_conv.csv.gz
"""

import argparse
import statistics
import time
from pathlib import Path

from benchmarks.figure import need, tell
from profiler.configuration import Configuration
from profiler.profile import resolve_profile
from profiler.trace import read_trace
from profiler.twin import simulate

GOAL_RPS = 17_000
RUNS = 5


def main() -> None:
    """Run the whole trace several times; the median counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--model", default="meta-llama/Llama-3.1-8B-Instruct")
    parser.add_argument("--gpu", default="H100-SXM")
    asked = parser.parse_args()
    trace = read_trace(need(asked.trace))
    profile = resolve_profile(asked.model, asked.gpu)
    limits = profile.limits(Configuration(max_model_len=32_768))
    simulate(trace.take(100), profile.cost, limits)  # compile
    times_s = []
    for _ in range(RUNS):
        begin_s = time.process_time()
        timings = simulate(trace, profile.cost, limits)
        times_s.append(time.process_time() - begin_s)
    case = f"{asked.trace.name}, {asked.model} on {asked.gpu}, {timings.steps} steps"
    tell(case, "replay_speed", len(trace) / statistics.median(times_s), "req/s", GOAL_RPS, "higher")


if __name__ == "__main__":
    main()
