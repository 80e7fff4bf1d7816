"""The few requests a node makes of the API server, on one aiohttp session.

Plain JSON: the node sees tens of pods, not thousands. Reads a kubeconfig of the
form that `credentials.kubeconfig` writes.
"""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

Json = dict[str, Any]

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


class ApiError(RuntimeError):
    """The API server answered with an error status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Gone(RuntimeError):
    """The watch cannot go on from its version: list again."""


class Api:
    """A session with the API server, as the user of one kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        self.url: str = cluster["server"]
        self.ca_file = Path(cluster["certificate-authority"])
        token = document["users"][0]["user"]["token"]
        context = ssl.create_default_context(cafile=str(self.ca_file))
        self._session = aiohttp.ClientSession(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=10),
            read_bufsize=2**21,
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Json:
        return await self._ask("GET", path, query=query)

    async def post(self, path: str, body: Json) -> Json:
        return await self._ask("POST", path, body)

    async def patch(self, path: str, body: Json, kind: str = STRATEGIC) -> Json:
        return await self._ask("PATCH", path, body, kind=kind)

    async def delete(self, path: str, body: Json | None = None) -> Json:
        return await self._ask("DELETE", path, body)

    async def watch(self, path: str, version: str, **query: str) -> AsyncIterator[Json]:
        """Events after `version` until the server ends the stream; `Gone` when it must."""
        asked = {**query, "watch": "1", "resourceVersion": version, "timeoutSeconds": "300"}
        asked["allowWatchBookmarks"] = "true"
        quiet = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=310)
        async with self._session.get(path, params=asked, timeout=quiet) as answer:
            if answer.status == 410:
                raise Gone
            await _check(answer)
            async for line in answer.content:
                event: Json = json.loads(line)
                if event["type"] == "ERROR":
                    raise Gone
                yield event

    async def _ask(
        self,
        verb: str,
        path: str,
        body: Json | None = None,
        *,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> Json:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": kind}
        async with self._session.request(
            verb, path, data=data, params=query, headers=headers
        ) as answer:
            await _check(answer)
            found: Json = await answer.json()
            return found


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 400:
        raise ApiError(answer.status, (await answer.text())[:500])
