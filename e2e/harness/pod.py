"""One pod: its containers in order, its status, and its orderly end.

Made by `node` for each pod bound to it; `seen` hands it each new version of
its object. The only place that writes a pod's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml

from . import conditions, credentials, volumes
from .api import Api, ApiError
from .container import Container, Surroundings, now
from .expand import NotConfigured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

Json = dict[str, Any]
LOG = logging.getLogger("e2e.node")
RETRY_S = 0.2
REFRESH_S = 5.0
NOT_NOW = (ApiError, NotConfigured, OSError, asyncio.TimeoutError, aiohttp.ClientError)


class Pod:
    """Runs a pod until its object is deleted."""

    def __init__(
        self, document: Json, api: Api, around: Surroundings, host_ip: str, gpus: dict[str, str]
    ) -> None:
        self.document, self.around = document, around
        self.uid: str = document["metadata"]["uid"]
        self.inits: list[Container] = []
        self.mains: list[Container] = []
        self._api, self._host_ip, self._gpus = api, host_ip, gpus
        self._path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self._began = now()
        self._known = conditions.Conditions()
        self._sent: Json = {}
        self._changed, self._deleted = asyncio.Event(), asyncio.Event()
        self._published = asyncio.Event()
        self._trouble: str | None = None
        self._removed = False
        self._tasks: list[asyncio.Task[None]] = []
        around.changed, around.published = self._changed.set, self._was_published

    @property
    def name(self) -> str:
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.document["metadata"]["namespace"])

    @property
    def containers(self) -> list[Container]:
        return [*self.inits, *self.mains]

    def groups(self) -> list[int]:
        """The process groups that run now."""
        return [each.group for each in self.containers if each.group is not None]

    def seen(self, document: Json) -> None:
        """Take a new version of the object.

        Its address is known here before the server has heard of it: containers are told.
        """
        address = {"podIP": self.around.pod_ip, "podIPs": [{"ip": self.around.pod_ip}]}
        document = {**document, "status": {**document.get("status", {}), **address}}
        self.document = self.around.pod = document
        if not conditions.agree(document, self._sent):
            self._sent = {}  # someone else wrote them, as when the node was thought lost
        self._changed.set()
        if document["metadata"].get("deletionTimestamp"):
            self._deleted.set()

    def removed(self) -> None:
        """The object is gone already: end everything without a word to the server."""
        self._removed = True
        self._deleted.set()
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all process groups, as a crash."""
        for each in self.containers:
            each.kill()

    def abandon(self) -> None:
        """Stop all work at once and report nothing; the processes are left to the caller."""
        for task in self._tasks:
            task.cancel()

    async def run(self) -> None:
        """From the first start to the deletion of the object."""
        self.seen(self.document)
        writer = asyncio.create_task(self._write_status())
        live = asyncio.create_task(self._live())
        self._tasks = [writer, live]
        try:
            await self._deleted.wait()
            await self._stop()
        finally:
            self.abandon()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._removed:
            await self._say_goodbye()

    async def _live(self) -> None:
        try:
            folders = await self._materialise()
            self._make_containers(folders)
            self._changed.set()
            async with asyncio.TaskGroup() as running:
                refreshing = running.create_task(self._refresh_volumes())
                if await self._initialise(running):
                    await asyncio.gather(*(each.run() for each in self.mains))
                await asyncio.gather(*(each.stop(self._grace_s()) for each in self._sidecars()))
                refreshing.cancel()
        except Exception:
            LOG.exception("pod %s/%s", self.namespace, self.name)
            raise

    async def _materialise(self) -> dict[str, Path]:
        """Volumes and credentials; tried again until what they name is there."""
        while True:
            try:
                made = await volumes.materialise(
                    self.document, self.around.folder / "volumes", self._api
                )
                await self._write_kubeconfig()
                self._trouble = None
                return made
            except NOT_NOW as error:
                self._trouble = str(error) or repr(error)
                self._changed.set()
            await asyncio.sleep(RETRY_S * 5)

    async def _write_kubeconfig(self) -> None:
        """Only a pod that mounts its account's token gets a kubeconfig with one."""
        mounts = [each for each in self.document["spec"].get("volumes", ()) if "projected" in each]
        sources = [one for each in mounts for one in each["projected"].get("sources", ())]
        if not any("serviceAccountToken" in one for one in sources):
            return
        token = await volumes.token(self._api, self.document)
        document = credentials.kubeconfig(self._api.url, self._api.ca_file, token, self.namespace)
        (self.around.folder / "kubeconfig").write_text(yaml.safe_dump(document))

    def _make_containers(self, folders: dict[str, Path]) -> None:
        spec = self.document["spec"]
        policy = spec.get("restartPolicy", "Always")
        once = "Never" if policy == "Never" else "OnFailure"
        for each in spec.get("initContainers", ()):
            self.inits.append(self._container(each, each.get("restartPolicy", once), folders))
        for each in spec["containers"]:
            self.mains.append(self._container(each, policy, folders))

    def _container(self, spec: Json, policy: str, folders: dict[str, Path]) -> Container:
        found = volumes.places(spec, folders)
        return Container(self.around, spec, policy, found, self._gpus.get(spec["name"], ""))

    async def _initialise(self, running: asyncio.TaskGroup) -> bool:
        """Run init containers in order; whether the others may start."""
        for each in self.inits:
            if each.policy == "Always":  # a sidecar: it stays, and the next waits for its start
                running.create_task(each.run())
                await each.has_started.wait()
            else:
                await each.run()
                if each.exit_code != 0:
                    return False
        return True

    async def _refresh_volumes(self) -> None:
        folder = self.around.folder / "volumes"
        await volumes.refresh(self.document, folder, self._api, REFRESH_S)

    async def _stop(self) -> None:
        """Everything but the sidecars first, then these."""
        sidecars = self._sidecars()
        others = [each for each in self.containers if each not in sidecars]
        for together in (others, sidecars):
            await asyncio.gather(*(each.stop(self._grace_s()) for each in together))

    def _sidecars(self) -> list[Container]:
        return [each for each in self.inits if each.policy == "Always"]

    def _grace_s(self) -> float:
        default_s = self.document["spec"].get("terminationGracePeriodSeconds", 30)
        asked_s = self.document["metadata"].get("deletionGracePeriodSeconds", default_s)
        return 0 if self._removed else float(asked_s)

    async def _say_goodbye(self) -> None:
        """The last status, then the deletion that only a node may finish."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        steps: list[Callable[[], Awaitable[Any]]] = [
            self._patch_status,
            lambda: self._api.delete(self._path, body),
        ]
        for step in steps:
            while not self._removed:
                try:
                    await step()
                    break
                except ApiError as error:
                    if error.code in (404, 409):
                        return
                    await asyncio.sleep(RETRY_S)
                except (TimeoutError, OSError, aiohttp.ClientError):
                    await asyncio.sleep(RETRY_S)

    async def _write_status(self) -> None:
        """Send the status each time it changed; the newest wins, and none is lost."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._published.clear()
            try:
                await self._patch_status()
            except ApiError as error:
                LOG.warning("status of %s/%s: %s", self.namespace, self.name, error)
                if error.code not in (404, 409, 422):
                    await self._try_again()
            except (TimeoutError, OSError, aiohttp.ClientError):
                await self._try_again()
            self._published.set()

    async def _try_again(self) -> None:
        self._changed.set()
        await asyncio.sleep(RETRY_S)

    async def _was_published(self) -> None:
        """Until the present status was sent, or a second has passed."""
        self._changed.set()
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(1.0):
                while self._changed.is_set() or not self._published.is_set():
                    self._published.clear()
                    await self._published.wait()

    async def _patch_status(self) -> None:
        status = self._status()
        if status != self._sent:
            body = {"metadata": {"uid": self.uid}, "status": status}
            await self._api.patch(f"{self._path}/status", body)
            self._sent = status

    def _status(self) -> Json:
        ip, host = self.around.pod_ip, self._host_ip
        found: Json = {
            "phase": conditions.phase(self.document, self.inits, self.mains),
            "conditions": self._known.of(self.document, self.inits, self.mains),
            "startTime": self._began,
            "hostIP": host,
            "hostIPs": [{"ip": host}],
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "containerStatuses": self._container_statuses("containers", self.mains),
        }
        if self.document["spec"].get("initContainers"):
            found["initContainerStatuses"] = self._container_statuses("initContainers", self.inits)
        return found

    def _container_statuses(self, key: str, made: list[Container]) -> list[Json]:
        """The containers' own words, or why there are none yet."""
        if made:
            return [each.status() for each in made]
        waiting = {"reason": "ContainerCreating"}
        if self._trouble:
            waiting["message"] = self._trouble
        common = {"state": {"waiting": waiting}, "ready": False, "restartCount": 0, "imageID": ""}
        return [
            {"name": each["name"], "image": each.get("image", "none"), **common}
            for each in self.document["spec"][key]
        ]
