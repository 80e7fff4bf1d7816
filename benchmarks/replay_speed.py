"""Requests a second that the twin simulates on one core, step by step, and the memory it takes.

python -m benchmarks.replay_speed --trace azure2023_conv.csv.gz [--servegen DIR]

The Azure trace in one piece; the same arrivals with block hashes, through the exact block
pool; and fourteen days of ServeGen's clients, drawn window by window and streamed, so that
memory grows with the requests in flight and not with the trace.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

from benchmarks.figure import need, tell
from benchmarks.servegen import EVERY, servegen
from profiler.configuration import Configuration
from profiler.profile import EngineProfile, resolve_profile
from profiler.scheduler import Limits
from profiler.timings import Tally
from profiler.trace import Hashes, Trace, read_trace
from profiler.twin import Simulation, simulate

GOAL_RPS = 1e6 / 60
GOAL_GIB = 1.0
GOAL_S = 120.0
RUNS = 5
TURNS, TURN_BLOCKS = 8, 2
"""Conversations for the hashed trace: each turn repeats all blocks of the turns before."""


def median_time_s(trace: Trace, profile: EngineProfile, limits: Limits) -> tuple[float, int]:
    """Run the whole trace several times; the median counts. Steps too."""
    simulate(trace.take(100), profile.cost, limits)  # compile
    times_s = []
    for _ in range(RUNS):
        begin_s = time.process_time()
        timings = simulate(trace, profile.cost, limits)
        times_s.append(time.process_time() - begin_s)
    return statistics.median(times_s), timings.steps


def with_conversations(trace: Trace) -> Trace:
    """Give the requests hashes, as if so many conversations took turns."""
    blocks = -(-trace.input_tokens // 512)
    talks = max(len(trace) // TURNS, 1)
    rows = []
    for i, count in enumerate(blocks.tolist()):
        talk, turn = i % talks, i // talks
        shared = min(turn * TURN_BLOCKS, count)
        rows.append([talk * 1000 + b for b in range(shared)]
                    + [10**9 + i * 1000 + b for b in range(count - shared)])  # fmt: skip
    return Trace.of(
        trace.arrival_s, trace.input_tokens, trace.output_tokens, hashes=Hashes.of(rows)
    )


def stream(folder: Path, profile: EngineProfile, limits: Limits) -> None:
    """Tell speed and peak memory of the fourteen days."""
    tally = Tally()
    engine = Simulation(profile.cost, limits)
    begin_s, wall_s = time.process_time(), time.perf_counter()
    for progress in engine.through(servegen(folder)):
        tally.add(progress.finished)
    took_s = time.process_time() - begin_s
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    days = engine.now_s / 86_400
    case = f"ServeGen m-large, every {EVERY}th client, {days:.1f} days, {tally.requests} requests"
    tell(case, "replay_speed with drawing", tally.requests / took_s, "req/s", GOAL_RPS, "higher")
    tell(case, "wall time with drawing", time.perf_counter() - wall_s, "s", GOAL_S, "lower")
    tell(case, "peak memory", peak_gib, "GiB", GOAL_GIB, "lower")


def main() -> None:
    """Run what data was given for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--servegen", type=Path, help="folder of the two ServeGen files")
    parser.add_argument("--model", default="meta-llama/Llama-3.1-8B-Instruct")
    parser.add_argument("--gpu", default="H100-SXM")
    asked = parser.parse_args()
    trace = read_trace(need(asked.trace))
    profile = resolve_profile(asked.model, asked.gpu)
    limits = profile.limits(Configuration(max_model_len=32_768))
    for name, requests in ((asked.trace.name, trace), ("with hashes", with_conversations(trace))):
        took_s, steps = median_time_s(requests, profile, limits)
        case = f"{name}, {asked.model} on {asked.gpu}, {steps} steps"
        tell(case, "replay_speed", len(requests) / took_s, "req/s", GOAL_RPS, "higher")
    if asked.servegen is not None:
        stream(asked.servegen, profile, limits)


if __name__ == "__main__":
    main()
