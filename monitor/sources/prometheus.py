"""Ask a Prometheus, or what speaks its HTTP API, for stored samples: answers are arrays.

Called by `controller.traffic`; whoever asks for months of history asks here too. It knows no
metric's name and judges no value. It keeps no state and never retries: what goes wrong is
`Refused` or `RetryLater`, in one line that names the address and the mend.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import yarl
from numpy.typing import NDArray

from monitor.exposition import Sample
from profiler.errors import Refused, RetryLater, WhaleFluxError

Floats = NDArray[np.float64]

POINTS_A_REQUEST = 10_000
"""Prometheus answers at most 11,000 points a series: longer ranges are asked for in parts."""
POINTS = 500_000
"""Points of a whole range: a year by the minute nearly fits."""
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_METHOD_NOT_ALLOWED = (405, 501)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Series on common moments."""

    at_s: Floats
    """[points] seconds since the epoch, ascending."""
    labels: tuple[Mapping[str, str], ...]
    """[series]."""
    values: Floats
    """[series, points]; NaN: no sample then."""
    warnings: tuple[str, ...] = ()
    """What the server says against its own answer, such as that a part of it is missing."""


@dataclass(frozen=True, slots=True)
class Vector:
    """A value per series at one moment."""

    samples: tuple[Sample, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series' samples as they were scraped."""

    labels: Mapping[str, str]
    at_s: Floats
    """[samples] seconds since the epoch."""
    values: Floats
    """[samples]."""


class _Line(msgspec.Struct):
    """A series of an answer: a vector's `value` or a matrix' `values`.

    Native histograms have neither: no sample for us.
    """

    metric: dict[str, str] = {}
    value: tuple[float, str] = (0.0, "NaN")
    values: list[tuple[float, str]] = []


class _Result(msgspec.Struct):
    kind: str = msgspec.field(name="resultType")
    result: msgspec.Raw = msgspec.Raw(b"[]")


class _Answer(msgspec.Struct):
    status: str
    data: _Result | None = None
    error: str = ""
    warnings: list[str] = []


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One server, asked through a session that the caller opened and closes."""

    http: aiohttp.ClientSession
    url: str = field(repr=False)
    """In front of `/api/v1`; user and password in it are never shown."""
    token_file: Path | None = None
    """Holds a bearer token; read at every request, as it may be rotated, and never shown."""
    timeout_s: float = 30.0
    """Of a request; a range that is asked for in parts takes several."""
    limit_bytes: int = 64 << 20
    limit_series: int = 20_000

    async def instant_query(self, query: str, at_s: float) -> Vector:
        """Evaluate an expression at a moment; no series is an answer too: an empty one."""
        where, answer = await self._ask("query", {"query": query, "time": f"{at_s:.3f}"})
        lines = self._lines(where, answer, "vector")
        samples = (Sample(line.metric, _number(line.value[1])) for line in lines)
        return Vector(tuple(samples), tuple(answer.warnings))

    async def stored_samples(self, query: str, at_s: float) -> tuple[Series, ...]:
        """Fetch what a selector with a range, such as `up[5m]`, holds, each at its own moment."""
        where, answer = await self._ask("query", {"query": query, "time": f"{at_s:.3f}"})
        lines = self._lines(where, answer, "matrix")
        return tuple(Series(line.metric, *_columns(line)) for line in lines)

    async def range_query(self, query: str, start_s: float, end_s: float, step_s: float) -> Grid:
        """Evaluate an expression at `start_s` and every `step_s` after it, up to `end_s`.

        Raises `Refused` for more than `POINTS` moments; what exceeds one request is asked for
        in several, one after the other.
        """
        step_s = round(step_s, 3)  # the API's times are milliseconds
        at_s = self._moments(start_s, end_s, step_s)
        rows: dict[frozenset[tuple[str, str]], Floats] = {}
        warnings: dict[str, None] = {}
        for first in range(0, at_s.size, POINTS_A_REQUEST):
            part = at_s[first : first + POINTS_A_REQUEST]
            form = {"start": f"{part[0]:.3f}", "end": f"{part[-1]:.3f}", "step": f"{step_s:.3f}"}
            where, answer = await self._ask("query_range", {"query": query, **form})
            warnings.update(dict.fromkeys(answer.warnings))
            for line in self._lines(where, answer, "matrix"):
                row = rows.setdefault(frozenset(line.metric.items()), np.full(at_s.size, np.nan))
                moments_s, values = _columns(line)
                places = np.rint((moments_s - part[0]) / step_s).astype(np.int64)
                row[first : first + part.size][np.clip(places, 0, part.size - 1)] = values
            self._check_count(where, len(rows))
        values = np.stack([*rows.values()]) if rows else np.empty((0, at_s.size))
        return Grid(at_s, tuple(dict(key) for key in rows), values, tuple(warnings))

    def _moments(self, start_s: float, end_s: float, step_s: float) -> Floats:
        if not (np.isfinite(end_s - start_s) and start_s <= end_s and step_s >= 1e-3):
            raise Refused(f"{self.shown}: no time to ask for: {start_s} to {end_s} by {step_s} s")
        points = int((end_s - start_s) / step_s + 1e-6) + 1
        if points > POINTS:
            raise Refused(
                f"{self.shown}: {points} points a series, more than {POINTS}: take a shorter time, "
                f"or a step of at least {(end_s - start_s) / POINTS:.3g} s"
            )
        return start_s + step_s * np.arange(points, dtype=np.float64)

    @property
    def shown(self) -> str:
        """The address as it may be printed."""
        try:
            return str(yarl.URL(self.url).with_user(None)).rstrip("/")
        except ValueError:
            return "the address given"

    async def _ask(self, what: str, form: Mapping[str, str]) -> tuple[str, _Answer]:
        """Where it was asked, and what was answered."""
        where = f"{self.shown}/api/v1/{what}"
        headers = {} if self.token_file is None else {"Authorization": _bearer(self.token_file)}
        try:
            async with asyncio.timeout(self.timeout_s):
                status, body = await self._send("POST", what, form, headers)
                if status in _METHOD_NOT_ALLOWED:  # a proxy that lets only reading pass
                    status, body = await self._send("GET", what, form, headers)
        except TimeoutError:
            raise RetryLater(
                f"{where}: no answer within {self.timeout_s:g} s: ask for less time at once"
            ) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise Refused(f"{self.shown}: is no address: give http://HOST:9090") from None
        except (aiohttp.ClientError, OSError) as fault:
            raise RetryLater(f"{where}: cannot be reached ({fault}): check the address") from fault
        return where, _answer_of(where, status, body)

    async def _send(
        self, method: str, what: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        url = f"{self.url.rstrip('/')}/api/v1/{what}"
        query, data = (form, None) if method == "GET" else (None, form)
        # a redirect is not followed: it would drop the form, or take the token elsewhere
        async with self.http.request(
            method, url, params=query, data=data, headers=headers, allow_redirects=False
        ) as response:
            if 300 <= response.status < 400:
                raise Refused(f"{self.shown}: redirects elsewhere: give the address it leads to")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > self.limit_bytes:
                    raise Refused(
                        f"{self.shown}: the answer exceeds {self.limit_bytes} bytes: match fewer "
                        f"series, or take a longer step"
                    )
            return response.status, bytes(body)

    def _lines(self, where: str, answer: _Answer, kind: str) -> list[_Line]:
        data = answer.data or _Result("nothing")
        if data.kind != kind:
            raise Refused(f"{where}: answered a {data.kind} where a {kind} was asked for")
        try:
            lines = msgspec.json.decode(data.result, type=list[_Line])
        except msgspec.MsgspecError as fault:
            raise Refused(f"{where}: {_NOT_ONE} ({fault})") from fault
        self._check_count(where, len(lines))
        return lines

    def _check_count(self, where: str, series: int) -> None:
        if series > self.limit_series:
            raise Refused(
                f"{where}: {series} series, more than {self.limit_series}: match fewer of them"
            )


def selector(names: Sequence[str], matchers: Mapping[str, str]) -> str:
    """Write a PromQL selector of the metrics so named whose labels equal `matchers`."""
    for label in matchers:
        if not _LABEL.fullmatch(label):
            raise Refused(f"match: {label!r} is no label's name: give LABEL=VALUE")
    pairs = [f'{label}="{value.translate(_ESCAPES)}"' for label, value in matchers.items()]
    if len(names) == 1:
        return f"{names[0]}{{{','.join(pairs)}}}"
    pairs.insert(0, '__name__=~"' + "|".join(names) + '"')
    return f"{{{','.join(pairs)}}}"


def duration(seconds: float) -> str:
    """Write a PromQL duration, to the millisecond."""
    return f"{max(round(seconds * 1e3), 1)}ms"


_NOT_ONE = "is not Prometheus' API: give the address in front of /api/v1"
_TOO_MUCH = ("too many samples", "maximum resolution")


def _answer_of(where: str, status: int, body: bytes) -> _Answer:
    """The answer of a request that went well; else the error it stands for."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.MsgspecError:
        raise _fault(where, status, None) from None
    if status != 200 or answer.status != "success" or answer.data is None:
        raise _fault(where, status, " ".join(answer.error.split())[:300])
    return answer


def _fault(where: str, status: int, says: str | None) -> WhaleFluxError:
    """What the caller does next about an answer that is none; `says`: the server's own words."""
    told = f"{where}: HTTP {status}" + (f": {says}" if says else "")
    if status in (401, 403):
        return Refused(f"{told}: give a file with a token that may read")
    if status == 429 or status >= 500:
        return RetryLater(f"{told}: try again, or ask for less time at once", after_s=5.0)
    if says is None:
        return Refused(f"{told}: {_NOT_ONE}")
    if any(words in says for words in _TOO_MUCH):
        return Refused(f"{told}: take a shorter time, a longer step or fewer series")
    return Refused(told)


def _columns(line: _Line) -> tuple[Floats, Floats]:
    moments_s = np.array([at_s for at_s, _ in line.values], np.float64)
    return moments_s, np.array([_number(text) for _, text in line.values], np.float64)


def _number(text: str) -> float:
    """A sample's value, infinities as they stand; NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return np.nan


def _bearer(file: Path) -> str:
    """The header's value; the token itself appears in no message."""
    try:
        token = file.read_text("ascii").strip()
    except (OSError, UnicodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is no text"
        raise Refused(f"token file {file}: cannot be read: {why}") from None
    if not token or not token.isprintable() or " " in token:
        raise Refused(f"token file {file}: must hold one token and nothing else")
    return f"Bearer {token}"
