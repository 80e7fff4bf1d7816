"""Whether requests wait at a service's router because nobody serves.

Without a worker the router tries a request again and again, half a second apart at most, and counts
each try as an error: the count grows exactly while somebody waits.
"""

import asyncio
import logging

import aiohttp

from controller.runtimes.protocol import Runtime
from controller.service import ServiceId
from monitor import read_exposition

_COUNTER = "vllm_router_request_errors_total"
_NOBODY = "no_available_workers"
_TIMEOUT = aiohttp.ClientTimeout(total=2.0)

log = logging.getLogger(__name__)


class Held:
    """Reads a service's routers' counts of tries that found no worker."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._before: dict[str, float] = {}

    async def read(self, runtime: Runtime, service: ServiceId) -> float | None:
        """Tries since the last look; None where no router says."""
        urls = runtime.router_metrics(service)
        totals = await asyncio.gather(*(self._total(url) for url in urls))
        now = {url: total for url, total in zip(urls, totals, strict=True) if total is not None}
        before, self._before = self._before, now
        known = [
            total - before[url] if total >= before[url] else total  # it began anew
            for url, total in now.items()
            if url in before
        ]
        return sum(known) if known else None

    async def _total(self, url: str) -> float | None:
        try:
            async with self._http.get(url, timeout=_TIMEOUT) as answer:
                page = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.debug("router's metrics at %s: %s", url, error)
            return None
        samples = read_exposition(page, frozenset({_COUNTER})).samples.get(_COUNTER, ())
        return sum(s.value for s in samples if s.labels.get("error_type") == _NOBODY)
