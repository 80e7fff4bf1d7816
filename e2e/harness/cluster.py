"""A real Kubernetes control plane on 127.0.0.1, up for as long as a `with` block.

etcd, API server, scheduler and controller manager as processes of their own.
Used by the fixtures in `e2e/conftest.py` and by benchmarks. Nothing it starts
outlives the Python process, even one that was killed; use it from the main
thread, since the servers end with the thread that started them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from . import build, credentials
from .node import Node
from .processes import free_port, kill_group, start_server, stop_server
from .wait import NotInTime, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

Json = dict[str, Any]

SERVERS = ("etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubectl")
STAGES = build.MODULES / "kwok" / "stages.yaml"


class CommandFailed(RuntimeError):
    """kubectl or helm ended with an error; the text holds what it wrote."""


class Cluster:
    """The control plane, its clients, and the nodes that were added to it."""

    def __init__(
        self,
        *,
        audit: bool = False,
        apiserver_flags: Sequence[str] = (),
        scheduler_flags: Sequence[str] = (),
        controller_flags: Sequence[str] = (),
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="whaleflux-e2e-"))
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.kubeconfig = self.folder / "admin.kubeconfig"
        self.audit_log = self.folder / "audit.log" if audit else None
        self.nodes: dict[str, Node] = {}
        self._flags = {
            "kube-apiserver": tuple(apiserver_flags),
            "kube-scheduler": tuple(scheduler_flags),
            "kube-controller-manager": tuple(controller_flags),
        }
        self._certs = self.folder / "certs"
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._bin = build.BIN
        self._port = free_port()
        self.etcd_url = f"http://127.0.0.1:{free_port()}"
        """Where etcd listens, its JSON gateway too."""

    @property
    def url(self) -> str:
        """Where the API server listens."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def ca_file(self) -> Path:
        """The certificate that clients check the API server by."""
        return self.folder / "ca.crt"

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Build what is missing, start all servers, return when pods can be created."""
        self._bin = build.ensure(SERVERS)
        self._tokens = credentials.write_tokens(self.folder / "tokens.csv")
        credentials.write_service_account_key(self.folder / "service-accounts.key")
        self._start_etcd()
        self.start_apiserver()
        for user in credentials.USERS:
            self._write_kubeconfig(self._kubeconfig_of(user), self._tokens[user])
        self._start_controllers()
        eventually(
            lambda: self.kubectl("get", "serviceaccount", "default", "-o", "name"),
            60,
            "service account `default`, which the controller manager makes",
        )

    def stop(self) -> None:
        """Stop nodes and servers, newest first; remove the folder unless E2E_KEEP is set."""
        for node in self.nodes.values():
            node.stop(kill=True)
        self.nodes.clear()
        for name in reversed(list(self._servers)):
            stop_server(self._servers.pop(name), grace_s=0)
        if not os.environ.get("E2E_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def start_apiserver(self) -> None:
        """Start the API server, also again after `stop_apiserver`, on the same port."""
        key = self.folder / "service-accounts.key"
        self._start(
            "kube-apiserver",
            f"--etcd-servers={self.etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            "--advertise-address=192.0.2.1",
            "--endpoint-reconciler-type=none",
            "--kubelet-preferred-address-types=InternalIP",
            f"--cert-dir={self._certs}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--allow-privileged",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--service-account-issuer={credentials.ISSUER}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            *self._audit_flags(),
        )
        self._wait_for("kube-apiserver", self._apiserver_is_ready)

    def stop_apiserver(self, *, kill: bool = False) -> None:
        """Take the API server away, gracefully or (`kill`) as a crash would."""
        # Left alone it waits a minute for watches that clients hold open.
        stop_server(self._servers.pop("kube-apiserver"), grace_s=0 if kill else 2)

    @contextmanager
    def slow_apiserver(self, *, stopped_s: float, runs_s: float) -> Iterator[None]:
        """Let the API server run for a moment and stop for another, until the block ends."""
        group, over = self._servers["kube-apiserver"].pid, threading.Event()

        def stutter() -> None:
            while not over.is_set():
                kill_group(group, signal.SIGSTOP)
                time.sleep(stopped_s)
                kill_group(group, signal.SIGCONT)
                time.sleep(runs_s)

        thread = threading.Thread(target=stutter)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl as cluster administrator; return its standard output."""
        return self.run("kubectl", f"--kubeconfig={self.kubeconfig}", *arguments, input=input)

    def helm(self, *arguments: str, input: str | None = None) -> str:
        """Run Helm as cluster administrator; return its standard output."""
        build.ensure(("helm",))
        return self.run("helm", f"--kubeconfig={self.kubeconfig}", *arguments, input=input)

    def run(self, name: str, *arguments: str, input: str | None = None) -> str:
        """Run one of the built commands with a home folder inside the cluster's."""
        home = {"HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            [str(self._bin / name), *arguments],
            input=input,
            env={**os.environ, **home},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            asked = " ".join((name, *arguments))
            raise CommandFailed(f"{asked} (exit {done.returncode}): {done.stderr.strip()}")
        return done.stdout

    def apply(self, namespace: str, *documents: Json) -> None:
        """Apply objects as cluster administrator, in order."""
        text = yaml.safe_dump_all(documents)
        self.kubectl("apply", "-n", namespace, "-f", "-", input=text)

    def items(self, kind: str, namespace: str, selector: str = "") -> list[Json]:
        """The objects of a kind in a namespace, for example `items("pods", "default")`."""
        listed = self.kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json")
        found: list[Json] = json.loads(listed)["items"]
        return found

    def audited(self) -> Iterator[Json]:
        """Every request so far by somebody whom the API server knew."""
        assert self.audit_log is not None
        text = self.audit_log.read_text()
        for line in text[: text.rfind("\n") + 1].splitlines():  # the last may be half written
            event = json.loads(line)
            if event["user"].get("username"):
                yield event

    def kubeconfig_for(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig that acts as a service account, for a day."""
        who = ("create", "token", service_account, "-n", namespace, "--duration=24h")
        path = self.folder / f"{namespace}.{service_account}.kubeconfig"
        self._write_kubeconfig(path, self.kubectl(*who).strip(), namespace)
        return path

    def add_node(self, name: str, **options: Any) -> Node:
        """Start a node that runs pods as processes; `options` are those of `Node`.

        For example `add_node("gpu-1", gpus=8, gpu_product="NVIDIA-H100-80GB-HBM3")`.
        """
        kubeconfig = self._kubeconfig_of("e2e-node")
        node = Node(kubeconfig, name, folder=self.folder / "nodes" / name, **options)
        self.nodes[name] = node
        node.start()
        return node

    def start_kwok(self) -> None:
        """Start KWOK, which plays nodes that carry the annotation of `add_fake_node`."""
        if "kwok" in self._servers:
            return
        build.ensure(("kwok",))
        self._start(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            f"--config={STAGES}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-lease-duration-seconds=40",
        )

    def add_fake_node(
        self, name: str, *, gpus: int = 0, pods: int = 1000, taints: Sequence[Json] = ()
    ) -> None:
        """A node that KWOK plays; pods on it are Ready at once and run nothing.

        Beside a real node give it a taint, or pods meant to run may land on it.
        """
        room = {"cpu": "10000", "memory": "10Ti", "pods": str(pods)}
        if gpus:
            room["nvidia.com/gpu"] = str(gpus)
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "annotations": {"kwok.x-k8s.io/node": "fake"},
                "labels": {"kubernetes.io/hostname": name, "type": "kwok"},
            },
            "spec": {"taints": list(taints)},
            "status": {"capacity": room, "allocatable": room},
        }
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump(node))

    def log_tail(self, name: str, lines: int = 20) -> str:
        """The end of a server's log, without the flags it lists first."""
        text = (self.logs / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join([line for line in text if "] FLAG: " not in line][-lines:])

    def _start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{free_port()}"
        self._start(
            "etcd",
            "--name=e2e",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self.etcd_url}",
            f"--advertise-client-urls={self.etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=e2e={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_controllers(self) -> None:
        self._start(
            "kube-scheduler",
            f"--kubeconfig={self._kubeconfig_of('e2e-scheduler')}",
            "--leader-elect=false",
            "--secure-port=0",
        )
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={self._kubeconfig_of('e2e-controller-manager')}",
            "--leader-elect=false",
            "--secure-port=0",
            f"--root-ca-file={self.ca_file}",
            f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
        )

    def _start(self, name: str, *flags: str) -> None:
        command = [str(self._bin / name), *flags, *self._flags.get(name, ())]
        with self._log(name) as log:
            self._servers[name] = start_server(command, log)

    def _log(self, name: str) -> IO[bytes]:
        return (self.logs / f"{name}.log").open("ab")

    def _audit_flags(self) -> tuple[str, ...]:
        if self.audit_log is None:
            return ()
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(yaml.safe_dump(credentials.AUDIT_POLICY))
        return (f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}")

    def _apiserver_is_ready(self) -> bool:
        credentials.write_ca(self._certs / "apiserver.crt", self.ca_file)
        self._write_kubeconfig(self.kubeconfig, self._tokens["e2e-admin"])
        return self.kubectl("get", "--raw=/readyz", "--request-timeout=2s") == "ok"

    def _wait_for(self, name: str, ready: Any, timeout_s: float = 60) -> None:
        """Wait for a server; one that ends or stays silent is shown by its log's end."""

        def answer() -> bool:
            return self._ended() is not None or bool(ready())

        try:
            eventually(answer, timeout_s, f"{name} ready")
        except NotInTime as error:
            raise RuntimeError(f"{error}\n{self.log_tail(name)}") from error
        ended = self._ended()
        if ended is not None:
            raise RuntimeError(f"{ended} ended while starting:\n{self.log_tail(ended)}")

    def _ended(self) -> str | None:
        gone = (name for name, server in self._servers.items() if server.poll() is not None)
        return next(gone, None)

    def _kubeconfig_of(self, user: str) -> Path:
        return self.kubeconfig if user == "e2e-admin" else self.folder / f"{user}.kubeconfig"

    def _write_kubeconfig(self, path: Path, token: str, namespace: str = "default") -> None:
        document = credentials.kubeconfig(self.url, self.ca_file, token, namespace)
        path.write_text(yaml.safe_dump(document))
