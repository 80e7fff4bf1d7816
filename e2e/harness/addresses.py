"""Addresses for a node and its pods, used by nobody else on this machine.

Called by `node`. By default from 127.0.0.0/8, where every address is bound
without a word to the kernel; but Kubernetes takes no loopback address into an
EndpointSlice. `routable` ones come from 198.18.0.0/15, the range for tests, and
need the right to add a route.
"""

from __future__ import annotations

import random
import socket
import subprocess
from collections import deque

POOL = 254 - 1


class NoAddresses(RuntimeError):
    """No block is free, or routable addresses were asked for without the right to add one."""


class AddressBlock:
    """A block of 254 addresses; a bound socket keeps other nodes from taking it too."""

    def __init__(self, *, routable: bool = False) -> None:
        self._held, number = _claim()
        self._block = f"198.18.{number}" if routable else f"127.20.{number}"
        self._routable = routable
        if routable:
            self._route("replace")
        self.node_address = f"{self._block}.1"
        self._free = deque(f"{self._block}.{last}" for last in range(2, 255))

    def take(self) -> str:
        """The address that has been free for longest."""
        if not self._free:
            raise NoAddresses(f"all {POOL} addresses of {self._block}.0/24 are taken")
        return self._free.popleft()

    def give_back(self, address: str) -> None:
        """Free an address."""
        self._free.append(address)

    def close(self) -> None:
        """Let others take the block."""
        if self._routable:
            self._route("delete")
        self._held.close()

    def _route(self, verb: str) -> None:
        command = ["ip", "route", verb, "local", f"{self._block}.0/24", "dev", "lo"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise NoAddresses(f"{' '.join(command)}: {said.strip()}") from error


def _claim() -> tuple[socket.socket, int]:
    """A number from 1 to 254 that no living process on this machine has claimed."""
    for number in random.sample(range(1, 255), 254):
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            held.bind((f"127.20.{number}.255", 9))
        except OSError:
            held.close()
            continue
        return held, number
    raise NoAddresses("254 nodes run on this machine already")
