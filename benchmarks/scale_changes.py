"""What `benchmarks.scale` does to the cluster: make services, change them, and time the answer."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from controller.kube import Reflector
from controller.kube.client import Credentials, KubeClient
from controller.kube.objects import Bare

_NAMESPACES = 20
"""The controller manager looks at every budget of a namespace for every Pod there."""
_LABEL, _ROLE = "serving.whaleflux.io/service", "serving.whaleflux.io/role"
_AT_ONCE, _LONGEST_S = 16, 30.0


@dataclass(slots=True)
class Times:
    """Seconds by what was timed; `missed` changes are the longest time there is."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    missed: int = 0

    def add(self, name: str, seconds: float | None) -> None:
        """Take one in; None: nothing happened in time."""
        self.missed += seconds is None
        self.seconds.setdefault(name, []).append(_LONGEST_S if seconds is None else seconds)

    def quantile(self, name: str, share: float) -> float:
        """A quantile that was seen, not one between two."""
        return float(np.quantile(self.seconds[name], share, method="higher"))


def _namespace(i: int) -> str:
    return f"team-{i % _NAMESPACES}"


def _services(i: int) -> str:
    """Path of the services beside the i-th."""
    return f"/apis/serving.whaleflux.io/v1alpha1/namespaces/{_namespace(i)}/llmservices"


def _pods(i: int) -> str:
    """Path of its Pods."""
    return f"/api/v1/namespaces/{_namespace(i)}/pods"


@asynccontextmanager
async def client_of(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    """Connect as the cluster's administrator."""
    os.environ["KUBECONFIG"] = str(kubeconfig)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield KubeClient(session, Credentials())


def _service(name: str, replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": "serving.whaleflux.io/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "meta-llama/Llama-3.2-1B-Instruct"},
            "engine": {"type": "emulated", "maxNumSeqs": 16, "maxModelLen": 4096},
            "slo": {"ttftMs": 1000, "itlMs": 60},
            "workload": {"requestsPerSecond": "2", "inputTokens": 128, "outputTokens": 32},
            "replicas": replicas,
            "placement": {"gpu": "L4"},
        },
    }


async def create_services(kubeconfig: Path, count: int, replicas: int) -> None:
    """Make them, all alike."""
    room = asyncio.Semaphore(_AT_ONCE)
    async with client_of(kubeconfig) as client:
        for i in range(min(_NAMESPACES, count)):
            await client.create("/api/v1/namespaces", {"metadata": {"name": _namespace(i)}})

        async def create(i: int) -> None:
            async with room:
                await client.create(_services(i), _service(f"s{i}", replicas))

        async with asyncio.TaskGroup() as group:
            for i in range(count):
                group.create_task(create(i))


async def settled(
    kubeconfig: Path, pods: int, timeout_s: float, tend: Callable[[int], None]
) -> None:
    """Wait until so many pods carry the serving label; a watch tells each once.

    `tend` is told how many there are, again and again.
    """
    async with client_of(kubeconfig) as client:
        mirror = Reflector(client, "/api/v1/pods", Bare, lambda *_: None, f"{_ROLE}=serving")
        watching = asyncio.create_task(mirror.run())
        try:
            async with asyncio.timeout(timeout_s):
                while len(mirror.items) < pods:
                    tend(len(mirror.items))
                    await asyncio.sleep(0.2)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def change_and_wait(kubeconfig: Path, count: int) -> Times:
    """Give service after service one replica more; beside each, create a bare pod."""
    times = Times()
    async with client_of(kubeconfig) as client:
        for i in range(count):
            name = f"s{i}"
            path, pods = f"{_services(i)}/{name}", _pods(i)
            replicas = json.loads(await client.get(path))["spec"]["replicas"]
            more = {"spec": {"replicas": replicas + 1}}

            async def change(path: str = path, more: dict[str, Any] = more) -> object:
                return await client.patch(path, more)

            async def bare(pods: str = pods, name: str = f"bare-{i}") -> object:
                return await client.create(pods, _bare_pod(name))

            times.add("change to its objects", await _until_added(client, pods, name, change))
            times.add("bare pod", await _until_added(client, pods, f"bare-{i}", bare))
    return times


async def _until_added(
    client: KubeClient, pods: str, service: str, act: Callable[[], Any]
) -> float | None:
    """Seconds from the request being sent to the watch telling a new pod of the service."""
    query = {"labelSelector": f"{_LABEL}={service}"}
    listed = json.loads(await client.get(pods, **query))
    version = listed["metadata"]["resourceVersion"]
    async with client.watch(pods, **query, resourceVersion=version) as lines:
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(_LONGEST_S):
                await act()
                async for line in lines:
                    if json.loads(line)["type"] == "ADDED":
                        return time.monotonic() - began_s
        except TimeoutError:
            return None
    return None


def _bare_pod(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {_LABEL: name}},
        "spec": {"containers": [{"name": "engine", "image": "none"}]},
    }
