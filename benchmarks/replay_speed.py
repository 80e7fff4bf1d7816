"""Requests a second that the twin simulates on one core, step by step, and the memory it takes.

python -m benchmarks.replay_speed --trace azure2023_conv.csv.gz [--servegen DIR]

The Azure trace in one piece; the same arrivals with block hashes, through the exact block
pool; and fourteen days of ServeGen's clients, drawn window by window and streamed, so that
memory grows with the requests in flight and not with the trace.
"""

import argparse
import csv
import gzip
import math
import resource
import statistics
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import need, tell
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
EVERY = 12
"""Of ServeGen's clients every so manieth is taken: what one replica carries of the whole."""
WINDOW_S = 600.0
TURNS, TURN_BLOCKS = 8, 2
"""Conversations for the hashed trace: each turn repeats all blocks of the turns before."""

Sizes = tuple[float, float, float, float]
"""Median and 95th percentile of prompts, then of answers; tokens."""


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


def servegen(folder: Path) -> Iterator[Trace]:
    """Draw the arrivals of every so manieth client, a window at a time.

    Clients whose lengths are not told have those of client 0.
    """
    sizes = _sizes(folder / "servegen_m-large_client_tokens.csv.gz")
    windows: dict[float, list[dict[str, str]]] = defaultdict(list)
    for row in _rows(folder / "servegen_m-large_client_windows.csv.gz"):
        if int(row["client"]) % EVERY == 0:
            windows[float(row["t_s"])].append(row)
    rng = np.random.default_rng(0)
    next_s: dict[int, float] = defaultdict(float)
    for begin_s, rows in sorted(windows.items()):
        drawn = []
        for row in rows:
            client = int(row["client"])
            at_s, next_s[client] = _arrivals(rng, row, max(next_s[client], begin_s))
            p50_in, p95_in, p50_out, p95_out = _sizes_at(sizes.get(client, sizes[0]), begin_s)
            tokens = [_lognormal(rng, p50_in, p95_in, at_s.size),
                      _lognormal(rng, p50_out, p95_out, at_s.size)]  # fmt: skip
            drawn.append(np.array([at_s, *tokens]))
        merged = np.concatenate(drawn, axis=1)
        at, inputs, outputs = merged[:, np.argsort(merged[0], kind="stable")]
        yield Trace.of(at, inputs, outputs)


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with gzip.open(need(file), "rt", encoding="utf-8", newline="") as handle:
        yield from csv.DictReader(handle)


def _sizes(file: Path) -> dict[int, list[tuple[float, Sizes]]]:
    """Median and 95th percentile of prompts and answers, by client, with their time."""
    known: dict[int, list[tuple[float, Sizes]]] = defaultdict(list)
    for row in _rows(file):
        p50_in, p95_in, p50_out, p95_out = (
            float(row[name]) for name in ("in_p50", "in_p95", "out_p50", "out_p95")
        )
        known[int(row["client"])].append((float(row["t_s"]), (p50_in, p95_in, p50_out, p95_out)))
    return known


def _sizes_at(known: list[tuple[float, Sizes]], moment_s: float) -> Sizes:
    """Those of the quarter of a day, or of the one known before, or of the first."""
    return known[max(bisect_right(known, moment_s, key=itemgetter(0)) - 1, 0)][1]


def _arrivals(
    rng: np.random.Generator, window: dict[str, str], from_s: float
) -> tuple[NDArray[np.float64], float]:
    """Arrivals in the window, of which the first is at `from_s`, and the next one after it.

    Gaps have the window's own distribution, Gamma or Weibull, at its rate.
    """
    end_s = float(window["t_s"]) + WINDOW_S
    rate_rps, shape = float(window["rate_rps"]), float(window["shape"])
    mean = shape if window["dist"] == "G" else math.gamma(1 + 1 / shape)
    draw = rng.gamma if window["dist"] == "G" else lambda shape, _, n: rng.weibull(shape, n)
    times = np.array([from_s])
    while times[-1] < end_s:
        count = int(rate_rps * (end_s - times[-1])) + 16
        gaps_s = draw(shape, 1.0, count) / (mean * rate_rps)
        times = np.concatenate((times, times[-1] + np.cumsum(gaps_s)))
    inside = int(np.searchsorted(times, end_s))
    return times[:inside], float(times[inside])


def _lognormal(rng: np.random.Generator, p50: float, p95: float, n: int) -> NDArray[np.float64]:
    """Lengths with this median and 95th percentile, at most 16,384 tokens."""
    p50 = max(p50, 1.0)
    spread = np.log(max(p95 / p50, 1.0)) / 1.645
    drawn: NDArray[np.float64] = np.clip(p50 * np.exp(spread * rng.normal(size=n)), 1, 16_384)
    return drawn.round()


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
