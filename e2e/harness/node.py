"""A Kubernetes node that runs pods as processes of this machine.

Registers itself, renews its Lease and status, and runs what the scheduler binds
to it. Used through `Cluster.add_node`, which keeps it in a thread of this
process, or alone as `python -m e2e.harness.node --kubeconfig FILE --name NAME`.
Images are ignored: a container is its command. It asks for administrator rights.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from . import inventory, kubelet, volumes
from .addresses import AddressBlock
from .api import Api, ApiError, Gone
from .container import Surroundings, base_environment
from .inventory import GpuPool, Room
from .pod import NOT_NOW, Pod
from .processes import Reaper

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

Json = dict[str, Any]
T = TypeVar("T")
LOG = logging.getLogger("e2e.node")
RETRY_S = 0.2
FAREWELL_S = 0.1


class NodeFailed(RuntimeError):
    """The node's thread ended by itself; its log says why."""


class Node:
    """One node; `start` and `stop` from the main thread."""

    def __init__(
        self,
        kubeconfig: Path,
        name: str,
        *,
        folder: Path | None = None,
        gpus: int = 0,
        gpu_product: str | None = None,
        cpus: int = 64,
        memory: str = "512Gi",
        pods: int = 200,
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Json] = (),
        env: Mapping[str, str] | None = None,
        heartbeat_s: float = 10.0,
        backoff_s: float = 10.0,
        term_group: bool = True,
        routable: bool = False,
    ) -> None:
        """What it offers, and how it behaves.

        `env` is given to every container. `backoff_s` is the wait after a second
        crash, doubled each time. `term_group` sends SIGTERM to all processes of a
        container, where a container runtime sends it to the first one alone.
        `routable` addresses are taken into EndpointSlices and need root.
        """
        self.name = name
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"whaleflux-{name}-"))
        self.logs_folder = self.folder / "logs"
        self.logs_folder.mkdir(parents=True, exist_ok=True)
        self._room = Room(cpus, memory, pods, gpus, gpu_product, dict(labels or {}), tuple(taints))
        self._kubeconfig, self._env = kubeconfig, dict(env or {})
        self._heartbeat_s, self._backoff_s = heartbeat_s, backoff_s
        self._term_group, self._routable = term_group, routable
        self._gpus = GpuPool(gpus)
        self._pods: dict[str, Pod] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._kept: dict[tuple[str, str], Path] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._up = threading.Event()
        self._failure: BaseException | None = None

    def start(self, timeout_s: float = 30) -> None:
        """Run the node in a thread of this process; return when it is registered."""
        self._thread = threading.Thread(target=self._in_thread, name=f"node-{self.name}")
        self._thread.daemon = True
        self._thread.start()
        if not self._up.wait(timeout_s):
            raise NodeFailed(f"node {self.name} is not registered after {timeout_s:g} s")
        if self._failure is not None:
            raise NodeFailed(f"node {self.name}: {self._failure!r}") from self._failure

    def stop(self, *, kill: bool = False) -> None:
        """End it: `kill` as power loss, nothing said; otherwise its Node object goes too."""
        if self._thread is None or self._loop is None:
            return
        if not kill and self._thread.is_alive():
            with contextlib.suppress(ApiError):
                self._call(self._unregister())
        with contextlib.suppress(RuntimeError):  # the loop may have ended before us
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(30)
        self._thread = None

    def logs(self, namespace: str, pod: str, container: str | None = None) -> str:
        """What the newest pod of that name wrote, deleted or not; all containers by default."""
        folder = self._kept.get((namespace, pod))
        if folder is None:
            return ""
        names = f"{container or '*'}.log"
        return "".join(path.read_text(errors="replace") for path in sorted(folder.glob(names)))

    def log_file(self, namespace: str, pod: str, container: str) -> Path | None:
        """Where one container's output goes; None when it never started here."""
        folder = self._kept.get((namespace, pod))
        path = folder / f"{container}.log" if folder else None
        return path if path is not None and path.exists() else None

    def kill(self, namespace: str, pod: str) -> None:
        """SIGKILL a pod's processes, as if they had crashed."""
        found = self._find(namespace, pod)
        self._call(_run(found.kill))

    def process_groups(self, namespace: str | None = None, pod: str | None = None) -> list[int]:
        """The process groups that run now: of one pod, of a namespace, or all."""
        return [
            group
            for each in list(self._pods.values())
            if namespace in (None, each.namespace) and pod in (None, each.name)
            for group in each.groups()
        ]

    async def run(self) -> None:
        """Be a node until cancelled; then kill every process."""
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        self._block = AddressBlock(routable=self._routable)
        self._api = Api(self._kubeconfig)
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self._session = aiohttp.ClientSession(connector=connector)
        self._reaper = Reaper()
        served = await kubelet.serve(self._block.node_address, self.log_file, self._runs_now)
        try:
            await self._patiently(self._register)
            self._up.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                tasks.create_task(self._watch())
        finally:
            await self._end_all()
            await served.cleanup()
            await asyncio.sleep(FAREWELL_S)  # TLS connections end a moment after their close

    def _in_thread(self) -> None:
        try:
            asyncio.run(self.run())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            LOG.exception("node %s", self.name)
            self._failure = error
        finally:
            self._up.set()

    def _cancel(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the node's loop from another thread."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _runs_now(self, namespace: str, name: str) -> bool:
        return bool(self.process_groups(namespace, name))

    def _find(self, namespace: str, name: str) -> Pod:
        for each in self._pods.values():
            if (each.namespace, each.name) == (namespace, name):
                return each
        raise LookupError(f"no pod {namespace}/{name} on node {self.name}")

    async def _end_all(self) -> None:
        runs = list(self._runs.values())
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        self._reaper.close()
        self._block.close()
        await self._session.close()
        await self._api.close()

    async def _patiently(self, work: Any) -> None:
        """Repeat until the API server takes it."""
        while True:
            try:
                await work()
                return
            except NOT_NOW as error:
                LOG.warning("node %s: %s", self.name, error)
                await asyncio.sleep(RETRY_S)

    async def _register(self) -> None:
        document = inventory.node(self.name, self._room)
        path = f"/api/v1/nodes/{self.name}"
        try:
            made = await self._api.post("/api/v1/nodes", document)
        except ApiError as error:
            if error.code != 409:
                raise
            made = await self._api.patch(path, {"metadata": document["metadata"]})
        self._uid = made["metadata"]["uid"]
        self._since = inventory.now()
        await self._send_status()
        await self._renew_lease()

    async def _unregister(self) -> None:
        await self._api.delete(f"/api/v1/nodes/{self.name}")

    async def _beat(self) -> None:
        """Renew Lease and status; without these the node counts as lost."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            await self._patiently(self._renew_lease)
            await self._patiently(self._send_status)

    async def _send_status(self) -> None:
        status = inventory.status(self.name, self._room, self._block.node_address, self._since)
        await self._api.patch(f"/api/v1/nodes/{self.name}/status", {"status": status})

    async def _renew_lease(self) -> None:
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": renewed}
        try:
            await self._api.patch(f"{leases}/{self.name}", {"spec": spec})
        except ApiError as error:
            if error.code != 404:
                raise
            owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": self._uid}
            metadata = {"name": self.name, "ownerReferences": [owner]}
            await self._api.post(leases, {"metadata": metadata, "spec": spec})

    async def _watch(self) -> None:
        """List, then follow; list again when the version is too old or the line breaks."""
        mine = {"fieldSelector": f"spec.nodeName={self.name}"}
        while True:
            try:
                listed = await self._api.get("/api/v1/pods", **mine)
                self._relist(listed["items"])
                version = listed["metadata"]["resourceVersion"]
                while True:
                    async for event in self._api.watch("/api/v1/pods", version, **mine):
                        version = event["object"]["metadata"]["resourceVersion"]
                        self._take(event)
            except Gone:
                continue
            except NOT_NOW as error:
                LOG.warning("node %s: watch: %r", self.name, error)
                await asyncio.sleep(RETRY_S)

    def _relist(self, items: list[Json]) -> None:
        there = {each["metadata"]["uid"] for each in items}
        for uid in [uid for uid in self._pods if uid not in there]:
            self._pods[uid].removed()
        for each in items:
            self._take({"type": "MODIFIED", "object": each})

    def _take(self, event: Json) -> None:
        if event["type"] == "BOOKMARK":
            return
        document = event["object"]
        known = self._pods.get(document["metadata"]["uid"])
        if event["type"] == "DELETED":
            if known is not None:
                known.removed()
        elif known is not None:
            known.seen(document)
        elif _to_run(document):
            self._begin(document)

    def _begin(self, document: Json) -> None:
        metadata = document["metadata"]
        uid, namespace, name = metadata["uid"], metadata["namespace"], metadata["name"]
        folder = self.folder / "pods" / uid
        folder.mkdir(parents=True, exist_ok=True)
        logs = self.logs_folder / f"{namespace}_{name}_{uid}"
        logs.mkdir(exist_ok=True)
        self._kept[namespace, name] = logs
        around = Surroundings(
            pod=document,
            pod_ip=self._block.take(),
            folder=folder,
            logs=logs,
            session=self._session,
            reaper=self._reaper,
            fetch=volumes.fetcher(self._api, namespace),
            base_env=base_environment(document, Path(sys.prefix) / "bin", self._env),
            backoff_s=self._backoff_s,
            term_group=self._term_group,
        )
        gpus = self._gpus.take(document)
        self._pods[uid] = Pod(document, self._api, around, self._block.node_address, gpus)
        self._runs[uid] = asyncio.create_task(self._run_pod(uid))

    async def _run_pod(self, uid: str) -> None:
        pod = self._pods[uid]
        try:
            await pod.run()
        except Exception:
            LOG.exception("pod %s/%s", pod.namespace, pod.name)
        finally:
            self._gpus.give_back(uid)
            self._block.give_back(pod.around.pod_ip)
            self._pods.pop(uid, None)
            self._runs.pop(uid, None)
            shutil.rmtree(pod.around.folder, ignore_errors=True)


async def _run(work: Any) -> None:
    work()


def _to_run(document: Json) -> bool:
    """Pods that ended are only taken up to finish their deletion."""
    ended = document["status"].get("phase") in ("Succeeded", "Failed")
    return not ended or "deletionTimestamp" in document["metadata"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.harness.node", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--gpu-product", help="for example NVIDIA-H100-80GB-HBM3")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO)
    node = Node(given.kubeconfig, given.name, gpus=given.gpus, gpu_product=given.gpu_product)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(node.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
