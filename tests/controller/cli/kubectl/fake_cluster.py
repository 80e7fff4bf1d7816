"""An API server on a thread of its own: services, pods and events, and what a DELETE sets off."""

import asyncio
import json
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml
from aiohttp import web
from typer.testing import CliRunner, Result

from controller.api import GROUP, VERSION
from controller.cli.kubectl import APP
from controller.operator import labels

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]
SERVICES = f"/apis/{GROUP}/{VERSION}/namespaces/{{ns}}/llmservices"


class FakeCluster(AbstractContextManager["FakeCluster"]):
    """Objects by namespace and name; `forbidden` answers 403 to everything."""

    def __init__(self, folder: Path) -> None:
        self.services: dict[tuple[str, str], Json] = {}
        self.pods: dict[tuple[str, str], Json] = {}
        self.events: list[Json] = []
        self.deleted: list[tuple[str, Json]] = []
        """Names of Pods with the options of their deletion."""
        self.on_delete: Callable[[FakeCluster], None] = _nothing
        self.forbidden = False
        self.denied = ""
        """A verb that an access review denies."""
        self.kubeconfig = folder / "kubeconfig"
        self._version = 10
        self._watchers: list[asyncio.Queue[bytes]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._runner: web.AppRunner | None = None

    def __enter__(self) -> "FakeCluster":
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        context = {"cluster": "c", "user": "u", "namespace": "team"}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": context}],
        }  # fmt: skip
        self.kubeconfig.write_text(yaml.safe_dump(config))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, *arguments: str, answer: str | None = None) -> Result:
        """Run the plugin as its user would; errors that end in one line are raised."""
        where = ["--kubeconfig", str(self.kubeconfig)]
        return CliRunner().invoke(APP, [*arguments, *where], input=answer, catch_exceptions=False)

    def add_service(self, name: str = "chat", namespace: str = "team", **parts: Json) -> None:
        """Add an LLMService; `spec` and `status` fields replace the usual ones."""
        meta = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1}
        self.services[namespace, name] = {
            "metadata": meta,
            "spec": {**a_spec(), **parts.get("spec", {})},
            "status": {**a_status(), **parts.get("status", {})},
        }

    def add_pod(self, name: str, role: str, *, ready: bool = True, **status: Any) -> None:
        """Add a replica of `chat`, or change it."""
        self._version += 1
        condition = {"type": "Ready", "status": str(ready)}
        pod = {
            "metadata": {
                "name": name, "namespace": "team", "uid": f"uid-{name}",
                "resourceVersion": str(self._version),
                "creationTimestamp": "2026-11-21T00:00:00Z",
                "labels": {labels.SERVICE: "chat", labels.ROLE: role, labels.TEMPLATE: "abc"},
            },
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Running", "conditions": [condition], **status},
        }  # fmt: skip
        kind = "MODIFIED" if ("team", name) in self.pods else "ADDED"
        self.pods["team", name] = pod
        self._tell(kind, pod)

    def remove_pod(self, name: str) -> None:
        """Take it away, and say so."""
        self._version += 1
        pod = self.pods.pop(("team", name))
        pod["metadata"]["resourceVersion"] = str(self._version)
        self._tell("DELETED", pod)

    def _tell(self, kind: str, pod: Json) -> None:
        line = json.dumps({"type": kind, "object": pod}).encode() + b"\n"
        for watcher in self._watchers:
            watcher.put_nowait(line)

    async def _start(self) -> int:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get(f"/apis/{GROUP}/{VERSION}/llmservices", self._list_services)
        app.router.add_get(SERVICES, self._list_services)
        app.router.add_get(f"{SERVICES}/{{name}}", self._get_service)
        app.router.add_get("/api/v1/namespaces/{ns}/pods", self._get_pods)
        app.router.add_delete("/api/v1/namespaces/{ns}/pods/{name}", self._delete_pod)
        app.router.add_get("/apis/events.k8s.io/v1/namespaces/{ns}/events", self._list_events)
        reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        app.router.add_post(reviews, self._review)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.forbidden:
            return web.json_response({"message": "you may not"}, status=403)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _list_services(self, request: web.Request) -> web.Response:
        where = request.match_info.get("ns")
        items = [each for (ns, _), each in self.services.items() if where in (None, ns)]
        return _page(items, self._version)

    async def _get_service(self, request: web.Request) -> web.Response:
        found = self.services.get((request.match_info["ns"], request.match_info["name"]))
        if found is None:
            return web.json_response({"message": "not found"}, status=404)
        return web.json_response(found)

    async def _list_events(self, request: web.Request) -> web.Response:
        return _page(self.events, self._version)

    async def _get_pods(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return _page(list(self.pods.values()), self._version)
        response = web.StreamResponse()
        await response.prepare(request)
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._watchers.append(lines)
        for line in self._since(int(request.query["resourceVersion"])):
            await response.write(line)
        while True:
            await response.write(await lines.get())

    def _since(self, version: int) -> list[bytes]:
        """What a watch that begins late has missed."""
        late = (p for p in self.pods.values() if int(p["metadata"]["resourceVersion"]) > version)
        return [json.dumps({"type": "ADDED", "object": pod}).encode() + b"\n" for pod in late]

    async def _review(self, request: web.Request) -> web.Response:
        verb = (await request.json())["spec"]["resourceAttributes"]["verb"]
        return web.json_response({"status": {"allowed": verb != self.denied}})

    async def _delete_pod(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.deleted.append((name, await request.json()))
        self.remove_pod(name)
        self.on_delete(self)
        return web.json_response({})


def _nothing(cluster: FakeCluster) -> None:
    """Set nothing off."""


def a_spec() -> Json:
    """Of a service with an objective, scaled."""
    return {
        "model": {"uri": "meta-llama/Llama-3.2-1B-Instruct"},
        "engine": {"type": "emulated", "maxNumSeqs": 16, "maxModelLen": 4096},
        "slo": {"ttftMs": 1000, "percentile": 95},
        "workload": {"requestsPerSecond": "2", "inputTokens": 128, "outputTokens": 32},
        "scaling": {"min": 1, "max": 4},
        "placement": {"gpu": "L4"},
        "resilience": {"standbys": 1},
    }


def a_status() -> Json:
    """Of one serving replica and a standby, all well."""
    return {
        "observedGeneration": 1,
        "replicas": 1,
        "desiredReplicas": 1,
        "predictionErrorPercent": "7",
        "replicasByRole": {"serving": 1, "standby": 1},
        "endpoint": "http://chat.team.svc",
        "sloAttainmentPercent": "99",
        "configuration": {
            "gpu": "L4",
            "tensorParallelSize": 1,
            "maxNumSeqs": 16,
            "maxNumBatchedTokens": 2048,
            "gpuMemoryUtilizationPercent": 90,
            "maxModelLen": 4096,
            "requestsPerSecondPerReplica": "8.00",
            "reason": "Recommended",
            "message": "it carries 8.00 req/s a replica",
        },
        "lastDecision": a_decided("DemandRising", "1 serving + 1 standby: more is asked for "
                                  "(2.00 req/s forecast over 30 s, 8.00 req/s a replica)"),
        "conditions": [a_condition("Ready", "True", "DemandRising")],
    }  # fmt: skip


def a_decided(reason: str, message: str) -> Json:
    """A last decision."""
    return {
        "serving": 1, "standby": 1, "reason": reason, "message": message,
        "time": "2026-11-21T00:00:00Z",
    }  # fmt: skip


def a_condition(kind: str, status: str, reason: str, message: str = "") -> Json:
    """A condition of long ago."""
    return {
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-11-21T00:00:00Z",
    }  # fmt: skip


def an_event(at: str, reason: str, note: str, **changes: Any) -> Json:
    """An event of `chat`."""
    regarding = {"kind": "LLMService", "name": "chat", "uid": "uid-chat"}
    return {
        "type": "Normal", "reason": reason, "note": note, "eventTime": at, "regarding": regarding,
    } | changes  # fmt: skip


def _page(items: list[Json], version: int) -> web.Response:
    return web.json_response({"metadata": {"resourceVersion": str(version)}, "items": items})
