"""Fetch `/metrics` pages straight from replicas.

Called by the observation loop at every tick. It never raises for what a network or a page
can do: a replica that does not answer is a `Reading` whose error says why, and the others
are read all the same. It keeps no state: the last good reading is the caller's to keep.
"""

import asyncio
from collections.abc import Callable, Iterable

import aiohttp

from monitor.signals import Reading, read_signals
from profiler.errors import Refused

_HEADERS = {
    "Accept": "text/plain; version=0.0.4",
    "Accept-Encoding": "identity",  # compressing would cost the engine's own event loop
}
LIMIT_BYTES = 8 << 20
"""160 times vLLM's page: what is larger is no engine's."""


class _BadPageError(Exception):
    """What came is no page to be read; the text says why."""


async def scrape(
    session: aiohttp.ClientSession,
    url: str,
    *,
    now_s: Callable[[], float],
    timeout_s: float = 2.0,
    limit_bytes: int = LIMIT_BYTES,
) -> Reading:
    """Read one replica's page within `timeout_s` in all."""
    try:
        async with asyncio.timeout(timeout_s):
            page = await _fetch(session, url, limit_bytes)
        return Reading(read_signals(page), now_s())
    except TimeoutError:
        error = f"no answer within {timeout_s:g} s"
    except (_BadPageError, Refused) as fault:
        error = str(fault)
    except (aiohttp.ClientError, OSError, ValueError) as fault:
        error = f"{type(fault).__name__}: {fault}"
    return Reading(None, now_s(), f"{url}: {error}")


async def scrape_all(
    session: aiohttp.ClientSession,
    urls: Iterable[str],
    *,
    now_s: Callable[[], float],
    timeout_s: float = 2.0,
    limit_bytes: int = LIMIT_BYTES,
    at_once: int = 64,
) -> dict[str, Reading]:
    """Read many replicas, `at_once` at a time; each url's reading, in the order given.

    A replica's `timeout_s` starts when its turn comes, so the silent delay the others' turn
    only by what they hold of the `at_once` places.
    """
    turn = asyncio.Semaphore(at_once)

    async def read(url: str) -> Reading:
        async with turn:
            return await scrape(
                session, url, now_s=now_s, timeout_s=timeout_s, limit_bytes=limit_bytes
            )

    async with asyncio.TaskGroup() as group:
        tasks = {url: group.create_task(read(url)) for url in dict.fromkeys(urls)}
    return {url: task.result() for url, task in tasks.items()}


async def _fetch(session: aiohttp.ClientSession, url: str, limit_bytes: int) -> bytes:
    async with session.get(url, headers=_HEADERS) as response:
        if response.status != 200:
            raise _BadPageError(f"HTTP {response.status} {response.reason or ''}".rstrip())
        page = bytearray()
        async for chunk in response.content.iter_any():
            page += chunk
            if len(page) > limit_bytes:
                raise _BadPageError(f"the page exceeds {limit_bytes} bytes")
        return bytes(page)
