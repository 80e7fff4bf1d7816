"""Step cost from operator times that were measured on the GPU itself.

One layout is read: three CSV files of one model on one GPU type and tensor parallel size,

    PREFIX.dense.csv         layer, tokens, time_us          one kernel group of one layer
    PREFIX.per_sequence.csv  layer, sequences, time_us       output head, sampler
    PREFIX.attention.csv     prefill_chunk, kv_prefill, n_decode, kv_decode, time_us
                                                             one layer's attention of one step

The dense curve is taken as measured. Attention is fitted with the terms of the step-cost
formula, weighted so that errors count by what they do to a whole step. Rows are checked; what
the tables do not cover is said in the notes.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from profiler.analytical import analytical_cost
from profiler.errors import Refused
from profiler.estimate import DATA_SHEET, GROUPS, OPERATORS, Estimate, Uncertainty
from profiler.operators import Replica
from profiler.step_cost import GRID_TOKENS, StepCost, dense_curve

Floats = NDArray[np.float64]

STEP_OVERHEAD_S = 0.1e-3
"""Between the kernels of two steps that are scheduled ahead and launched as graphs."""
HOST_SEQUENCE_S = 8e-6
"""What the host does for a sequence in each step: scheduling it, taking its token in."""

_ONCE = frozenset({"embedding", "final_layernorm"})
_TWICE_A_LAYER = frozenset({"layernorm"})
_EVERY_LAYER = frozenset({"act_fn", "down_proj", "gate_up_proj", "o_proj", "qkv_proj",
                          "rotary_emb", "q_norm", "k_norm", "gate", "experts"})  # fmt: skip
_KNOWN = _ONCE | _TWICE_A_LAYER | _EVERY_LAYER
_LONGEST_CONTEXT = 9_000
_MOST_KV_TOKENS = 131_072
"""Attention rows beyond these are rare in serving and would bend the fit."""


@dataclass(frozen=True, slots=True)
class OperatorTables:
    """The tables as read; times in seconds."""

    dense: Mapping[str, tuple[Floats, Floats]]
    """Layer → (tokens ascending, seconds)."""
    per_sequence: Mapping[str, tuple[Floats, Floats]]
    """Layer → (sequences ascending, seconds)."""
    attention: Floats
    """[rows, 5] prefill chunk, its cached prefix, decodes, context of each, seconds."""


def read_operator_tables(prefix: Path) -> OperatorTables:
    """Read `PREFIX.dense.csv` and its two companions; `Refused` names file, row and column."""
    return OperatorTables(
        dense=_curves(_file(prefix, "dense"), "tokens"),
        per_sequence=_curves(_file(prefix, "per_sequence"), "sequences"),
        attention=_attention(_file(prefix, "attention")),
    )


def operator_estimate(replica: Replica, tables: OperatorTables) -> tuple[Estimate, tuple[str, ...]]:
    """Constants from the tables, the rest from the data sheet; and notes on what is missing."""
    guess = analytical_cost(replica)
    layers = replica.architecture.layers
    dense = _dense(tables, layers)
    head_s, sequence_s = _line(tables)
    attention_s, constants = _fit_attention(tables.attention, layers, np.array(dense))
    sequence_s += HOST_SEQUENCE_S + constants.pop("sequence_s")
    overhead_s = guess.step_overhead_s - replica.overhead_s + STEP_OVERHEAD_S
    cost = StepCost(
        **{
            **guess._asdict(),
            **constants,
            "step_overhead_s": overhead_s + head_s + attention_s,
            "sequence_s": sequence_s,
            "dense_s": dense,
        }
    )
    known = {"weights", "compute", "prefill_attention", "decode_attention", "mixed", "sequence"}
    errors = {n: getattr(OPERATORS if n in known else DATA_SHEET, n) for n in GROUPS}
    origins = tuple("operator tables" if n in known else "data sheet" for n in GROUPS)
    estimate = Estimate(cost, replace(Uncertainty(**errors), overhead=OPERATORS.overhead), origins)
    return estimate, _notes(tables)


def _file(prefix: Path, kind: str) -> Path:
    return prefix.with_name(f"{prefix.name}.{kind}.csv")


def _rows(file: Path, columns: tuple[str, ...], text: int) -> list[tuple[str, list[float]]]:
    """Each row as its label and numbers; `text` columns first are labels."""
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            reader = csv.DictReader(handle)
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise Refused(f"{file}: no column {', '.join(missing)}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file}: cannot be read: {error}") from error
    if not rows:
        raise Refused(f"{file}: holds no rows: it was cut short")
    return [_row(file, i, row, columns, text) for i, row in enumerate(rows, start=1)]


def _row(
    file: Path, number: int, row: Mapping[str, str | None], columns: tuple[str, ...], text: int
) -> tuple[str, list[float]]:
    numbers = []
    for column in columns[text:]:
        try:
            value = float(row[column] or "")
        except ValueError:
            raise Refused(
                f"{file}: row {number}: {column} is {row[column]!r}: give a number"
            ) from None
        if not 0 <= value < float("inf"):
            raise Refused(f"{file}: row {number}: {column} is {value}: give a number ≥ 0")
        numbers.append(value)
    return "".join(str(row[c]) for c in columns[:text]), numbers


def _curves(file: Path, size: str) -> dict[str, tuple[Floats, Floats]]:
    found: dict[str, dict[float, float]] = {}
    for layer, (count, time_us) in _rows(file, ("layer", size, "time_us"), 1):
        found.setdefault(layer, {})[count] = time_us * 1e-6
    curves = {}
    for layer, points in found.items():
        counts = np.array(sorted(points))
        curves[layer] = counts, np.array([points[count] for count in counts])
    return curves


def _attention(file: Path) -> Floats:
    columns = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    table = np.array([numbers for _, numbers in _rows(file, columns, 0)])
    table[:, 4] *= 1e-6
    return table


def _repeats(layer: str, layers: int) -> int:
    if layer in _ONCE:
        return 1
    return 2 * layers if layer in _TWICE_A_LAYER else layers


def _dense(tables: OperatorTables, layers: int) -> tuple[float, ...]:
    """All layers' dense work on the grid; each layer's table goes on beyond its end."""
    total = np.zeros(GRID_TOKENS.size)
    for layer, (tokens, seconds) in tables.dense.items():
        total += _repeats(layer, layers) * np.array(dense_curve(tokens.tolist(), seconds.tolist()))
    return tuple(np.maximum.accumulate(total).tolist())


def _line(tables: OperatorTables) -> tuple[float, float]:
    """Fixed and per-sequence seconds of what works on sequences."""
    fixed = slope = 0.0
    for sequences, seconds in tables.per_sequence.values():
        a = np.column_stack([np.ones(sequences.size), sequences])
        (constant, each), _ = nnls(a, seconds)
        fixed, slope = fixed + constant, slope + each
    return fixed, slope


def _fit_attention(rows: Floats, layers: int, dense: Floats) -> tuple[float, dict[str, float]]:
    """Fixed seconds of a step's attention, and the constants of the formula's terms."""
    chunk, prefix, decodes, context, seconds = rows.T
    seconds = seconds * layers
    kv = decodes * context
    usual = (kv <= _MOST_KV_TOKENS) & (chunk + prefix <= _LONGEST_CONTEXT)
    weight = 1.0 / (seconds + np.interp(chunk + decodes, GRID_TOKENS, dense))
    prefill_terms = np.column_stack([np.ones(chunk.size), chunk * (prefix + chunk / 2),
                                     prefix + chunk])  # fmt: skip
    decode_terms = np.column_stack([np.ones(chunk.size), decodes, kv])
    mixed_terms = np.column_stack([decodes, kv, decodes * chunk])
    pure_prefill, pure_decode = usual & (decodes == 0), usual & (chunk == 0)
    mixed = usual & (decodes > 0) & (chunk > 0)
    for name, which in (("prefill", pure_prefill), ("decode", pure_decode)):
        if which.sum() < 3:
            raise Refused(
                f"attention table: only {which.sum()} rows of pure {name}: give 3 or more"
            )
    fixed_p, pair_s, read_s = _weighted(prefill_terms, seconds, weight, pure_prefill)
    fixed_d, sequence_s, kv_s = _weighted(decode_terms, seconds, weight, pure_decode)
    mixed_sequence_s, mixed_kv_s, padded_s = sequence_s, kv_s, 0.0
    if mixed.sum() >= 3:
        alone = prefill_terms @ np.array([fixed_p, pair_s, read_s])
        left = np.maximum(seconds - alone, 0.0)
        mixed_sequence_s, mixed_kv_s, padded_s = _weighted(mixed_terms, left, weight, mixed)
    return max(fixed_p, fixed_d), {
        "sequence_s": sequence_s,
        "prefill_pair_s": pair_s,
        "prefill_kv_s": read_s,
        "kv_token_s": kv_s,
        "mixed_kv_ratio": max(mixed_kv_s / kv_s, 1.0) if kv_s > 0 else 1.0,
        "mixed_sequence_s": max(mixed_sequence_s - sequence_s, 0.0),
        "padded_query_s": padded_s,
    }


def _weighted(terms: Floats, seconds: Floats, weight: Floats, which: NDArray[np.bool_]) -> Floats:
    """Non-negative least squares of relative errors."""
    w = weight[which]
    found: Floats = nnls(terms[which] * w[:, None], seconds[which] * w)[0]
    return found


def _notes(tables: OperatorTables) -> tuple[str, ...]:
    notes = ["step overhead and API time are not in operator tables: priors were used"]
    longest = min(tokens[-1] for tokens, _ in tables.dense.values())
    if longest < GRID_TOKENS[-1]:
        notes.append(f"dense layers were measured up to {longest:.0f} tokens: extrapolated beyond")
    notes += [
        f"layer {layer!r} is not known: counted once in every layer"
        for layer in sorted(set(tables.dense) - _KNOWN)
    ]
    if not ((tables.attention[:, 0] > 0) & (tables.attention[:, 2] > 0)).any():
        notes.append("no row of attention mixes prefill and decode: no surplus was assumed")
    return tuple(notes)
