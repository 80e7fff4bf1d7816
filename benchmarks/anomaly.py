"""Labelled incidents on real servers: how well the anomaly detector ranks, finds and when.

`python -m benchmarks.anomaly --data ../shared/data/anomaly`. Files `NAME.csv[.gz]` with columns
split (train or test), m00…, label. A detector is fitted to the train split alone and never sees
a label; no point is adjusted. Sets named omi-… are ASD (5-minute steps), machine-… SMD
(1-minute). Three plain detectors run beside the shipped one: random, window PCA, k-means.
"""

import argparse
import csv
import gzip
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.figure import need, tell
from benchmarks.vus import Events, Floats, events_of, vus_pr
from monitor.detectors.anomaly import fit, score_all
from monitor.detectors.anomaly.detector import FALSE_ALARMS_PER_DAY
from monitor.detectors.anomaly.regimes import learn
from monitor.detectors.anomaly.windows import CLIP, WINDOW_SAMPLES, windows

VUS_BUFFER_SAMPLES = 20
"""Two windows, 10 samples on either side: random scores then get .05 on ASD. A wider buffer
flatters all detectors (100: random .10), a narrower one costs them (10: .44 ASD, .59 SMD)."""

EVENT_F1_GOAL = 0.5
"""Our own; the issue sets goals for VUS-PR alone."""

DAY_S = 86_400.0


class Family(NamedTuple):
    """Sets of one source."""

    name: str
    step_s: float
    goal: float


ASD, SMD = Family("ASD", 300.0, 0.30), Family("SMD", 60.0, 0.60)


class LabelledSet(NamedTuple):
    """One file: train [samples, metrics], test [samples, metrics], label [test samples]."""

    name: str
    family: Family
    train: Floats
    test: Floats
    label: np.ndarray[tuple[int], np.dtype[np.bool_]]


class Alarms(NamedTuple):
    """What the shipped threshold does on one set."""

    found: int
    events: int
    false: int
    delays: list[int]
    """Samples from an event's begin to its first alarm, of events found."""

    @property
    def f1(self) -> float:
        """Events found are true, alarms that touch none are false."""
        return 2 * self.found / max(self.found + self.false + self.events, 1)


def read_set(path: Path) -> LabelledSet:
    """Read one file; an empty cell is NaN."""
    name = path.name.split(".")[0]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as lines:
        rows = csv.reader(lines)
        head = next(rows)
        body = list(rows)
    metrics = [place for place, column in enumerate(head) if column not in {"split", "label"}]
    split, label = head.index("split"), head.index("label")
    values = np.array([[float(row[place] or "nan") for place in metrics] for row in body])
    train = np.array([row[split] == "train" for row in body])
    marked = np.array([float(row[label] or 0) > 0 for row in body])
    family = ASD if name.startswith("omi") else SMD
    return LabelledSet(name, family, values[train], values[~train], marked[~train])


def random_scores(data: LabelledSet) -> Floats:
    """Chance."""
    return np.random.default_rng(0).random(data.label.size)


def _windows(data: LabelledSet, usual: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Scaled and clipped windows of train and test; the first sample is repeated before it."""
    parts = []
    for split in (data.train, data.test):
        scaled = np.clip((split - usual) / np.maximum(spread, 1e-9), -CLIP, CLIP)
        padded = np.vstack([np.repeat(scaled[:1], WINDOW_SAMPLES - 1, axis=0), scaled])
        parts.append(windows(np.nan_to_num(padded))[WINDOW_SAMPLES - 1 :])
    return parts[0], parts[1]


def pca_scores(data: LabelledSet) -> Floats:
    """Residual of a window PCA on robustly scaled metrics, 90 % of the variance kept."""
    low, middle, high = np.nanquantile(data.train, [0.25, 0.5, 0.75], axis=0)
    deviation = np.nanstd(data.train, axis=0)
    spread = np.where(high - low < 1e-6, deviation, (high - low) / 1.349)
    train, test = _windows(data, middle, spread)
    train, test = train - train.mean(axis=0), test - train.mean(axis=0)
    variances, directions = np.linalg.eigh(train.T @ train)
    kept = np.cumsum(variances[::-1]) / variances.sum()
    basis = directions[:, ::-1][:, : np.searchsorted(kept, 0.9) + 1]
    return np.asarray(np.square(test - test @ basis @ basis.T).sum(axis=1))


def kmeans_scores(data: LabelledSet) -> Floats:
    """Distance from the nearest of 20 centres of windows, metrics in standard deviations."""
    spread = np.nanstd(data.train, axis=0)
    train, test = _windows(data, np.nanmean(data.train, axis=0), spread)
    model = learn(train, np.random.default_rng(0))
    return np.asarray(np.square(test - model.nearest(test)).sum(axis=1))


def alarm_runs(over: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Events:
    """Alarms as the detector counts them: a window of calm ends one."""
    runs = events_of(over)
    if not runs.start.size:
        return runs
    apart = np.flatnonzero(runs.start[1:] - runs.stop[:-1] >= WINDOW_SAMPLES) + 1
    heads, tails = np.r_[0, apart], np.r_[apart, runs.start.size] - 1
    return Events(runs.start[heads], runs.stop[tails])


def alarms_at(
    over: np.ndarray[tuple[int], np.dtype[np.bool_]],
    label: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> Alarms:
    """Hold alarms against events: an event is found when an alarmed sample falls into it."""
    events = events_of(label)
    spans = list(zip(events.start.tolist(), events.stop.tolist(), strict=True))
    delays = [int(np.argmax(over[a:b])) for a, b in spans if over[a:b].any()]
    alarms = alarm_runs(over)
    pairs = zip(alarms.start.tolist(), alarms.stop.tolist(), strict=True)
    false = sum(not (over[a:b] & label[a:b]).any() for a, b in pairs)
    return Alarms(len(delays), len(spans), false, delays)


def shipped(data: LabelledSet) -> tuple[Floats, Alarms]:
    """Scores and alarms of the detector as it ships; unscored samples rank last."""
    baseline = fit(data.train, data.family.step_s)
    scores = score_all(baseline, data.test)
    over = scores >= baseline.tail.threshold(FALSE_ALARMS_PER_DAY)
    return np.nan_to_num(scores, nan=float(np.nanmin(scores)) - 1.0), alarms_at(over, data.label)


def tell_set(data: LabelledSet, scores: Floats, alarms: Alarms) -> dict[str, float]:
    """Print one set's figures; those that families average are given back."""
    calm_days = float((~data.label).sum()) * data.family.step_s / DAY_S
    delay = float(np.median(alarms.delays)) if alarms.delays else float("nan")
    figures = {
        "vus_pr": vus_pr(scores, data.label, VUS_BUFFER_SAMPLES),
        "event_f1": alarms.f1,
        "false_alarms_per_day": alarms.false / max(calm_days, 1.0),
        "delay_median_s": delay * data.family.step_s,
    }
    case, promised = f"{data.family.name} {data.name}", FALSE_ALARMS_PER_DAY
    tell(case, "vus_pr", figures["vus_pr"], "ratio", data.family.goal, "higher")
    tell(case, "event_f1", figures["event_f1"], "ratio", EVENT_F1_GOAL, "higher")
    tell(case, "events_found", alarms.found, "events", alarms.events, "higher")
    tell(case, "false_alarms_per_day", figures["false_alarms_per_day"], "1/d", promised, "lower")
    if alarms.delays:  # with nothing found there is no delay to tell
        limit_s = WINDOW_SAMPLES * data.family.step_s
        tell(case, "delay_median", delay, "samples", WINDOW_SAMPLES, "lower")
        tell(case, "delay_median_s", figures["delay_median_s"], "s", limit_s, "lower")
    return figures


def tell_family(family: Family, sets: list[dict[str, float]]) -> None:
    """Print the means of one source."""
    goals = {
        "vus_pr": ("ratio", family.goal, "higher"),
        "event_f1": ("ratio", EVENT_F1_GOAL, "higher"),
        "false_alarms_per_day": ("1/d", FALSE_ALARMS_PER_DAY, "lower"),
        "delay_median_s": ("s", WINDOW_SAMPLES * family.step_s, "lower"),
    }
    for metric, (unit, goal, better) in goals.items():
        known = [figures[metric] for figures in sets if not np.isnan(figures[metric])]
        value = float(np.mean(known)) if known else float("nan")
        tell(f"{family.name} mean of {len(sets)}", metric, value, unit, goal, better)
    for name in PLAIN:
        value = float(np.mean([figures[name] for figures in sets]))
        tell(f"{family.name} {name}", "vus_pr", value, "ratio", family.goal, "higher")


PLAIN: dict[str, Callable[[LabelledSet], Floats]] = {
    "random": random_scores,
    "window PCA": pca_scores,
    "k-means": kmeans_scores,
}


def main() -> None:
    """Print every set's figures, then the means with the plain detectors beside them."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, default=Path("../shared/data/anomaly"))
    folder = need(options.parse_args().data)
    begun_s = time.perf_counter()
    told: dict[Family, list[dict[str, float]]] = {}
    for path in sorted(folder.glob("*.csv*")):
        data = read_set(path)
        if not data.label.any():
            print(f"skipped: no labelled event in {path.name}", file=sys.stderr)
            continue
        figures = tell_set(data, *shipped(data))
        for name, plain in PLAIN.items():
            figures[name] = vus_pr(plain(data), data.label, VUS_BUFFER_SAMPLES)
        told.setdefault(data.family, []).append(figures)
    if not told:
        print(f"skipped: no labelled set in {folder}", file=sys.stderr)
    for family, sets in told.items():
        tell_family(family, sets)
    tell("anomaly", "run_time", time.perf_counter() - begun_s, "s", 120.0, "lower")


if __name__ == "__main__":
    main()
