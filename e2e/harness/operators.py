"""Operators as processes, under the chart's ServiceAccount: to be killed and frozen."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .processes import free_port, start_server, stop_server
from .wait import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from .cluster import Cluster

CHART = "deploy/helm/whaleflux"


class OperatorProcess:
    """One `whaleflux operator`; several of them share a Lease."""

    def __init__(
        self, name: str, kubeconfig: Path, namespace: str, folder: Path, flags: tuple[str, ...]
    ) -> None:
        self.name = name
        self._flags = flags
        self.log_file = folder / f"operator-{name}.log"
        self._kubeconfig, self._namespace = kubeconfig, namespace
        self._lease = kubeconfig.name.split(".")[1]
        """Named after the account, as in the chart: it may write no other."""
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; returns at once."""
        command = [
            "env", f"KUBECONFIG={self._kubeconfig}",
            sys.executable, "-m", "controller.cli", "operator", "--leader-elect",
            f"--lease-namespace={self._namespace}", f"--lease-name={self._lease}",
            f"--port={self._port}", *self._flags,
        ]  # fmt: skip
        with self.log_file.open("ab") as log:
            self._process = start_server(command, log)

    def kill(self) -> None:
        """As the kernel would: no goodbye."""
        assert self._process is not None
        stop_server(self._process, grace_s=0)

    def stop(self) -> None:
        """Ask it to end, and give it time to hand over."""
        if self._process is not None and self._process.poll() is None:
            stop_server(self._process, grace_s=15)

    def freeze(self) -> None:
        """Stop its time; its connections stay open."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, as if nothing had happened."""
        os.killpg(self.pid, signal.SIGCONT)

    @property
    def alive(self) -> bool:
        """Whether the process that was started last still runs."""
        return self._process is not None and self._process.poll() is None

    def metric(self, name: str) -> float:
        """Sum of a metric's samples."""
        url = f"http://127.0.0.1:{self._port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.split("{")[0].split(" ")[0] == name
        ]
        return sum(values)

    @property
    def leads(self) -> bool:
        """Whether it says that it leads; False where it does not answer."""
        try:
            return self.metric("whaleflux_leader") == 1
        except OSError:
            return False


@contextmanager
def operators(
    cluster: Cluster, release: str, *names: str, flags: tuple[str, ...] = ()
) -> Iterator[list[OperatorProcess]]:
    """Install the chart for its rights, without a Pod of its own, and run so many operators."""
    namespace = f"{release}-system"
    cluster.helm("install", release, CHART, "-n", namespace, "--create-namespace")
    cluster.kubectl("scale", "-n", namespace, f"deployment/{release}-operator", "--replicas=0")
    kubeconfig = cluster.kubeconfig_for(namespace, f"{release}-operator")
    made = [OperatorProcess(n, kubeconfig, namespace, cluster.folder, flags) for n in names]
    try:
        for one in made:
            one.start()
        eventually(lambda: any(one.leads for one in made), 60, "an operator leads")
        yield made
    finally:
        for one in made:
            one.stop()
        cluster.helm("uninstall", release, "-n", namespace)
