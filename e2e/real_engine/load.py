"""Load on a router: streams for as long as a block runs, every outcome kept."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

from controller.clock import monotonic_s
from profiler.measure import Outcome, Request, Target, complete, open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import aiohttp


@asynccontextmanager
async def steady(
    target: Target, rate_rps: Callable[[], float], input_tokens: int, output_tokens: int
) -> AsyncIterator[list[Outcome]]:
    """Send at even gaps until the block ends, then wait for every answer.

    `rate_rps` is asked anew for each gap. The list fills as requests end; it is complete once
    the block was left.
    """
    outcomes: list[Outcome] = []
    async with open_session() as http, asyncio.TaskGroup() as group:

        async def follow(index: int) -> None:
            request = Request(index, monotonic_s(), input_tokens, output_tokens)
            outcomes.append(await complete(http, target, request, monotonic_s))

        async def send() -> None:
            for index in count():
                group.create_task(follow(index))
                await asyncio.sleep(1 / rate_rps())

        sender = group.create_task(send())
        yield outcomes
        sender.cancel()


@asynccontextmanager
async def in_flight(
    target: Target, streams: int, input_tokens: int, output_tokens: int
) -> AsyncIterator[list[Outcome]]:
    """Keep so many streams open until the block ends, then wait for every answer.

    A slow machine gets fewer requests, so that this load stays light on any.
    """
    outcomes: list[Outcome] = []
    indexes = count()
    ended = asyncio.Event()
    async with open_session() as http, asyncio.TaskGroup() as group:

        async def follow() -> None:
            while not ended.is_set():
                request = Request(next(indexes), monotonic_s(), input_tokens, output_tokens)
                outcomes.append(await complete(http, target, request, monotonic_s))

        for _ in range(streams):
            group.create_task(follow())
        yield outcomes
        ended.set()


def at_once(
    http: aiohttp.ClientSession,
    target: Target,
    requests: int,
    input_tokens: int,
    output_tokens: int,
) -> list[asyncio.Task[Outcome]]:
    """Send so many streams at the same moment."""
    now_s = monotonic_s()
    shapes = (Request(index, now_s, input_tokens, output_tokens) for index in range(requests))
    return [asyncio.create_task(complete(http, target, r, monotonic_s)) for r in shapes]
