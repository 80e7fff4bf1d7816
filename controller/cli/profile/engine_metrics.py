"""The profiler's port to an engine's `/metrics`, composed from the monitor's signals.

The profiler may not know metric names, and the monitor reads no configuration: this edge
joins them. An engine without metrics is profiled by client timings alone.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from monitor import Histogram, NotAnEngine, read_exposition, read_signals
from profiler.errors import RetryLater
from profiler.measure.profiling import CacheFacts, Phases, Total

_TIMEOUT_S = 10.0
_CACHE_INFO = "vllm:cache_config_info"
_ITERATION = "vllm:iteration_tokens_total"
_WANTED = (_CACHE_INFO, f"{_ITERATION}_sum", f"{_ITERATION}_count")


@dataclass(slots=True)
class EngineMetrics:
    """Reads one engine's page; once it has published, silence is a failure."""

    session: aiohttp.ClientSession
    url: str
    """Of the page, `/metrics` included."""
    published: bool = False

    async def phases(self) -> Phases | None:
        """The engine's counters now; None when it publishes none.

        Raises `RetryLater` when an engine that published them no longer does.
        """
        page = await self._page()
        if page is None:
            return None
        try:
            seen = read_signals(page)
        except NotAnEngine:
            return None
        self.published = True
        extra = read_exposition(page, _WANTED).samples
        steps = [sum(s.value for s in extra.get(f"{_ITERATION}_{x}", ())) for x in ("sum", "count")]
        return Phases(
            running=seen.running,
            waiting=seen.waiting,
            prompt_tokens=seen.prompt_tokens_total,
            generation_tokens=seen.generation_tokens_total,
            cached_tokens=seen.prefix_cache_hits_total,
            preemptions=seen.preemptions_total,
            ttft=_total(seen.ttft),
            itl=_total(seen.itl),
            queue=_total(seen.queue_time),
            prefill=_total(seen.prefill_time),
            decode=_total(seen.decode_time),
            iteration_tokens=Total(*steps) if f"{_ITERATION}_sum" in extra else None,
        )

    async def cache(self) -> CacheFacts:
        """What the engine says of its KV cache; all None when it says nothing."""
        page = await self._page()
        if page is None:
            return CacheFacts()
        samples = read_exposition(page, _WANTED).samples.get(_CACHE_INFO, ())
        try:
            capacity = read_signals(page).kv_capacity_tokens
        except NotAnEngine:
            capacity = None
        labels: Mapping[str, str] = samples[0].labels if samples else {}
        caching = {"True": True, "False": False}.get(labels.get("enable_prefix_caching", ""))
        block, size = _number(labels, "block_size"), _number(labels, "kv_cache_memory_bytes")
        return CacheFacts(
            capacity_tokens=None if capacity is None else int(capacity),
            block_tokens=None if block is None else int(block),
            gpu_memory_utilization=_number(labels, "gpu_memory_utilization"),
            cache_bytes=None if size is None else int(size),
            blocks_overridden=_number(labels, "num_gpu_blocks_override") is not None,
            prefix_caching=caching,
        )

    async def _page(self) -> bytes | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S), self.session.get(self.url) as response:
                if response.status == 200:
                    return await response.read()
                fault = f"HTTP {response.status}"
        except TimeoutError:
            fault = f"no answer within {_TIMEOUT_S:g} s"
        except (aiohttp.ClientError, OSError) as error:
            fault = f"{type(error).__name__}: {error}"
        if self.published:
            raise RetryLater(f"{self.url}: {fault}: the engine published metrics before")
        return None


def _total(histogram: Histogram | None) -> Total | None:
    return None if histogram is None else Total(histogram.sum, histogram.count)


def _number(labels: Mapping[str, str], name: str) -> float | None:
    """A label's number; None for "None" and anything else that is no positive number."""
    try:
        value = float(labels.get(name, ""))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
