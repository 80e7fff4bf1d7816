"""Measured deployments against the step cost: TTFT and TPOT, predicted beside measured.

python -m benchmarks.silicon --rows silicon_dev.csv                                as shipped
python -m benchmarks.silicon --rows silicon_dev.csv --cross-validate model,gpu     left out
python -m benchmarks.silicon --rows silicon_dev.csv --points 2                     calibrated

As shipped, the constants of `profiler.efficiencies` predict every row. Cross-validation fits
them anew on all the other rows, for each combination named. With points, so many rows of each
deployment calibrate the prediction of its other rows. TTFTs over 10 s sat behind limits that
the file does not give; the figures leave those rows out and are told once more with them.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from benchmarks.figure import need, tell
from benchmarks.population import CLIENT_START, Fit, effects_of, fit, replica_with, ttft_exposure
from benchmarks.silicon_rows import Row, read_rows
from profiler.analytical import analytical_cost
from profiler.calibrate import Measurement, calibrate, predict_s
from profiler.efficiencies import find_efficiency, population
from profiler.estimate import Estimate

ENGINES = ("vllm", "sglang", "trtllm")
GOALS = {"shipped": (0.20, 0.10), "left out": (0.20, 0.10), "calibrated": (0.15, 0.05)}
TTFT_ERROR, TPOT_ERROR = 0.10, 0.03
"""Of one measured row, for the calibration."""

Predictions = dict[str, tuple[float, float]]
"""Row id → TTFT, TPOT in seconds."""


def shipped() -> Fit:
    """Read the constants that ship, and those of the load generators beside them."""
    text = files("profiler").joinpath("efficiencies.json").read_text(encoding="utf-8")
    clients = {name: tuple(c) for name, c in json.loads(text)["clients"].items()}
    for kind in ("dump", "file", "aic"):
        clients.setdefault(kind, CLIENT_START)
    return Fit(population(), clients)


def as_shipped(rows: Sequence[Row]) -> Predictions:
    """Predict with what ships."""
    known = shipped()
    return {row.id: known.predict(row) for row in rows}


def left_out(rows: Sequence[Row], by: Sequence[str]) -> Predictions:
    """Predict each combination from a fit on all rows without it, whatever their engine."""
    levels = {"model": "shape", "gpu": "gpu", "engine": "engine", "version": "version"}
    names = [levels[name] for name in by]
    combinations: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        combinations[tuple(row.members[n] for n in names)].append(row)
    found: Predictions = {}
    for combination, members in combinations.items():
        others = [r for r in rows if tuple(r.members[n] for n in names) != combination]
        print(f"left out: {', '.join(combination)} ({len(members)} rows)", file=sys.stderr)
        known = fit(others)
        found |= {row.id: known.predict(row) for row in members}
    return found


def calibrated(rows: Sequence[Row], points: int) -> Predictions:
    """Predict each deployment's rows after a calibration on so many of them."""
    deployments: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        deployments[row.deployment].append(row)
    known, found = shipped(), {}
    for members in deployments.values():
        usable = [r for r in members if not r.queued]
        chosen = _informative(usable, points)
        if len(members) <= len(chosen):
            continue
        prior = _prior(known, members[0])
        client = known.clients[members[0].client]
        measured = [m for row in chosen for m in _measurements(row, client)]
        cost = calibrate(prior, measured, cross_validate=False).estimate.cost
        for row in members:
            if row not in chosen:
                ttft, tpot = _measurements(row, client)
                found[row.id] = predict_s(cost, ttft), predict_s(cost, tpot)
    return found


def _informative(rows: Sequence[Row], points: int) -> list[Row]:
    """Pick the ends of the range of TPOT, then what lies between, evenly."""
    ordered = sorted(rows, key=lambda r: (r.tpot_s, r.id))
    places = np.linspace(0, len(ordered) - 1, min(points, len(ordered)))
    return [ordered[i] for i in sorted({round(p) for p in places.tolist()})]


def _prior(known: Fit, row: Row) -> Estimate:
    effects = effects_of(known.population, row)
    replica = replica_with(row, known.population.base, effects)
    cost = analytical_cost(replica)._replace(request_s=_api_s(known, row, effects["request"]))
    engine, _, version = row.members["version"].partition(" ")
    _, uncertainty = find_efficiency(replica.architecture, replica.gpu.name, engine, version)
    return Estimate.from_source("shipped", cost, uncertainty)


def _api_s(known: Fit, row: Row, request: float) -> float:
    return float(np.exp(known.clients[row.client][1] + request))


def _measurements(row: Row, client: tuple[float, ...]) -> tuple[Measurement, Measurement]:
    return (
        Measurement("TTFT", (), row.ttft_s, 1.0, TTFT_ERROR, ttft_exposure(row, client)),
        Measurement("TPOT", (), row.tpot_s, 0.0, TPOT_ERROR, row.tpot),
    )


def report(case: str, goals: tuple[float, float], rows: Sequence[Row], found: Predictions) -> None:
    """Tell mean and median |relative error| of TTFT and TPOT, by engine, and by GPU."""
    for engine in ENGINES:
        kept = [r for r in rows if r.id in found and r.members["engine"] == engine]
        timed = [r for r in kept if not r.queued]
        _tell(f"{case}, {engine}", goals, timed, found)
        _tell(f"{case}, {engine}, queued rows too", goals, kept, found)
        for gpu in sorted({row.replica.gpu.name for row in timed}):
            some = [r for r in timed if r.replica.gpu.name == gpu]
            _tell(f"{case}, {engine} on {gpu}", goals, some, found)


def _tell(case: str, goals: tuple[float, float], rows: Sequence[Row], found: Predictions) -> None:
    if not rows:
        return
    measured = np.array([[r.ttft_s, r.tpot_s] for r in rows])
    errors = np.abs(np.array([found[r.id] for r in rows]) / measured - 1)
    for name, goal, values in zip(("TTFT", "TPOT"), goals, errors.T, strict=True):
        for statistic, of in (("mean", np.mean), ("median", np.median)):
            what = f"{case} ({len(rows)} rows)"
            tell(what, f"{name} {statistic} error", float(of(values)), "ratio", goal, "lower")


def main() -> None:
    """Predict the rows in the way that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--points", type=int, default=0, help="rows a deployment to calibrate on")
    parser.add_argument("--cross-validate", default="", help="model,gpu: leave each out")
    asked = parser.parse_args()
    rows = read_rows(need(asked.rows), ENGINES)
    if asked.cross_validate:
        found = left_out(rows, asked.cross_validate.split(","))
        report("left out", GOALS["left out"], rows, found)
    elif asked.points:
        case = f"{asked.points} points a deployment"
        report(case, GOALS["calibrated"], rows, calibrated(rows, asked.points))
    else:
        report("as shipped", GOALS["shipped"], rows, as_shipped(rows))


if __name__ == "__main__":
    main()
