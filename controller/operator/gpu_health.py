"""The health of every replica's GPUs, from DCGM exporters: one page a node.

A name may stand for many addresses, as a headless Service's does: all of them are read. A page that
cannot be read leaves its GPUs unknown, and nothing else.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from monitor.detectors.reading import GpuReading
from monitor.sources.gpu import Owner, read_gpus_of_pods

PERIOD_S = 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
_LIMIT_BYTES = 8 << 20

log = logging.getLogger(__name__)


class GpuHealth:
    """Reads the exporters again and again; `of` answers from the last round."""

    def __init__(self, http: aiohttp.ClientSession, urls: Iterable[str]) -> None:
        self._http = http
        self._urls = tuple(urls)
        self._found: Mapping[Owner, tuple[GpuReading, ...]] = {}

    async def run(self) -> None:
        """Read until cancelled; returns at once where there is nothing to read."""
        while self._urls:
            await self.read()
            await asyncio.sleep(PERIOD_S)

    async def read(self) -> None:
        """Read every exporter once."""
        addresses = [address for url in self._urls for address in await _addresses(url)]
        pages = await asyncio.gather(*(self._page(address) for address in addresses))
        found: dict[Owner, tuple[GpuReading, ...]] = {}
        for page in pages:
            found |= read_gpus_of_pods(page)
        self._found = found

    def of(self, namespace: str, pod: str) -> tuple[GpuReading, ...]:
        """GPUs that a pod holds; none where no exporter tells."""
        return self._found.get((namespace, pod), ())

    async def _page(self, url: str) -> bytes:
        try:
            async with self._http.get(url, timeout=_TIMEOUT) as answer:
                return await answer.content.read(_LIMIT_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("gpu metrics: %s: %s", url, error)
            return b""


async def _addresses(url: str) -> list[str]:
    """The URL for each address of its host, or as it is where it cannot be looked up."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with contextlib.suppress(OSError):
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=1)
        hosts = sorted({str(at[0]) for *_, at in found})
        shown = [f"[{host}]" if ":" in host else host for host in hosts]
        return [urlunsplit(parts._replace(netloc=f"{host}:{port}")) for host in shown]
    return [url]
