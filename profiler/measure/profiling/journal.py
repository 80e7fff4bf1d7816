"""Finished points on disk, so that a profile that was killed goes on where it stopped.

One JSON line a point, beside the profile; each carries the key of what it was measured on
(engine version, model, configuration), and only lines of the same key are taken up again.
A line that was cut while it was written is dropped, and said.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from profiler.calibrate import Measurement, Steps
from profiler.errors import Refused
from profiler.measure.profiling.fit import Measured
from profiler.measure.profiling.points import Decode, Mixed, Point, Prefill
from profiler.scheduler import Shape

_KINDS: dict[str, type[Prefill] | type[Decode] | type[Mixed]] = {
    "prefill": Prefill,
    "decode": Decode,
    "mixed": Mixed,
}


def fingerprint(facts: Mapping[str, object]) -> str:
    """Key of what is measured: the same facts, the same key."""
    text = json.dumps({k: str(v) for k, v in facts.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Journal:
    """Appends finished points to `path`; `Refused` when it cannot be written."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._key = key

    def read(self) -> tuple[tuple[Measured, ...], tuple[str, ...]]:
        """The points of this key, and notes on lines that were dropped."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return (), ()
        except OSError as error:
            raise Refused(f"{self.path}: cannot be read: {error.strerror}") from error
        found: dict[Point, Measured] = {}
        damaged = 0
        for line in filter(None, lines):
            try:
                entry = json.loads(line)
                if entry["key"] == self._key:
                    measured = _measured(entry)
                    found[measured.point] = measured
            except (ValueError, KeyError, TypeError, AttributeError, Refused):
                damaged += 1
        notes = (f"{self.path.name}: {damaged} damaged line(s) dropped",) if damaged else ()
        return tuple(found.values()), notes

    def append(self, measured: Measured) -> None:
        """Write a point down; a line begun by a process that was killed is ended first."""
        kind = type(measured.point).__name__.lower()
        entry = {
            "key": self._key,
            "kind": kind,
            "point": asdict(measured.point),
            "measurements": [_as_dict(m) for m in measured.measurements],
        }
        try:
            with self.path.open("ab+") as file:
                if file.tell() > 0:
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise Refused(f"{self.path}: cannot be written: {error.strerror}") from error


def _as_dict(m: Measurement) -> dict[str, Any]:
    return {
        "name": m.name,
        "steps": [{"shape": s.shape._asdict(), "times": s.times} for s in m.steps],
        "seconds": m.seconds,
        "requests": m.requests,
        "error_ratio": m.error_ratio,
    }


def _measured(entry: Mapping[str, Any]) -> Measured:
    point = _KINDS[entry["kind"]](**entry["point"])
    measurements = tuple(
        Measurement(
            str(m["name"]),
            tuple(Steps(Shape(**s["shape"]), float(s["times"])) for s in m["steps"]),
            float(m["seconds"]),
            float(m["requests"]),
            float(m["error_ratio"]),
        )
        for m in entry["measurements"]
    )
    return Measured(point, measurements)
