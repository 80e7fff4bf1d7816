"""An API server with one collection: pages to list, lines to watch, faults to inject."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from controller.kube.client import Credentials, KubeClient

PATH = "/api/v1/pods"
Json = dict[str, Any]


@dataclass(slots=True)
class ApiServer:
    """`items` is what a list answers; `say` sends a line to whoever watches."""

    items: list[Json] = field(default_factory=list)
    version: str = "10"
    page_size: int = 500
    queries: list[dict[str, str]] = field(default_factory=list)
    """Of each request, in the order they came."""
    refusals: list[int] = field(default_factory=list)
    """HTTP statuses that the next watches are answered with."""
    lines: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, kind: str, item: Json) -> None:
        self.lines.put_nowait(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    def say_bytes(self, line: bytes) -> None:
        self.lines.put_nowait(line)

    def cut(self) -> None:
        """End the stream that is watched."""
        self.lines.put_nowait(None)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        self.changed.set()
        if "watch" in request.query:
            return await self._watch(request)
        first = int(request.query.get("continue", "0"))
        page = self.items[first : first + self.page_size]
        following = first + self.page_size
        more = {"continue": str(following)} if following < len(self.items) else {}
        metadata = {"resourceVersion": self.version, **more}
        return web.json_response({"metadata": metadata, "items": page})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self.refusals:
            status = self.refusals.pop(0)
            return web.json_response(
                {"message": "too old" if status == 410 else "no"}, status=status
            )
        response = web.StreamResponse()
        await response.prepare(request)
        while (line := await self.lines.get()) is not None:
            await response.write(line)
        return response

    @property
    def lists(self) -> list[dict[str, str]]:
        return [query for query in self.queries if "watch" not in query]

    @property
    def watches(self) -> list[dict[str, str]]:
        return [query for query in self.queries if "watch" in query]


class NoCredentials:
    def __init__(self, url: str) -> None:
        self.url = url

    def headers(self) -> dict[str, str]:
        return {}

    def tls(self) -> bool:
        return True


@asynccontextmanager
async def serving(api: ApiServer) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_get(PATH, api.answer)
    async with TestServer(app) as server, ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        yield KubeClient(session, cast("Credentials", NoCredentials(url)))
        api.cut()
