"""Process families of engines, read from /proc: who must be gone when a replica is.

A process is named by its id and its start time, so that an id used again is no survivor.
vLLM's children rename themselves, hence parents are followed and not names.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Member(NamedTuple):
    """One process, for as long as it lives."""

    pid: int
    started: int
    """Clock ticks since boot."""


class _Row(NamedTuple):
    member: Member
    parent: int
    state: str


def family_listening_on(port: int) -> frozenset[Member]:
    """The engine started with `--port=…` and all its descendants."""
    flag = f"--port={port}".encode()
    rows = _rows()
    leaders = {pid for pid in rows if flag in _command_line(pid)}
    return _with_descendants(leaders, rows)


def survivors(family: frozenset[Member]) -> set[Member]:
    """Those that still run; a zombie does not."""
    return {row.member for row in _rows().values() if row.state != "Z"} & family


def _with_descendants(leaders: set[int], rows: dict[int, _Row]) -> frozenset[Member]:
    found: set[int] = set()
    front = leaders
    while front:
        found |= front
        front = {pid for pid, row in rows.items() if row.parent in front} - found
    return frozenset(rows[pid].member for pid in found)


def _rows() -> dict[int, _Row]:
    found = (_row(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit())
    return {row.member.pid: row for row in found if row is not None}


def _row(pid: int) -> _Row | None:
    """Read /proc/PID/stat, proc(5): fields from the third follow the last parenthesis."""
    try:
        after = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return _Row(Member(pid, int(after[19])), parent=int(after[1]), state=after[0])


def _command_line(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
