"""Processes that never outlive this one, each a process group with a log file."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from controller.runtimes import reaper
from profiler.errors import Refused

_PR_SET_PDEATHSIG = 1
_LOG_TAIL_BYTES = 4096


def free_port(host: str = "127.0.0.1") -> int:
    """Ask the kernel for a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int, what: str) -> None:
    """Refuse a port that is taken, in one line."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Refused(
                f"{what}: cannot listen on {host}:{port} ({error.strerror}): choose another port"
            ) from error


class Process:
    """A running process group and its log."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.log = log
        self.group = process.pid

    async def exited(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole group; nothing when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, number)

    def terminate(self) -> None:
        """SIGTERM to the leader alone: an engine drains, then ends its workers itself."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def last_words(self) -> str:
        """Give the last line it logged, for the message of a failure."""
        with self.log.open("rb") as file:
            file.seek(max(self.log.stat().st_size - _LOG_TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").split("\n")
        spoken = [line.strip() for line in lines if any(map(str.isalnum, line))]
        return spoken[-1][:300] if spoken else "it logged nothing"


class Processes:
    """Starts process groups and tells the reaper of each."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self._reaper: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "Processes":
        """Start the reaper, out of reach of the terminal's Ctrl-C."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._reaper = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-E", str(reaper.__file__),
            stdin=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the pipe: what is left is killed."""
        assert self._reaper is not None  # noqa: S101
        assert self._reaper.stdin is not None  # noqa: S101
        self._reaper.stdin.close()
        await self._reaper.wait()

    async def spawn(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a command, with `env` added to ours; `Refused` when there is no such program."""
        log = self.log_dir / f"{name}.log"
        with log.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env={**os.environ, **(env or {})},
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise Refused(f"{name}: cannot run {command[0]}: {error.strerror}") from error
        started = Process(process, log)
        self._tell(f"+{started.group}\n")
        return started

    def ended(self, process: Process) -> None:
        """Tell the reaper that a group is gone, killing what is left of it."""
        process.signal(signal.SIGKILL)
        self._tell(f"-{process.group}\n")

    def _tell(self, line: str) -> None:
        if self._reaper is not None and self._reaper.stdin is not None:
            self._reaper.stdin.write(line.encode())


def _die_with_parent() -> None:
    """Have the kernel kill the child when this process dies: also before the reaper knows."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
