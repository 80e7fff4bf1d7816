"""When requests arrive and how long they are: recorded, or drawn from a process.

Read by the injector (`profiler.measure`), the twin and the recommender's workload. It says
nothing about what the requests hold, nor how they are served.
"""

import csv
import gzip
import zlib
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from profiler.errors import Refused

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

REQUIRED = ("arrival_s", "input_tokens", "output_tokens")
"""Columns that a trace's file must have."""
PREFIX_BLOCK_TOKENS = 512
"""Tokens per block of Mooncake's `prefix_blocks_seen`."""
BURN_IN_INTERVALS = 20
"""A renewal process is stationary after about cv² intervals; this many times that are cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in order of arrival; the arrays are of one length and must not be written to."""

    arrival_s: Floats
    """Seconds since the trace began, ascending; equal times keep their order."""
    input_tokens: Ints
    """Prompt tokens, at least 1."""
    output_tokens: Ints
    """Generated tokens. 0 stands for a request that was recorded without an answer: callers
    that cannot serve one clamp it."""
    prefix_tokens: Ints
    """Prompt tokens already seen earlier in the trace; 0 when unknown."""

    def __post_init__(self) -> None:
        """Refuse arrays that are no trace, naming the field and the first bad row."""
        n = self.arrival_s.size
        for name in ("arrival_s", "input_tokens", "output_tokens", "prefix_tokens"):
            values = getattr(self, name)
            dtype = np.float64 if name == "arrival_s" else np.int64
            if values.shape != (n,) or values.dtype != dtype:
                raise Refused(
                    f"{name} must be {np.dtype(dtype)}[{n}], got {values.dtype}{values.shape}"
                )
        for column, bad, mend in _faults(self):
            if bad.any():
                row = int(np.argmax(bad))
                raise Refused(f"row {row + 1}: {column} is {getattr(self, column)[row]}: {mend}")

    @classmethod
    def of(
        cls,
        arrival_s: npt.ArrayLike,
        input_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        prefix_tokens: npt.ArrayLike | None = None,
    ) -> Self:
        """Make a trace of anything that numpy takes for numbers; copies, and then freezes."""
        arrivals = np.array(arrival_s, dtype=np.float64)
        arrivals.setflags(write=False)
        prefixes = np.zeros(arrivals.shape) if prefix_tokens is None else prefix_tokens
        return cls(
            arrivals,
            _whole("input_tokens", input_tokens),
            _whole("output_tokens", output_tokens),
            _whole("prefix_tokens", prefixes),
        )

    def __len__(self) -> int:
        """How many requests there are."""
        return int(self.arrival_s.size)

    @property
    def duration_s(self) -> float:
        """The last arrival's time; 0 without any."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    @property
    def rate_rps(self) -> float | None:
        """Requests per second up to the last arrival; None when no time passes."""
        return len(self) / self.duration_s if self.duration_s > 0 else None

    def until(self, duration_s: float) -> Self:
        """The requests that arrive before `duration_s`."""
        return self.take(int(np.searchsorted(self.arrival_s, duration_s)))

    def take(self, n: int) -> Self:
        """The first `n` requests, or all when there are fewer."""
        if n < 0:
            raise Refused(f"cannot take {n} requests of a trace: ask for 0 or more")
        return replace(
            self,
            arrival_s=self.arrival_s[:n],
            input_tokens=self.input_tokens[:n],
            output_tokens=self.output_tokens[:n],
            prefix_tokens=self.prefix_tokens[:n],
        )

    def compressed(self, factor: float) -> Self:
        """The same requests, arriving `factor` times as fast."""
        if not 0 < factor < np.inf:
            raise Refused(f"a trace's time cannot be divided by {factor}: give a positive factor")
        return replace(self, arrival_s=self.arrival_s / factor)


def _whole(column: str, values: npt.ArrayLike) -> Ints:
    """A frozen copy as int64; numpy alone would cut fractions and turn NaN into a number."""
    given = np.atleast_1d(np.asarray(values))
    with np.errstate(invalid="ignore"):
        counts = np.array(given, dtype=np.int64)
    bad = counts != given
    if bad.any():
        row = int(np.argmax(bad))
        raise Refused(f"row {row + 1}: {column} is {given[row]}: give a whole number")
    counts.setflags(write=False)
    return counts


def _faults(trace: Trace) -> list[tuple[str, npt.NDArray[np.bool_], str]]:
    """Per rule: the column, the rows that break it, and the mend."""
    at = trace.arrival_s
    return [
        ("arrival_s", ~np.isfinite(at), "give a number of seconds"),
        ("arrival_s", at < 0, "let the trace begin at 0 s"),
        ("arrival_s", np.diff(at, prepend=at[:1]) < 0, "sort the rows by arrival"),
        ("input_tokens", trace.input_tokens < 1, "give at least 1 token, or drop the row"),
        ("output_tokens", trace.output_tokens < 0, "give 0 or more tokens, or drop the row"),
        ("prefix_tokens", trace.prefix_tokens < 0, "give 0 when it is unknown"),
        (
            "prefix_tokens",
            trace.prefix_tokens > trace.input_tokens,
            "a prefix is no longer than its prompt",
        ),
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Pairs of prompt and answer lengths to draw requests from, each equally likely."""

    input_tokens: Ints
    output_tokens: Ints

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        if self.input_tokens.ndim != 1 or self.input_tokens.shape != self.output_tokens.shape:
            raise Refused("lengths must be pairs: as many input_tokens as output_tokens")
        if not self.input_tokens.size:
            raise Refused("no lengths to draw from: give at least one pair")
        if self.input_tokens.min() < 1 or self.output_tokens.min() < 0:
            raise Refused("lengths must be at least 1 input token and 0 output tokens")

    @classmethod
    def fixed(cls, input_tokens: int, output_tokens: int) -> Self:
        """The same lengths for every request."""
        return cls(np.array([input_tokens]), np.array([output_tokens]))

    @classmethod
    def of(cls, trace: Trace) -> Self:
        """The lengths of a recorded trace."""
        return cls(trace.input_tokens, trace.output_tokens)

    def at(self, arrival_s: Floats, rng: np.random.Generator) -> Trace:
        """A trace with these arrivals and drawn lengths."""
        rows = rng.integers(self.input_tokens.size, size=arrival_s.size)
        return Trace.of(arrival_s, self.input_tokens[rows], self.output_tokens[rows])


def poisson(
    rate_rps: float, duration_s: float, lengths: Lengths, rng: np.random.Generator
) -> Trace:
    """Arrivals that know nothing of each other, `rate_rps` on average over `duration_s`."""
    _require_positive(rate_rps=rate_rps, duration_s=duration_s)
    count = rng.poisson(rate_rps * duration_s)
    return lengths.at(np.sort(rng.uniform(0, duration_s, count)), rng)


def gamma_renewal(
    rate_rps: float, duration_s: float, lengths: Lengths, rng: np.random.Generator, *, cv: float
) -> Trace:
    """Arrivals whose gaps are Gamma with coefficient of variation `cv`; bursty above 1.

    The process has been running for a while when the trace begins: one started at 0 s would
    bring (cv² − 1) / 2 requests more than its rate (Cox, Renewal Theory, 1962).
    """
    _require_positive(rate_rps=rate_rps, duration_s=duration_s, cv=cv)
    burn_in_s = BURN_IN_INTERVALS * max(1.0, cv**2) / rate_rps
    end_s = burn_in_s + duration_s
    chunk = int(1.2 * rate_rps * end_s) + 16
    shape = cv**-2
    times = np.zeros(1)
    while times[-1] < end_s:
        gaps_s = rng.gamma(shape, 1 / (rate_rps * shape), chunk)
        times = np.concatenate((times, times[-1] + np.cumsum(gaps_s)))
    arrival_s = times[(times >= burn_in_s) & (times < end_s)] - burn_in_s
    return lengths.at(arrival_s, rng)


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < np.inf:
            raise Refused(f"{name} must be a positive number, got {value}")


def read_trace(path: Path) -> Trace:
    """Read a CSV, gzipped or not, with columns arrival_s, input_tokens, output_tokens.

    Other columns are ignored, except Mooncake's `prefix_blocks_seen`, in blocks of 512
    tokens. Rows are counted from 1 and blank lines are skipped. Every fault is `Refused`.
    """
    text = _text(path)
    names = next(csv.reader(StringIO(text)), [])
    header = {name.strip(): i for i, name in enumerate(names)}
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise Refused(f"{path}: no column {', '.join(missing)}: name it in the first line")
    wanted = [name for name in (*REQUIRED, "prefix_blocks_seen") if name in header]
    table = _numbers(path, text, {name: header[name] for name in wanted})
    columns = dict(zip(wanted, table, strict=True))
    blocks = columns.pop("prefix_blocks_seen", None)
    if blocks is not None:
        prefix = np.minimum(blocks * PREFIX_BLOCK_TOKENS, columns["input_tokens"])
        columns["prefix_tokens"] = prefix
    try:
        return Trace.of(**columns)
    except Refused as fault:
        raise Refused(f"{path}: {fault}") from None


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            raw = gzip.decompress(raw)
        return raw.decode("utf-8-sig")
    except OSError as fault:
        raise Refused(f"{path}: cannot be read: {fault.strerror or fault}") from fault
    except (EOFError, zlib.error) as fault:
        raise Refused(f"{path}: the gzip file is damaged ({fault}): fetch it again") from fault
    except UnicodeDecodeError as fault:
        raise Refused(f"{path}: is not UTF-8 text: save it as a CSV") from fault


def _numbers(path: Path, text: str, columns: dict[str, int]) -> Floats:
    """The columns as float64[columns, rows]; numpy parses, and Python explains a fault."""
    body = text.partition("\n")[2]
    if not body.strip():
        raise Refused(f"{path}: has no rows: a trace needs at least one request")
    try:
        table = np.loadtxt(
            StringIO(body),
            delimiter=",",
            usecols=tuple(columns.values()),
            comments=None,
            quotechar='"',
            ndmin=2,
        ).T
    except ValueError as fault:
        raise _explained(path, body, columns, fault) from None
    return np.ascontiguousarray(table)


def _explained(path: Path, body: str, columns: dict[str, int], fault: ValueError) -> Refused:
    """Find the first field that is no number; rows count as numpy counts them."""
    rows = (row for row in csv.reader(StringIO(body)) if row)
    for number, row in enumerate(rows, start=1):
        for name, i in columns.items():
            if i >= len(row):
                return Refused(f"{path}: row {number} ends before its {name}: add the column")
            try:
                float(row[i])
            except ValueError:
                return Refused(f"{path}: row {number}: {name} is {row[i]!r}: give a number")
    return Refused(f"{path}: {fault}")
