"""Where the time of one engine step goes: operators predicted, beside what was measured.

Made for `whaleflux profile decompose`. The prediction is `operators.decompose` on the
catalogue's card; beside it stand the groups of a profile that was measured, and kernels
timed by `profiler.measure.kernels`. Values only; drawing them is the caller's.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from profiler.errors import Refused
from profiler.estimate import Parts, parts
from profiler.measure.profiling.points import decode_shape, mixed_shape, prefill_shape
from profiler.operators import Operator, Replica, decompose
from profiler.scheduler import Shape
from profiler.step_cost import NO_WINDOW, StepCost

PREFILL = re.compile(r"(\d+)(?:@(\d+))?")
DECODE = re.compile(r"(\d+)x(\d+)")
MIXED = re.compile(r"(\d+)\+(\d+)x(\d+)")
DEFAULT = ("prefill 512", "prefill 2048", "decode 1x1024", "decode 64x1024", "mixed 512+64x1024")
"""Shapes that are taken apart where none is asked for."""


class Bound(StrEnum):
    """What an operator's duration is made of."""

    COMPUTE = "compute"
    MEMORY = "memory"
    LINK = "link"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class Row:
    """One operator of one step, all layers, on one GPU; None: not known."""

    name: str
    flops: float
    read_bytes: float
    message_bytes: float
    predicted_s: float | None
    measured_s: float | None
    bound: Bound

    @property
    def intensity(self) -> float | None:
        """FLOPs per byte read from memory; None where nothing is read or multiplied."""
        return self.flops / self.read_bytes if self.flops and self.read_bytes else None


@dataclass(frozen=True, slots=True)
class Step:
    """One step taken apart."""

    title: str
    """`decode 64x1024`: kind, and shape as it was asked for."""
    shape: Shape
    rows: tuple[Row, ...]
    groups: Parts | None = None
    """The same step by a profile's constants, seconds per group."""

    @property
    def predicted_s(self) -> float:
        """Sum of the operators' predictions."""
        return sum(row.predicted_s or 0.0 for row in self.rows)

    @property
    def measured_s(self) -> float | None:
        """Sum of what was measured; None without any."""
        known = [row.measured_s for row in self.rows if row.measured_s is not None]
        return sum(known) if known else None

    @property
    def profile_s(self) -> float | None:
        """Duration by the profile; None without one."""
        return None if self.groups is None else sum(self.groups)


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """Operators timed on a GPU, by step title."""

    gpu: str
    model: str
    steps: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = field(default=())


def parse_shape(title: str, window_tokens: int = NO_WINDOW) -> Shape:
    """Read `prefill 2048`, `prefill 512@1024`, `decode 64x1024` or `mixed 512+64x1024`.

    `Refused` says how it is written.
    """
    kind, _, text = title.partition(" ")
    match = {"prefill": PREFILL, "decode": DECODE, "mixed": MIXED}.get(kind, PREFILL).fullmatch(
        text.replace(" ", "").replace("×", "x")
    )
    numbers = [int(n) for n in match.groups(default="0")] if match else []
    if not numbers or 0 in numbers[: 1 if kind == "prefill" else 3]:
        raise Refused(
            f"--{kind}: {text!r} is no shape: write 2048 or 512@1024 (cached) for prefill, "
            "64x1024 for decode, 512+64x1024 for mixed"
        )
    if kind == "prefill":
        return prefill_shape(numbers[0], numbers[1], window_tokens)
    if kind == "decode":
        return decode_shape(numbers[0], numbers[1], window_tokens)
    return mixed_shape(numbers[1], numbers[2], numbers[0], window_tokens)


def take_apart(
    replica: Replica,
    titles: Sequence[str],
    cost: StepCost | None = None,
    measured: MeasuredTable | None = None,
) -> tuple[Step, ...]:
    """Take steps apart: predicted, and where given by a profile's cost and by measurement."""
    window = replica.architecture.window_tokens or NO_WINDOW
    steps = []
    for title in titles:
        shape = parse_shape(title, window)
        timed = measured.steps.get(title, {}) if measured else {}
        groups = None if cost is None else parts(cost, shape)
        steps.append(Step(title, shape, _rows(replica, shape, timed), groups))
    return tuple(steps)


def _rows(replica: Replica, shape: Shape, timed: Mapping[str, float]) -> tuple[Row, ...]:
    operators = decompose(replica, shape)
    known = {operator.name for operator in operators}
    rows = [
        Row(
            o.name,
            o.flops,
            _read_bytes(replica, shape, o),
            o.message_bytes,
            o.seconds,
            timed.get(o.name),
            _bound(replica, o),
        )
        for o in operators
    ]
    unpredicted = [name for name in timed if name not in known]
    rows += [Row(n, 0.0, 0.0, 0.0, None, timed[n], Bound.MEMORY) for n in unpredicted]
    return tuple(rows)


def _read_bytes(replica: Replica, shape: Shape, operator: Operator) -> float:
    """Bytes read; a chunk's attention reads the KV that it sees once per layer."""
    if operator.name != "prefill attention":
        return operator.read_bytes
    a = replica.architecture
    per_token = replica.kv_dtype.bytes * a.kv_elements_per_token_and_gpu(replica.layout.tensor)
    return per_token * a.full_attention_layers * max(shape.prefill_kv_tokens, 1.0)


def _bound(replica: Replica, operator: Operator) -> Bound:
    if operator.message_bytes:
        return Bound.LINK
    if operator.name == "overhead":
        return Bound.FIXED
    reading_s = operator.read_bytes / replica.gpu.bandwidth_bytes_s / replica.efficiency.weights
    if operator.flops and operator.seconds > 1.0001 * reading_s:
        return Bound.COMPUTE
    return Bound.MEMORY


def read_measured(path: Path) -> MeasuredTable:
    """Read what `python -m profiler.measure.kernels` wrote; `Refused` names the fault."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        steps = {
            str(step["shape"]): {str(k): float(v) for k, v in step["operators"].items()}
            for step in content["shapes"]
        }
        notes = tuple(str(note) for note in content.get("notes", ()))
        return MeasuredTable(str(content["gpu"]), str(content["model"]), steps, notes)
    except OSError as error:
        raise Refused(f"--measured: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"--measured: {path} is no table of operators ({type(error).__name__}: {error}): "
            "make one with python -m profiler.measure.kernels"
        ) from error
