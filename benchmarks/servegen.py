"""Requests drawn from ServeGen's clients: their rates, burstiness and lengths, window by window.

Used by `benchmarks.replay_speed` and `benchmarks.policies`.
"""

import csv
import gzip
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import need
from profiler.trace import Trace

EVERY = 12
"""Of ServeGen's clients every so manieth is taken: what one replica carries of the whole."""
WINDOW_S = 600.0
PARTS = {"growing": (7, 10), "calm": (36, 39), "bursty": (18, 21)}
"""Hours from the beginning, for replays that need not see fourteen days."""

Sizes = tuple[float, float, float, float]
"""Median and 95th percentile of prompts, then of answers; tokens."""


def drawn(folder: Path, from_h: float, to_h: float) -> Trace:
    """The requests of some hours, from 0 s on."""
    columns = []
    for part in servegen(folder):
        if part.arrival_s[0] >= to_h * 3600:
            break
        inside = (part.arrival_s >= from_h * 3600) & (part.arrival_s < to_h * 3600)
        columns.append([
            part.arrival_s[inside] - from_h * 3600,
            part.input_tokens[inside],
            part.output_tokens[inside],
        ])  # fmt: skip
    return Trace.of(*(np.concatenate(column) for column in zip(*columns, strict=True)))


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
