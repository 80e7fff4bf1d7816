"""Fit what kernels reach of the data sheet on many deployments at once.

python -m benchmarks.population --rows silicon_dev.csv --runs DIR --out profiler/efficiencies.json

One set of constants for everybody, and effects for each engine, version, GPU, model shape and
combination, all with normal priors on their logarithms: ridge regression on a non-linear
model, so that a member with few rows stays near its kin. Errors count with a Cauchy loss.
The load generators get four constants each: how much of the mean TTFT is the burst of first
requests, the middle of the distribution, a factor, and the API time of a request.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.figure import need
from benchmarks.operator_rows import operator_rows
from benchmarks.silicon_rows import Row, read_rows
from profiler.analytical import analytical_cost
from profiler.efficiencies import EFFECTS, LEVELS, Population, with_effects
from profiler.exposure import TERMS, Exposure, constants
from profiler.operators import Efficiency, Replica
from profiler.step_cost import GRID_SIZE

Floats = NDArray[np.float64]

GLOBAL_SPREADS = {
    "compute_bf16": 0.3, "compute_fp8": 0.3, "compute_fp4": 0.4, "weights": 0.1,
    "experts_compute": 0.5, "experts_weights": 0.4, "prefill_attention": 0.5, "kv": 0.2,
    "elementwise_bytes": 0.7, "link": 0.5, "link_latency_ratio": 0.6, "mixed_kv_ratio": 0.3,
    "padded_query_s": 1.5, "step_s": 0.7, "layer_s": 0.8, "expert_layer_s": 0.8,
    "sequence_s": 0.8, "knee": 0.4,
}  # fmt: skip
START = Efficiency(
    compute_bf16=0.7, compute_fp8=0.6, compute_fp4=0.45, weights=0.88, experts_compute=0.5,
    experts_weights=0.8, prefill_attention=0.4, kv=0.8, elementwise_bytes=12.0, link=0.7,
    mixed_kv_ratio=1.3, padded_query_s=1e-8, step_s=2e-3, layer_s=2e-5, expert_layer_s=3e-5,
    sequence_s=2e-5, request_s=15e-3, knee=5.0,
)  # fmt: skip
"""Where the search begins, and what the priors are centred on."""
SPREADS = {
    "engine": (0.2, 0.08, 0.2, 0.4, 0.1, 0.3), "version": (0.1, 0.05, 0.15, 0.3, 0.05, 0.3),
    "gpu": (0.2, 0.1, 0.2, 0.2, 0.4, 0.3), "shape": (0.15, 0.08, 0.4, 0.3, 0.05, 0.3),
    "deployment": (0.15, 0.1, 0.25, 0.3, 0.05, 0.3),
}  # fmt: skip
"""Prior standard deviations between the members of a level, in the order of EFFECTS."""
CLIENT_START, CLIENT_SPREAD = (-1.5, -3.5, 0.0, 0.0), (0.7, 0.8, 0.25, 1.5)
"""logit of the burst's share, log API time, log factor, logit of the middle's share."""
TTFT_ERROR, TPOT_ERROR = 0.15, 0.07
FORGIVEN = 2.0
WEIGHTS = {"vllm": (1.0, 1.0)}
OTHER_WEIGHTS = (0.03, 0.5)
"""Of TTFT and TPOT rows: other engines' tell of the hardware, less of vLLM's scheduler."""
MOST_BANDWIDTH = 0.95
"""No kernel reads faster than the memory gives."""
_STEP = 1e-3


@dataclass(frozen=True)
class Fit:
    """A population with the load generators' constants."""

    population: Population
    clients: dict[str, tuple[float, ...]]

    def predict(self, row: Row) -> tuple[float, float]:
        """TTFT and TPOT of a row, seconds; unknown members have no effect."""
        effects = effects_of(self.population, row)
        cost = analytical_cost(replica_with(row, self.population.base, effects))
        client = self.clients[row.client]
        api_s = float(np.exp(client[1] + effects["request"]))
        return ttft_exposure(row, client).seconds(cost) + api_s, row.tpot.seconds(cost)


def effects_of(population: Population, row: Row) -> dict[str, float]:
    """Sum the effects of a row's members."""
    known = [population.effects[level].get(row.members[level], {}) for level in LEVELS]
    return {effect: sum(k.get(effect, 0.0) for k in known) for effect in EFFECTS}


def replica_with(row: Row, base: Efficiency, effects: dict[str, float]) -> Replica:
    """Give a row's replica other efficiencies."""
    return replace(row.replica, efficiency=with_effects(base, effects))


def ttft_exposure(row: Row, client: tuple[float, ...]) -> Exposure:
    """Exposure of the mean TTFT as the load generator saw it, without its API time."""
    burst, middle = (1 / (1 + np.exp(-client[i])) for i in (0, 3))
    shares = (1 - middle) * burst, (1 - middle) * (1 - burst) * np.exp(client[2]), middle
    parts = row.first, row.later, row.middle
    return Exposure(
        sum((share * p.terms for share, p in zip(shares, parts, strict=True)), np.zeros(TERMS)),
        sum((share * p.dense for share, p in zip(shares, parts, strict=True)), np.zeros(GRID_SIZE)),
    )


def _mixture(parts: Floats, clients: Floats, request: Floats) -> Floats:
    """[rows] TTFT of first, later and middle requests ([rows, 3]) as the client mixes them."""
    burst, middle = 1 / (1 + np.exp(-clients[:, 0])), 1 / (1 + np.exp(-clients[:, 3]))
    usual = (1 - burst) * parts[:, 1] * np.exp(clients[:, 2]) + burst * parts[:, 0]
    api: Floats = np.exp(clients[:, 1] + request)
    mixed: Floats = (1 - middle) * usual + middle * parts[:, 2] + api
    return mixed


class Problem:
    """The regression: parameters in a vector, residuals and their slopes."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.members = sorted({(lv, r.members[lv]) for r in rows for lv in LEVELS})
        self.clients = sorted({r.client for r in rows})
        self.globals = tuple(GLOBAL_SPREADS)
        self._cells: dict[Any, list[int]] = {}
        for i, row in enumerate(rows):
            bare = replace(row.replica, efficiency=START)
            key = bare, tuple(row.members[lv] for lv in LEVELS)
            self._cells.setdefault(key, []).append(i)
        exposures = [(r.first, r.later, r.middle, r.tpot) for r in rows]
        self._exposed = np.array([[_flat(e) for e in four] for four in exposures])
        self._measured = np.log([[r.ttft_s, r.tpot_s] for r in rows])
        self._client = np.array([self.clients.index(r.client) for r in rows])
        weights = np.array([WEIGHTS.get(r.members["engine"], OTHER_WEIGHTS) for r in rows])
        weights[[r.queued for r in rows], 0] = 0.0
        self._weights = weights / np.array([TTFT_ERROR, TPOT_ERROR])
        self.spreads = np.concatenate(
            [
                [GLOBAL_SPREADS[name] for name in self.globals],
                *(SPREADS[level] for level, _ in self.members),
                CLIENT_SPREAD * len(self.clients),
            ]
        )

    def split(self, z: Floats) -> tuple[Efficiency, Floats, Floats]:
        """Base efficiency, effects [members, effects], clients [kinds, 4]."""
        n, m = len(self.globals), len(self.members) * len(EFFECTS)
        base = replace(
            START,
            **{
                name: getattr(START, name) * float(np.exp(z[i]))
                for i, name in enumerate(self.globals)
            },
        )
        base = replace(
            base,
            kv=min(base.kv, MOST_BANDWIDTH),
            weights=min(base.weights, MOST_BANDWIDTH),
            experts_weights=min(base.experts_weights, MOST_BANDWIDTH),
        )
        effects = z[n : n + m].reshape(-1, len(EFFECTS))
        return base, effects, z[n + m :].reshape(-1, 4) + CLIENT_START

    def _totals(self, effects: Floats, member_names: tuple[str, ...]) -> Floats:
        at = {member: i for i, member in enumerate(self.members)}
        rows = [at[member] for member in zip(LEVELS, member_names, strict=True)]
        total: Floats = effects[rows].sum(axis=0)
        return total

    def parts(self, z: Floats) -> tuple[Floats, Floats, Floats]:
        """[rows, 4] mean seconds of the exposures, [rows] request effects, clients."""
        base, effects, clients = self.split(z)
        seconds, request = np.zeros((len(self.rows), 4)), np.zeros(len(self.rows))
        for (replica, names), rows in self._cells.items():
            total = self._totals(effects, names)
            vector = _vector(replica, base, total)
            seconds[rows] = self._exposed[rows] @ vector
            request[rows] = total[-1]
        return seconds, request, clients

    def residuals(self, z: Floats) -> Floats:
        """Weighted errors of all latencies, then the parameters against their priors."""
        seconds, request, clients = self.parts(z)
        predicted = self._latencies(seconds, request, clients)
        errors = (np.log(predicted) - self._measured) * self._weights
        return np.concatenate([_cauchy(errors).ravel(), z / self.spreads])

    def _latencies(self, seconds: Floats, request: Floats, clients: Floats) -> Floats:
        ttft = _mixture(seconds[:, :3], clients[self._client], request)
        return np.column_stack([ttft, seconds[:, 3]])

    def slopes(self, z: Floats) -> Floats:
        """Jacobian of `residuals`, by differences of the costs and of the mixture."""
        seconds, request, clients = self.parts(z)
        base, effects, _ = self.split(z)
        n_rows, n = len(self.rows), len(self.globals)
        moved = np.zeros((n_rows, 2, z.size))
        here = np.log(self._latencies(seconds, request, clients))
        at = {member: i for i, member in enumerate(self.members)}
        for (replica, names), rows in self._cells.items():
            total = self._totals(effects, names)
            vector = _vector(replica, base, total)
            for j, name in enumerate(self.globals):
                changed = replace(base, **{name: getattr(base, name) * float(np.exp(_STEP))})
                delta = _vector(replica, changed, total) - vector
                shifted = seconds[rows] + self._exposed[rows] @ delta
                moved[rows, :, j] = self._change(rows, shifted, request, clients, here)
            for j in range(len(EFFECTS)):
                more = total.copy()
                more[j] += _STEP
                delta = _vector(replica, base, more) - vector
                shifted = seconds[rows] + self._exposed[rows] @ delta
                moving = request.copy()
                moving[rows] = more[-1]
                change = self._change(rows, shifted, moving, clients, here)
                for member in zip(LEVELS, names, strict=True):
                    moved[rows, :, n + at[member] * len(EFFECTS) + j] = change
        first = n + len(self.members) * len(EFFECTS)
        for k in range(4):
            changed_clients = clients.copy()
            changed_clients[:, k] += _STEP
            change = np.log(self._latencies(seconds, request, changed_clients)) - here
            for kind in range(len(self.clients)):
                which = self._client == kind
                moved[which, :, first + 4 * kind + k] = change[which]
        errors = (here - self._measured) * self._weights
        scale = self._weights * _cauchy_slope(errors)
        jacobian = (moved / _STEP * scale[:, :, None]).reshape(-1, z.size)
        return np.vstack([jacobian, np.diag(1.0 / self.spreads)])

    def _change(
        self, rows: list[int], shifted: Floats, request: Floats, clients: Floats, here: Floats
    ) -> Floats:
        ttft = _mixture(shifted[:, :3], clients[self._client[rows]], request[rows])
        change: Floats = np.log(np.column_stack([ttft, shifted[:, 3]])) - here[rows]
        return change


def _flat(exposure: Exposure) -> Floats:
    return np.concatenate([exposure.terms, exposure.dense])


def _vector(replica: Replica, base: Efficiency, total: Floats) -> Floats:
    """Constants and curve of a cell, in the order of `_flat`."""
    named = dict(zip(EFFECTS, total.tolist(), strict=True))
    cost = analytical_cost(replace(replica, efficiency=with_effects(base, named)))
    return np.concatenate([constants(cost), cost.dense_s])


def _cauchy(errors: Floats) -> Floats:
    squared: Floats = FORGIVEN**2 * np.log1p((errors / FORGIVEN) ** 2)
    signed: Floats = np.sign(errors) * np.sqrt(squared)
    return signed


def _cauchy_slope(errors: Floats) -> Floats:
    """Give the derivative of `_cauchy`."""
    x = np.maximum(np.abs(errors) / FORGIVEN, 1e-6)
    slope: Floats = x / (1 + x**2) / np.sqrt(np.log1p(x**2))
    return slope


def fit(rows: Sequence[Row], *, evaluations: int = 30) -> Fit:
    """Fit all constants; deterministic."""
    problem = Problem(rows)
    found = least_squares(
        problem.residuals,
        np.zeros(problem.spreads.size),
        jac=problem.slopes,
        x_scale=problem.spreads,
        max_nfev=evaluations,
    )
    base, effects, clients = problem.split(found.x)
    known: dict[str, dict[str, dict[str, float]]] = {level: {} for level in LEVELS}
    for (level, member), values in zip(problem.members, effects.tolist(), strict=True):
        known[level][member] = dict(zip(EFFECTS, values, strict=True))
    spread = {lv: dict(zip(EFFECTS, SPREADS[lv], strict=True)) for lv in LEVELS}
    return Fit(
        Population(base, known, spread, _left(problem, found.x)),
        dict(zip(problem.clients, (tuple(c) for c in clients.tolist()), strict=True)),
    )


def _left(problem: Problem, z: Floats) -> dict[str, float]:
    """What is left of each effect's error where every member is known."""
    seconds, _, _ = problem.parts(z)
    tpot = np.array([row.tpot_s for row in problem.rows])
    typical = float(np.median(np.abs(np.log(seconds[:, 3] / tpot)))) * 1.4826
    return {"compute": 1.5 * typical, "bandwidth": typical, "experts": 1.5 * typical,
            "overhead": 3 * typical, "mixed": 0.1, "request": 0.3}  # fmt: skip


def as_json(found: Fit) -> dict[str, Any]:
    """What `profiler.efficiencies` reads, rounded to what the data can tell."""
    population = found.population
    return {
        "source": "fitted on the silicon sample of ai-dynamo/aiconfigurator (Apache-2.0), a part",
        "base": {name: float(f"{v:.4g}") for name, v in asdict(population.base).items()},
        "effects": {
            level: {m: {e: round(v, 3) for e, v in effects.items()} for m, effects in seen.items()}
            for level, seen in population.effects.items()
        },
        "spread": population.spread,
        "error": {name: round(v, 3) for name, v in population.error.items()},
        "clients": {name: [round(v, 3) for v in c] for name, c in found.clients.items()},
    }


def main() -> None:
    """Fit all engines' rows and write the file that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder of operator tables")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    rows = read_rows(need(asked.rows), ("vllm", "sglang", "trtllm"))
    found = fit([*rows, *operator_rows(need(asked.runs))])
    asked.out.write_text(json.dumps(as_json(found), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
