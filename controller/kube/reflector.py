"""A cache of one collection, kept by list and watch.

Resumes from the last resource version after a cut, lists again when the server says that it
is too old, and tells the difference to the listener: an object that vanished in a gap is
told as deleted. A line or an object that cannot be decoded affects nothing else.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar

import aiohttp
import msgspec

from controller.kube.client import Gone, KubeClient
from controller.kube.objects import Meta
from profiler.errors import RetryLater, WhaleFluxError

PAGE = "500"
_RETRY_FIRST_S = 0.2
_RETRY_LONGEST_S = 15.0
_LIVES_S = (5, 15, 45, 300)
"""How long a watch is followed: the first, the second, and so on."""
_CLOSES_S = 2.0
"""What the server gets to close it."""

_TRANSIENT = (
    WhaleFluxError, aiohttp.ClientError, msgspec.MsgspecError, TimeoutError, OSError
)  # fmt: skip

log = logging.getLogger(__name__)


class HasMeta(Protocol):
    """Any reduced object."""

    @property
    def metadata(self) -> Meta:
        """Name, labels and versions."""


T = TypeVar("T", bound=HasMeta)
Key = tuple[str, str]
"""Namespace and name."""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] = []


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Bookmark(msgspec.Struct):
    metadata: _ListMeta


def key_of(item: HasMeta) -> Key:
    """Namespace and name of an object."""
    return item.metadata.namespace, item.metadata.name


class Reflector(Generic[T]):
    """Mirrors `path` (narrowed by `selector`) into `items`."""

    def __init__(
        self,
        client: KubeClient,
        path: str,
        kind: type[T],
        listener: Callable[[Key, T | None], None],
        selector: str = "",
    ) -> None:
        self.items: dict[Key, T] = {}
        self.synced = asyncio.Event()
        """Set once the first list is complete; nothing may be decided before."""
        self.resource = path.rsplit("/", 1)[1]
        """Plural of what is mirrored."""
        self._client = client
        self._path = path
        self._query = {"labelSelector": selector} if selector else {}
        self._decode = msgspec.json.Decoder(kind).decode
        self._listener = listener
        self.restarted: Callable[[], None] = lambda: None
        """Called whenever a watch ended in an error."""
        self._lives = 0
        self._version = ""
        self._pause_s = _RETRY_FIRST_S

    async def run(self) -> None:
        """Mirror until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                # A server that ends watches at once must not be asked in a hot loop.
                await asyncio.sleep(_RETRY_FIRST_S)
            except Gone:
                self.restarted()
                self._version = ""
                await asyncio.sleep(_RETRY_FIRST_S)
            except _TRANSIENT as error:
                self.restarted()
                log.warning("watch %s: %s; again in %.1f s", self._path, error, self._pause_s)
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(2 * self._pause_s, _RETRY_LONGEST_S)

    async def _list(self) -> None:
        """Read every page, then tell what is new and what is gone."""
        found: dict[Key, T] = {}
        following, version = "", ""
        while True:
            more = {"continue": following} if following else {}
            content = await self._client.get(self._path, limit=PAGE, **self._query, **more)
            page = msgspec.json.decode(content, type=_Page)
            for raw in page.items:
                item = self._decoded(raw)
                if item is not None:
                    found[key_of(item)] = item
            version, following = page.metadata.resource_version, page.metadata.continue_
            if not following:
                break
        for key in self.items.keys() - found.keys():
            self._forget(key)
        for key, item in found.items():
            known = self.items.get(key)
            if known is None or known.metadata.resource_version != item.metadata.resource_version:
                self._keep(key, item)  # a list is the truth, even one of a restored backup
        self._version = version
        self._pause_s = _RETRY_FIRST_S
        self.synced.set()

    async def _watch(self) -> None:
        """Follow the stream until it ends, for a short while only at first.

        A watch that is opened while a CRD is being made or replaced hears nothing and is never
        closed: neither by the server, nor for want of bookmarks within a minute.
        """
        life_s = _LIVES_S[min(self._lives, len(_LIVES_S) - 1)]
        self._lives += 1
        query = {**self._query, "resourceVersion": self._version, "timeoutSeconds": str(life_s)}
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(life_s + _CLOSES_S),
                self._client.watch(self._path, **query) as lines,
            ):
                async for line in lines:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=_Event)
        except msgspec.DecodeError as error:  # a stream cut in the middle of a line
            log.warning("watch %s: unreadable line: %s", self._path, error)
            return
        self._pause_s = _RETRY_FIRST_S
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            if status.code == HTTPStatus.GONE:
                raise Gone(f"watch {self._path}: {status.message}", status.code)
            raise RetryLater(f"watch {self._path}: {status.message}")
        if event.type == "BOOKMARK":
            bookmark = msgspec.json.decode(event.object, type=_Bookmark)
            self._version = bookmark.metadata.resource_version
            return
        item = self._decoded(event.object)
        if item is None:
            return
        self._version = item.metadata.resource_version
        known = self.items.get(key_of(item))
        if event.type == "DELETED":
            if known is not None and not newer(known, item):
                self._forget(key_of(item))
        elif known is None or newer(item, known):
            self._keep(key_of(item), item)

    def _decoded(self, raw: msgspec.Raw) -> T | None:
        try:
            return self._decode(raw)
        except msgspec.MsgspecError as error:
            log.warning("watch %s: skipping an object: %s", self._path, error)
            return None

    def _keep(self, key: Key, item: T) -> None:
        self.items[key] = item
        self._listener(key, item)

    def _forget(self, key: Key) -> None:
        with contextlib.suppress(KeyError):
            del self.items[key]
            self._listener(key, None)


def newer(item: HasMeta, old: HasMeta) -> bool:
    """Whether an object is later than the one known: events may come twice, or out of order.

    Versions of one kind are numbers that grow (so since Kubernetes 1.35); any others are compared
    for being different only.
    """
    new, known = item.metadata.resource_version, old.metadata.resource_version
    if new.isdecimal() and known.isdecimal():
        return int(new) > int(known)
    return new != known
