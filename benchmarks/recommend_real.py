"""The recommendation against measured deployments: what choosing by prediction costs.

python -m benchmarks.recommend_real --rows silicon_dev.csv
python -m benchmarks.recommend_real --rows silicon_dev.csv --cross-validate model,gpu

Rows of one model on one GPU type with the same prompt and answer lengths are a group: layouts,
precisions, engines' versions and concurrencies to choose from. The one predicted to make most
output tokens a second per GPU is chosen; its regret is how far its measured figure lies below
the best measured one. Once without an objective, and once for each of some usual bounds on TPOT
that tell the group's rows apart: there a choice that measurably misses the bound makes nothing,
so what is maximised is the tokens times the odds that the bound is met, given the usual error of
the prediction. Engines are chosen within, not between, and once between.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from benchmarks.figure import need, tell
from benchmarks.silicon import ENGINES, Predictions, as_shipped, left_out
from benchmarks.silicon_rows import Row, read_rows

BOUNDS_S = (0.01, 0.015, 0.02, 0.03, 0.05, 0.1)
"""On TPOT."""
ERROR = 0.1
"""Of a predicted TPOT, standard deviation of its logarithm."""

Group = list[Row]
Latencies = Callable[[Row], tuple[float, float]]


def groups(rows: Sequence[Row], *, by_engine: bool) -> list[Group]:
    """Rows to choose among; a group of one leaves no choice."""
    found: dict[tuple[object, ...], Group] = defaultdict(list)
    for row in rows:
        model = row.replica.architecture
        # precisions of a model are one model; the name of a checkpoint is not
        shape = row.members["shape"]
        engine = row.members["engine"] if by_engine else ""
        found[shape, model.vocab_size, row.replica.gpu.name, *row.lengths, engine].append(row)
    return [group for group in found.values() if len(group) > 1]


def tokens_s(row: Row, latencies: tuple[float, float]) -> float:
    """Output tokens a second per GPU of clients that ask again when answered."""
    ttft_s, tpot_s = latencies
    answer = row.lengths[1]
    clients = row.clients * row.replica.layout.data
    return clients * answer / (ttft_s + tpot_s * (answer - 1)) / row.replica.layout.gpus


def measured(row: Row) -> tuple[float, float]:
    """What was measured."""
    return row.ttft_s, row.tpot_s


def regret(group: Group, predicted: Latencies, bound_s: float = np.inf) -> float | None:
    """Share of the best that the choice leaves; None where no row meets the bound."""
    best = max((tokens_s(r, measured(r)) for r in group if r.tpot_s <= bound_s), default=0.0)
    if best == 0.0:
        return None
    chosen = max(
        group, key=lambda row: tokens_s(row, predicted(row)) * _odds(row, predicted, bound_s)
    )
    got = tokens_s(chosen, measured(chosen)) if chosen.tpot_s <= bound_s else 0.0
    return max(1.0 - got / best, 0.0)


def _odds(row: Row, predicted: Latencies, bound_s: float) -> float:
    """Probability that a row meets a bound; 1 without one."""
    return float(ndtr(np.log(bound_s / predicted(row)[1]) / ERROR))


def _tells_apart(group: Group, bound_s: float) -> bool:
    """Whether some rows meet a bound and others do not."""
    met = [row.tpot_s <= bound_s for row in group]
    return any(met) and not all(met)


def report(case: str, rows: Sequence[Row], found: Predictions) -> None:
    """Tell the regrets of all groups."""
    kept = [row for row in rows if row.id in found and not row.queued]
    predicted: Latencies = lambda row: found[row.id]  # noqa: E731
    chance = np.random.default_rng(0)
    for name, by_engine in (("", True), (", engines compared too", False)):
        choices = groups(kept, by_engine=by_engine)
        free = [regret(group, predicted) for group in choices]
        bounded = [
            regret(group, predicted, bound_s)
            for group in choices
            for bound_s in BOUNDS_S
            if _tells_apart(group, bound_s)
        ]
        random = [
            1.0 - tokens_s(row, measured(row)) / max(tokens_s(r, measured(r)) for r in group)
            for group in choices
            for row in chance.choice(np.array(group, object), 5)
        ]
        _tell(f"{case}{name}, most tokens ({len(choices)} groups)", free)
        _tell(f"{case}{name}, within a TPOT bound ({len(bounded)} choices)", bounded)
        _tell(f"{case}{name}, chosen by chance", random)


def _tell(case: str, regrets: Sequence[float | None]) -> None:
    known = np.array([value for value in regrets if value is not None])
    if known.size:
        tell(case, "median regret", float(np.median(known)), "ratio", 0.0, "lower")
        tell(case, "mean regret", float(known.mean()), "ratio", 0.05, "lower")


def main() -> None:
    """Choose among the rows that were given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--cross-validate", default="", help="model,gpu: leave each out of the fit")
    asked = parser.parse_args()
    rows = read_rows(need(asked.rows), ENGINES)
    if asked.cross_validate:
        report("left out", rows, left_out(rows, asked.cross_validate.split(",")))
    else:
        report("as shipped", rows, as_shipped(rows))


if __name__ == "__main__":
    main()
