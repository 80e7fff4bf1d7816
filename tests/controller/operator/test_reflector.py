"""A mirror of a collection that survives what API servers and networks do."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from controller.kube import Reflector
from controller.kube.objects import Pod
from controller.kube.reflector import Key
from tests.controller.operator.api_server import PATH, ApiServer, serving
from tests.controller.operator.some_pods import pod_json

DEADLINE_S = 20.0


def pod(name: str, version: str = "1") -> dict[str, Any]:
    return pod_json(name, metadata={"resourceVersion": version})


@dataclass(slots=True)
class Mirror:
    """A reflector that runs, and everything it told."""

    api: ApiServer
    reflector: Reflector[Pod]
    told: list[tuple[str, str | None]] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def names(self) -> list[str]:
        return sorted(name for _, name in self.reflector.items)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for what the mirror tells or the server is asked."""
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                waits = [asyncio.create_task(e.wait()) for e in (self.moved, self.api.changed)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                self.moved.clear()
                self.api.changed.clear()


@asynccontextmanager
async def mirroring(api: ApiServer, selector: str = "") -> AsyncIterator[Mirror]:
    async with serving(api) as client:
        told: list[tuple[str, str | None]] = []
        moved = asyncio.Event()

        def listen(key: Key, item: Pod | None) -> None:
            told.append((key[1], None if item is None else item.metadata.resource_version))
            moved.set()

        reflector = Reflector(client, PATH, Pod, listen, selector)
        task = asyncio.create_task(reflector.run())
        try:
            await asyncio.wait_for(reflector.synced.wait(), DEADLINE_S)
            yield Mirror(api, reflector, told, moved)
            assert not task.done(), "it gave up"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_lists_every_page_and_watches_from_there() -> None:
    api = ApiServer([pod(f"p{i}") for i in range(5)], page_size=2)
    async with mirroring(api, "app=x") as mirror:
        assert mirror.names == ["p0", "p1", "p2", "p3", "p4"]
        await mirror.until(lambda: api.watches)
        assert [query.get("continue") for query in api.lists] == [None, "2", "4"]
        assert {query["labelSelector"] for query in api.queries} == {"app=x"}
        assert api.watches[0]["resourceVersion"] == "10"
        assert api.watches[0]["allowWatchBookmarks"] == "true"


async def test_changes_are_mirrored_and_told_once() -> None:
    api = ApiServer([pod("a")])
    async with mirroring(api) as mirror:
        api.say("ADDED", pod("b", "11"))
        api.say("MODIFIED", pod("a", "12"))
        api.say("MODIFIED", pod("a", "12"))  # the same version says nothing new
        api.say("DELETED", pod("b", "13"))
        await mirror.until(lambda: len(mirror.told) == 4)
        assert mirror.told == [("a", "1"), ("b", "11"), ("a", "12"), ("b", None)]
        assert mirror.names == ["a"]


async def test_a_stream_that_ends_is_resumed_from_the_last_version() -> None:
    api = ApiServer([pod("a")])
    async with mirroring(api) as mirror:
        api.say("MODIFIED", pod("a", "15"))
        api.cut()
        await mirror.until(lambda: len(api.watches) == 2)
        assert [query["resourceVersion"] for query in api.watches] == ["10", "15"]
        assert len(api.lists) == 1


async def test_bookmarks_move_the_version_and_tell_nothing() -> None:
    api = ApiServer([pod("a")])
    async with mirroring(api) as mirror:
        api.say("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "99"}})
        api.cut()
        await mirror.until(lambda: len(api.watches) == 2)
        assert api.watches[1]["resourceVersion"] == "99"
        assert mirror.told == [("a", "1")]


async def relisted(api: ApiServer, mirror: Mirror) -> None:
    """What vanished in the gap is told as deleted, what changed as changed."""
    await mirror.until(lambda: len(mirror.told) >= 5)
    assert sorted(mirror.told[:2]) == [("gone", "1"), ("kept", "1")]
    assert mirror.told[2] == ("gone", None)
    assert sorted(mirror.told[3:]) == [("kept", "21"), ("new", "22")]
    assert mirror.names == ["kept", "new"]
    await mirror.until(lambda: api.watches[-1]["resourceVersion"] == "30")


async def test_an_answer_of_410_lists_again_and_tells_the_deletions() -> None:
    api = ApiServer([pod("gone"), pod("kept")])
    async with mirroring(api) as mirror:
        await mirror.until(lambda: api.watches)
        api.items, api.version = [pod("kept", "21"), pod("new", "22")], "30"
        api.refusals = [410]
        api.cut()
        await relisted(api, mirror)


async def test_a_410_in_the_stream_lists_again_and_tells_the_deletions() -> None:
    api = ApiServer([pod("gone"), pod("kept")])
    async with mirroring(api) as mirror:
        await mirror.until(lambda: api.watches)
        api.items, api.version = [pod("kept", "21"), pod("new", "22")], "30"
        api.say("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})
        api.cut()
        await relisted(api, mirror)


async def test_an_object_that_cannot_be_read_is_skipped() -> None:
    broken = pod("broken") | {"status": {"phase": 7}}
    api = ApiServer([broken, pod("a")])
    async with mirroring(api) as mirror:
        api.say("ADDED", broken)
        api.say("ADDED", {"no": "metadata"})
        api.say("ADDED", pod("b", "12"))
        await mirror.until(lambda: "b" in mirror.names)
        assert mirror.names == ["a", "b"]
        assert len(api.lists) == 1


async def test_a_line_cut_in_the_middle_is_survived() -> None:
    api = ApiServer([pod("a")])
    async with mirroring(api) as mirror:
        api.say_bytes(b'{"type":"MODIFIED","object":{"metadata":{"na')
        api.cut()
        api.say("MODIFIED", pod("a", "12"))
        await mirror.until(lambda: len(mirror.told) == 2)
        assert mirror.told[-1] == ("a", "12")
        assert api.watches[1]["resourceVersion"] == "10"


async def test_a_server_in_trouble_is_asked_again_and_nothing_is_forgotten() -> None:
    api = ApiServer([pod("a")])
    async with mirroring(api) as mirror:
        await mirror.until(lambda: api.watches)
        api.refusals = [500, 429]
        api.cut()
        await mirror.until(lambda: len(api.watches) == 4)
        api.say("ADDED", pod("b", "12"))
        await mirror.until(lambda: "b" in mirror.names)
        assert mirror.told == [("a", "1"), ("b", "12")]
        assert len(api.lists) == 1


async def test_an_empty_collection_is_in_sync() -> None:
    async with mirroring(ApiServer()) as mirror:
        assert mirror.names == []
        assert mirror.told == []


def _has_end(mirror: Mirror) -> bool:
    return "end" in mirror.names


async def test_events_that_come_twice_late_or_out_of_order_change_nothing_for_the_worse() -> None:
    """Whatever order the events of one history come in, the last of each object stands."""
    history = [
        ("ADDED", "b", 11), ("MODIFIED", "a", 12), ("MODIFIED", "b", 13), ("DELETED", "b", 14),
        ("ADDED", "b", 15), ("MODIFIED", "a", 16), ("MODIFIED", "b", 17),
    ]  # fmt: skip
    rng = random.Random(7)
    for _ in range(20):
        shuffled = [event for event in history for _ in range(rng.choice((1, 2)))]
        rng.shuffle(shuffled)
        api = ApiServer([pod("a")])
        async with mirroring(api) as mirror:
            for kind, name, version in shuffled:
                api.say(kind, pod(name, str(version)))
            api.say("ADDED", pod("end", "99"))
            await mirror.until(partial(_has_end, mirror))
            items = mirror.reflector.items
            assert items["default", "a"].metadata.resource_version == "16"
            assert items["default", "b"].metadata.resource_version == "17"
