"""The workload that one engine is asked right now: its `/metrics` page, polled for a while.

Called by `whaleflux plan` where there is no Prometheus.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import reduce
from itertools import pairwise

import aiohttp
import numpy as np

from controller.traffic.counts import (
    LEAST_ENDED,
    LENGTHS,
    SMOOTHED,
    Floats,
    Notes,
    arrivals_per_interval,
    hit_ratio_of,
    notes_of,
    open_ended,
)
from monitor import EngineSignals, Histogram, scrape
from profiler.errors import Refused, RetryLater
from recommender import LengthCounts, Workload, workload_from_counts


async def traffic_from_engine(
    http: aiohttp.ClientSession,
    url: str,
    seconds: float,
    interval_s: float,
    now_s: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> tuple[Workload, Notes]:
    """Watch one engine's `/metrics` for `seconds` and read what it was asked meanwhile.

    `url`: of the engine, or of its page. `now_s`: a clock that runs with `sleep`. Raises
    `RetryLater` when nobody answers, `Refused` when nothing came.
    """
    if not 0 < interval_s <= seconds:
        raise Refused(f"engine: an interval of {interval_s} s does not fit into {seconds} s")
    page = _page_of(url)
    pages = await _watched(http, page, int(seconds / interval_s + 0.5), interval_s, now_s, sleep)
    counts, notes = _counts_of(page, pages)
    if not np.nansum(counts) > 0:
        raise Refused(
            f"{page}: no request came in {seconds:g} s: watch for longer, or send it traffic"
        )
    known = [signals for signals in pages if signals is not None]
    lengths, hit_ratio, more = _requests_of(page, known)
    notes = (*notes, *more, *notes_of(counts), *open_ended(*lengths))
    return workload_from_counts(list(counts), interval_s, *lengths, hit_ratio), notes


def _page_of(url: str) -> str:
    bare = url.rstrip("/")
    return bare if "/" in bare.partition("://")[2] else f"{bare}/metrics"


async def _watched(
    http: aiohttp.ClientSession,
    page: str,
    intervals: int,
    interval_s: float,
    now_s: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> list[EngineSignals | None]:
    """A page at the beginning and after every interval; None: there was none."""
    begun_s = now_s()
    pages: list[EngineSignals | None] = []
    for i in range(intervals + 1):
        await sleep(max(begun_s + i * interval_s - now_s(), 0.0))
        reading = await scrape(http, page, now_s=now_s, timeout_s=min(interval_s, 10.0))
        if reading.signals is None and not pages:
            raise RetryLater(f"{reading.error}: is an engine serving there?")
        pages.append(reading.signals)
    return pages


def _counts_of(page: str, pages: Sequence[EngineSignals | None]) -> tuple[Floats, Notes]:
    """[pages − 1] arrivals between two pages."""
    ended = np.array([_ended(s) for s in pages])
    if np.isnan(ended).all():
        raise Refused(f"{page}: publishes no count of ended requests: is it a recent engine?")
    held = np.array([_held(s) for s in pages])
    notes: Notes = ()
    if np.isnan(held).all():
        held = np.where(np.isnan(ended), np.nan, 0.0)
        notes = (SMOOTHED.format(count=1),)
    return arrivals_per_interval(ended[None], held[None]), notes


def _ended(signals: EngineSignals | None) -> float:
    """As `monitor.arrivals` counts them; NaN: unknown."""
    if signals is None or signals.requests_finished is None:
        return np.nan
    return sum(signals.requests_finished.values())


def _held(signals: EngineSignals | None) -> float:
    if signals is None or signals.running is None or signals.waiting is None:
        return np.nan
    return signals.running + signals.waiting


def _requests_of(
    page: str, pages: Sequence[EngineSignals]
) -> tuple[tuple[LengthCounts, LengthCounts], float, Notes]:
    """Lengths and hit ratio of the requests that ended in between, or of all since the start."""
    added = [_added([getattr(s, name) for s in pages]) for name in LENGTHS]
    hits = _increase([s.prefix_cache_hits_total for s in pages])
    queries = _increase([s.prefix_cache_queries_total for s in pages])
    notes: Notes = ()
    ended = min((h.count for h in added if h is not None), default=0.0)
    if ended < LEAST_ENDED:
        last = pages[-1]
        added = [getattr(last, name) for name in LENGTHS]
        hits, queries = last.prefix_cache_hits_total, last.prefix_cache_queries_total
        notes = (
            f"only {ended:.0f} requests ended while watching: lengths and prefix hits are those "
            f"since the engine's start",
        )
    for name, histogram in zip(LENGTHS, added, strict=True):
        if histogram is None:
            raise Refused(f"{page}: publishes no {LENGTHS[name]}: choose another source")
    ratio, more = hit_ratio_of(hits, queries)
    prompts, answers = (_counts_in(h) for h in added if h is not None)
    return (prompts, answers), ratio, (*notes, *more)


def _added(histograms: Sequence[Histogram | None]) -> Histogram | None:
    """What was observed between the first and the last; after a restart all of it is new."""
    known = [h for h in histograms if h is not None]
    parts = [late.since(early) or late for early, late in pairwise(known)]
    return reduce(lambda a, b: a.plus(b) or b, parts) if parts else None


def _increase(values: Sequence[float | None]) -> float | None:
    """What a counter grew by; after a restart it grew from 0."""
    known = [value for value in values if value is not None]
    steps = [late - early if late >= early else late for early, late in pairwise(known)]
    return sum(steps) if steps else None


def _counts_in(histogram: Histogram) -> LengthCounts:
    counts = np.diff(histogram.cumulative, prepend=0.0)
    return LengthCounts(histogram.bounds, tuple(counts.tolist()), histogram.sum)
