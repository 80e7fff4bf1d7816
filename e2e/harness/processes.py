"""Start processes that cannot outlive us, and find ports for them.

Used by the cluster (its servers) and by the node (the pods' containers). Each
process leads a session of its own, so that one signal reaches all of its
children, and the kernel kills it when the thread that started it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1

# Kills the process groups still on its list when its standard input closes:
# PR_SET_PDEATHSIG does not reach grandchildren, this does.
_REAPER = """
import os, signal, sys
alive = set()
for line in sys.stdin:
    (alive.add if line[0] == "+" else alive.discard)(int(line[1:]))
for group in alive:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def die_with_parent() -> Callable[[], None]:
    """A `preexec_fn` that asks the kernel for SIGKILL when the parent goes."""
    parent = os.getpid()

    def before_exec() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before we could ask
            os._exit(1)

    return before_exec


def kill_group(group: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process group; one that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def start_server(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a long-lived server with both streams in `log`."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one system call, no lock is taken
    )


def stop_server(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM, then SIGKILL after `grace_s`; returns when it is gone."""
    if process.poll() is None and grace_s > 0:
        kill_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    if process.poll() is None:
        kill_group(process.pid)
    process.wait()


class Reaper:
    """Kills registered process groups, grandchildren too, once this process is gone."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _REAPER], stdin=subprocess.PIPE, start_new_session=True
        )

    def add(self, group: int) -> None:
        self._say(f"+{group}\n")

    def remove(self, group: int) -> None:
        self._say(f"-{group}\n")

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()


def free_port() -> int:
    """A free TCP port of 127.0.0.1, below those that outgoing connections take."""
    for _ in range(1000):
        port = random.randint(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 10000 and 32000 on 127.0.0.1")
