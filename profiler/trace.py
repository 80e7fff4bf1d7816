"""When requests arrive and how long they are: recorded, or drawn from a process.

Read by the injector (`profiler.measure`), the twin and the recommender's workload. It says
nothing about what the requests hold beyond which blocks are alike, nor how they are served.
"""

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from profiler.errors import Refused

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

REQUIRED = ("arrival_s", "input_tokens", "output_tokens")
"""Columns that a trace's file must have."""
OPTIONAL = ("prefix_blocks_seen", "priority", "hash_ids")
HASH_BLOCK_TOKENS = 512
"""Tokens per hash of `hash_ids`, and per block of `prefix_blocks_seen`: Mooncake's."""
BURN_IN_INTERVALS = 20
"""A renewal process is stationary after about cv² intervals; this many times that are cut."""
PART_ROWS = 65_536
"""Rows of a file that are held at a time while it is streamed."""


class _BadRow(Refused):
    """A fault of one row, counted from 1; a reader of parts adds the rows before."""

    def __init__(self, row: int, says: str) -> None:
        super().__init__(f"row {row}: {says}")
        self.row = row
        self.says = says


@dataclass(frozen=True, slots=True, eq=False)
class Hashes:
    """What requests hold, block by block: equal ids, equal blocks and equal all before them."""

    offsets: Ints
    """[requests + 1] where each request's ids begin in `ids`."""
    ids: Ints
    """Ids ≥ 0, back to back. A prompt's last block may be partly filled; what a prompt holds
    beyond its ids is its own."""
    block_tokens: int = HASH_BLOCK_TOKENS

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]], block_tokens: int = HASH_BLOCK_TOKENS) -> Self:
        """Make them of one sequence of ids per request."""
        given = [np.array(row, np.int64) for row in rows]
        offsets = np.concatenate(([0], np.cumsum([row.size for row in given], dtype=np.int64)))
        ids = np.concatenate(given) if given else np.zeros(0, np.int64)
        return cls(offsets, ids, block_tokens)

    @property
    def counts(self) -> Ints:
        """[requests] how many ids each has."""
        return np.diff(self.offsets)

    def rows(self, rows: slice) -> Self:
        """Those of some of the requests."""
        starts, counts = self.offsets[:-1][rows], self.counts[rows]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        places = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
        return replace(self, offsets=offsets, ids=self.ids[places])


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
    """Prompt tokens already seen earlier in the trace; 0 when unknown. `hashes` say more and
    are used instead where they are given."""
    priority: Ints | None = None
    """The lowest is served first under priority scheduling; None: all alike."""
    hashes: Hashes | None = None
    """What the prompts hold; None when unknown."""

    def __post_init__(self) -> None:
        """Refuse arrays that are no trace, naming the field and the first bad row."""
        n = self.arrival_s.size
        for name in ("arrival_s", "input_tokens", "output_tokens", "prefix_tokens", "priority"):
            values = getattr(self, name)
            dtype = np.float64 if name == "arrival_s" else np.int64
            if values is not None and (values.shape != (n,) or values.dtype != dtype):
                raise Refused(
                    f"{name} must be {np.dtype(dtype)}[{n}], got {values.dtype}{values.shape}"
                )
        for column, bad, mend in _faults(self):
            if bad.any():
                row = int(np.argmax(bad))
                raise _BadRow(row + 1, f"{column} is {getattr(self, column)[row]}: {mend}")
        if self.hashes is not None:
            _check_hashes(self.hashes, self.input_tokens)

    @classmethod
    def of(
        cls,
        arrival_s: npt.ArrayLike,
        input_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        prefix_tokens: npt.ArrayLike | None = None,
        *,
        priority: npt.ArrayLike | None = None,
        hashes: Hashes | None = None,
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
            None if priority is None else _whole("priority", priority),
            hashes,
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
        return self.rows(slice(n))

    def rank(self, rank: int, of: int) -> Self:
        """The requests of one of `of` replicas that are served in turn, counted from 0."""
        if not 0 <= rank < of:
            raise Refused(f"there is no rank {rank} of {of}: ranks count from 0")
        return self.rows(slice(rank, None, of))

    def rows(self, rows: slice) -> Self:
        """Some of the requests, in their order."""
        return replace(
            self,
            arrival_s=self.arrival_s[rows],
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
            prefix_tokens=self.prefix_tokens[rows],
            priority=None if self.priority is None else self.priority[rows],
            hashes=None if self.hashes is None else self.hashes.rows(rows),
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
        raise _BadRow(row + 1, f"{column} is {given[row]}: give a whole number")
    counts.setflags(write=False)
    return counts


def _faults(trace: Trace) -> list[tuple[str, Bools, str]]:
    """Per rule: the column, the rows that break it, and the mend."""
    at = trace.arrival_s
    return [
        ("arrival_s", ~np.isfinite(at), "give a number of seconds"),
        ("arrival_s", at < 0, "let the trace begin at 0 s"),
        ("arrival_s", np.diff(at, prepend=at[:1]) < 0, _UNSORTED),
        ("input_tokens", trace.input_tokens < 1, "give at least 1 token, or drop the row"),
        ("output_tokens", trace.output_tokens < 0, "give 0 or more tokens, or drop the row"),
        ("prefix_tokens", trace.prefix_tokens < 0, "give 0 when it is unknown"),
        (
            "prefix_tokens",
            trace.prefix_tokens > trace.input_tokens,
            "a prefix is no longer than its prompt",
        ),
    ]


_UNSORTED = "sort the rows by arrival"


def _check_hashes(hashes: Hashes, input_tokens: Ints) -> None:
    if hashes.block_tokens < 1:
        raise Refused(f"hash_block_tokens must be at least 1, got {hashes.block_tokens}")
    if hashes.offsets.shape != (input_tokens.size + 1,) or hashes.offsets[-1] > hashes.ids.size:
        raise Refused(f"hash_ids must be those of {input_tokens.size} requests")
    long = hashes.counts > -(-input_tokens // hashes.block_tokens)
    if long.any():
        row = int(np.argmax(long))
        raise _BadRow(
            row + 1,
            f"hash_ids are {hashes.counts[row]} blocks of {hashes.block_tokens} tokens for a "
            f"prompt of {input_tokens[row]}: give one for each begun block at most",
        )
    if (hashes.ids < 0).any():
        place = int(np.argmax(hashes.ids < 0))
        row = int(np.searchsorted(hashes.offsets, place, side="right"))
        raise _BadRow(row, f"hash_ids hold {hashes.ids[place]}: give numbers of 0 or more")


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


def read_trace(path: Path, *, hash_block_tokens: int = HASH_BLOCK_TOKENS) -> Trace:
    """Read a CSV, gzipped or not, with columns arrival_s, input_tokens, output_tokens.

    Read too where they are there: `priority`; `hash_ids`, whole numbers with spaces or | in
    between, one for each `hash_block_tokens` of the prompt begun; Mooncake's
    `prefix_blocks_seen`, in blocks of 512 tokens. Other columns are ignored. Rows are counted
    from 1 and blank lines are skipped. Every fault is `Refused`.
    """
    return joined(list(stream_trace(path, hash_block_tokens=hash_block_tokens)))


def stream_trace(
    path: Path, *, rows: int = PART_ROWS, hash_block_tokens: int = HASH_BLOCK_TOKENS
) -> Iterator[Trace]:
    """Read the same part by part, never holding more than `rows` requests."""
    done, last_s = 0, 0.0
    with _explaining(path), _opened(path) as file:
        columns = _header(path, next(file, ""))
        lines = (line for line in file if not line.isspace())
        while part := list(islice(lines, rows)):
            try:
                trace = _part(part, columns, hash_block_tokens)
                if trace.arrival_s[0] < last_s:
                    raise _BadRow(1, f"arrival_s is {trace.arrival_s[0]}: {_UNSORTED}")
            except _BadRow as fault:
                raise Refused(f"{path}: row {done + fault.row}: {fault.says}") from None
            yield trace
            done, last_s = done + len(trace), trace.duration_s
    if not done:
        raise Refused(f"{path}: has no rows: a trace needs at least one request")


def joined(parts: Sequence[Trace]) -> Trace:
    """One trace of parts that follow each other and have the same columns."""
    if len(parts) == 1:
        return parts[0]
    columns = ["arrival_s", "input_tokens", "output_tokens", "prefix_tokens"]
    if parts[0].priority is not None:
        columns.append("priority")
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    given = [part.hashes for part in parts if part.hashes is not None]
    return Trace(**whole, hashes=_joined_hashes(given) if given else None)


def _joined_hashes(parts: Sequence[Hashes]) -> Hashes:
    counts = np.concatenate([part.counts for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    return Hashes(np.concatenate(([0], np.cumsum(counts))), ids, parts[0].block_tokens)


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file while it is read into one clear line."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise Refused(f"{path}: the gzip file is damaged ({fault}): fetch it again") from fault
    except OSError as fault:
        raise Refused(f"{path}: cannot be read: {fault.strerror or fault}") from fault
    except UnicodeDecodeError as fault:
        raise Refused(f"{path}: is not UTF-8 text: save it as a CSV") from fault


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    """Give the lines of a file, unpacked."""
    with path.open("rb") as file:
        if not file.peek(2).startswith(b"\x1f\x8b"):
            yield TextIOWrapper(file, "utf-8-sig")
            return
        with gzip.open(file, "rt", encoding="utf-8-sig") as unpacked:
            yield unpacked


def _header(path: Path, line: str) -> dict[str, int]:
    """Places of the columns that are read."""
    names = next(csv.reader([line]), [])
    header = {name.strip(): place for place, name in enumerate(names)}
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise Refused(f"{path}: no column {', '.join(missing)}: name it in the first line")
    return {name: header[name] for name in (*REQUIRED, *OPTIONAL) if name in header}


def _part(lines: list[str], columns: dict[str, int], hash_block_tokens: int) -> Trace:
    """Read some rows."""
    numeric = {name: place for name, place in columns.items() if name != "hash_ids"}
    table: dict[str, Floats] = dict(zip(numeric, _numbers(lines, numeric), strict=True))
    blocks = table.pop("prefix_blocks_seen", None)
    if blocks is not None:
        prefix = np.minimum(blocks * HASH_BLOCK_TOKENS, table["input_tokens"])
        table["prefix_tokens"] = prefix
    hashes = None
    if "hash_ids" in columns:
        rows = csv.reader(lines)
        ids = [_ids(n, row, columns["hash_ids"]) for n, row in enumerate(rows, start=1)]
        hashes = Hashes.of(ids, hash_block_tokens)
    return Trace.of(**table, hashes=hashes)


def _ids(number: int, row: list[str], place: int) -> list[int]:
    text = row[place] if place < len(row) else ""
    try:
        ids = [int(each) for each in text.replace("|", " ").split()]
    except ValueError:
        says = f"hash_ids are {text!r}: give whole numbers with spaces or | in between"
        raise _BadRow(number, says) from None
    if ids and max(ids) >= 1 << 63:
        raise _BadRow(number, f"hash_ids hold {max(ids)}: give numbers below 2^63")
    return ids


def _numbers(lines: list[str], columns: dict[str, int]) -> Floats:
    """The columns as float64[columns, rows]; numpy parses, and Python explains a fault."""
    try:
        table = np.loadtxt(
            lines,
            delimiter=",",
            usecols=tuple(columns.values()),
            comments=None,
            quotechar='"',
            ndmin=2,
        ).T
    except ValueError as fault:
        raise _explained(lines, columns, fault) from None
    return np.ascontiguousarray(table)


def _explained(lines: list[str], columns: dict[str, int], fault: ValueError) -> _BadRow:
    """Find the first field that is no number."""
    for number, row in enumerate(csv.reader(lines), start=1):
        for name, place in columns.items():
            if place >= len(row):
                return _BadRow(number, f"ends before its {name}: add the column")
            try:
                float(row[place])
            except ValueError:
                return _BadRow(number, f"{name} is {row[place]!r}: give a number")
    return _BadRow(1, f"and those after it cannot be read: {fault}")
