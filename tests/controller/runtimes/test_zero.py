"""To none and back on real processes: the router holds what comes until somebody serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from controller.clock import monotonic_s
from controller.loop import ServiceLoop
from controller.observation import Phase
from controller.service import Bounds
from tests.controller.runtimes.rigs import LocalRig, a_local_rig, until


@asynccontextmanager
async def looked_after(rig: LocalRig) -> AsyncIterator[ServiceLoop]:
    bounds = Bounds(1, 3, zero_after_s=2.0)
    service = replace(rig.service, standbys=0, bounds=bounds)
    loop = ServiceLoop(service, rig.runtime, rig.http, monotonic_s)
    running = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_service_sleeps_when_idle_and_wakes_for_a_request_without_losing_it(
    tmp_path: Path,
) -> None:
    async with a_local_rig(tmp_path) as rig, looked_after(rig) as loop:
        await until(rig, lambda now: now == [Phase.SERVING])
        assert (await rig.ask())["usage"]["completion_tokens"] == 4
        await until(rig, lambda now: now == [])
        assert loop.state.serving == 0
        asked = await asyncio.gather(*(rig.ask() for _ in range(5)))
        assert [answer["usage"]["completion_tokens"] for answer in asked] == [4] * 5
