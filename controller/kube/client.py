"""Requests to the API server: get, list pages, watch lines, apply, patch, create, delete.

Every failure is a `KubeError` that says what was asked and what the server answered. 429
and 5xx are `RetryLater`s too: the caller's loop comes back.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from controller.clock import monotonic_s
from profiler.errors import Refused, RetryLater, WhaleFluxError

FIELD_MANAGER = "whaleflux"
_DEFAULT_KUBECONFIG = Path("~/.kube/config").expanduser()
_READ_BUFFER_BYTES = 1 << 21
_SILENT_S = 90.0
"""Bookmarks come every minute. A watch without any is dead: one that was opened while a CRD was
being replaced gets nothing more, and is not closed either."""
_AT_ONCE = 32
"""Requests under way; more would wait in the API server's own queues, and in others' way."""
_TIMEOUT_S = 30.0


class KubeError(WhaleFluxError):
    """The API server refused; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotFound(KubeError):
    """404: no such object, or no such kind."""


class Conflict(KubeError):
    """409: exists already, or somebody else owns a field."""


class Forbidden(KubeError):
    """403: the service account lacks a right, or a quota is used up."""


class Gone(KubeError):
    """410: the resource version is too old; list again."""


class Credentials:
    """Where the API server is and how to be let in; read by the `kubernetes` library."""

    def __init__(self) -> None:
        # Imported here: it takes a second, and only the operator needs it.
        from kubernetes import client, config  # noqa: PLC0415

        try:
            if os.environ.get("KUBECONFIG") or _DEFAULT_KUBECONFIG.exists():
                config.load_kube_config()  # type: ignore[no-untyped-call]
            else:
                config.load_incluster_config()  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise Refused(
                f"kubernetes: no cluster to talk to ({error}): set KUBECONFIG or run in a pod"
            ) from error
        self._configuration = client.Configuration.get_default_copy()
        self.url = str(self._configuration.host)

    def headers(self) -> dict[str, str]:
        """Authorization, read anew each time: tokens in pods are rotated."""
        token = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return {"Authorization": token} if token else {}

    def tls(self) -> ssl.SSLContext | bool:
        """Trust the cluster's authority, or nobody in particular where the config says so."""
        c = self._configuration
        if not self.url.startswith("https"):
            return True
        context = ssl.create_default_context(cafile=c.ssl_ca_cert)
        if not c.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if c.cert_file:
            context.load_cert_chain(c.cert_file, c.key_file)
        return context


Tell = Callable[[str, int, float], None]
"""Takes the verb, the HTTP status (0: no answer) and the seconds of a request."""


def tell_nobody(verb: str, status: int, took_s: float) -> None:
    """Tell nobody."""


class KubeClient:
    """One session to one API server."""

    def __init__(self, session: aiohttp.ClientSession, credentials: Credentials) -> None:
        self.tell: Tell = tell_nobody
        """Told of every request but watches."""
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before every write: who no longer leads must not, however late it wakes up."""
        self.agent = FIELD_MANAGER
        """Who asks, in the API server's audit log."""
        self._session = session
        self._credentials = credentials
        self._tls = credentials.tls()
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def get(self, path: str, **query: str) -> bytes:
        """Read an object or a list page."""
        return await self._send("GET", path, query)

    async def create(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Create in a collection."""
        return await self._send("POST", path, {}, body, "application/json")

    async def apply(self, path: str, body: Mapping[str, Any], *, force: bool = True) -> bytes:
        """Server-side apply as the one field manager of this product."""
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        return await self._send("PATCH", path, query, body, "application/apply-patch+yaml")

    async def patch(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Merge patch."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._send("PATCH", path, query, body, "application/merge-patch+json")

    async def put(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Replace an object; `Conflict` where its version is no longer the one that was read."""
        return await self._send("PUT", path, {}, body, "application/json")

    async def delete(self, path: str, **body: Any) -> bytes:
        """Delete; `body` is DeleteOptions."""
        return await self._send("DELETE", path, {}, body, "application/json")

    @asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a watch; yields its lines."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENT_S)
        async with self._session.get(
            f"{self._credentials.url}{path}",
            params={**query, "watch": "true", "allowWatchBookmarks": "true"},
            headers={**self._credentials.headers(), "User-Agent": self.agent},
            ssl=self._tls,
            timeout=timeout,
            read_bufsize=_READ_BUFFER_BYTES,
        ) as answer:
            if answer.status != 200:
                raise _error("WATCH", path, answer.status, await answer.text())
            yield _lines(answer.content)

    async def _send(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        content_type: str | None = None,
    ) -> bytes:
        if verb != "GET" and not self.may_write():
            raise RetryLater(f"kubernetes: {verb} {path}: held back: this process does not lead")
        async with self._room:
            began_s, status = monotonic_s(), 0
            try:
                status, content = await self._answer(verb, path, query, body, content_type)
            finally:
                self.tell(verb, status, monotonic_s() - began_s)
        if status >= 400:
            raise _error(verb, path, status, content.decode(errors="replace"))
        return content

    async def _answer(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        content_type: str | None,
    ) -> tuple[int, bytes]:
        headers = {**self._credentials.headers(), "User-Agent": self.agent}
        if content_type is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._session.request(
                verb,
                f"{self._credentials.url}{path}",
                params=query,
                data=None if body is None else json.dumps(body).encode(),
                headers=headers,
                ssl=self._tls,
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RetryLater(f"kubernetes: {verb} {path}: {error or 'no answer'}") from error


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    while line := await stream.readline():
        yield line


def _error(verb: str, path: str, status: int, text: str) -> WhaleFluxError:
    """Translate an answer; the server's own message is the useful part."""
    try:
        said = json.loads(text).get("message", text)
    except (ValueError, AttributeError):
        said = text
    message = f"kubernetes: {verb} {path}: HTTP {status}: {str(said)[:500]}"
    if status == 429 or status >= 500:
        return RetryLater(message)
    kinds = {404: NotFound, 409: Conflict, 403: Forbidden, 410: Gone}
    return kinds.get(status, KubeError)(message, status)
