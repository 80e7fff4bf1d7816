"""Real processes on two GPU types: what the first one's pool refuses runs on the other."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from controller.api import parse_service
from controller.clock import monotonic_s
from controller.loop import ServiceLoop
from controller.observation import Phase
from controller.pools import Pools
from controller.service import Bounds, resolve_service
from tests.controller.builders import a_manifest
from tests.controller.runtimes.rigs import a_local_rig, until

OFFERS = [{"gpu": "L4", "pricePerHour": "1"}, {"gpu": "H100-SXM", "pricePerHour": "9"}]


def test_every_type_offered_is_resolved_the_cheapest_first() -> None:
    service = resolve_service(parse_service(a_manifest(placement={"gpus": OFFERS}), "test"), {})
    assert [kind.gpu for kind in service.kinds] == ["L4", "H100-SXM"]
    assert service.fallbacks[0].worth_of(service) > 1.0
    assert service.on("H100-SXM").configuration == service.fallbacks[0].configuration
    assert service.on("").gpu == service.on("unknown").gpu == "L4"


async def test_a_service_is_served_by_what_its_pool_has_and_by_the_fallback_for_the_rest(
    tmp_path: Path,
) -> None:
    async with a_local_rig(tmp_path) as rig:
        small = replace(rig.service, bounds=Bounds(3, 3), standbys=0)
        other = replace(small, gpu="H100-SXM")
        loop = ServiceLoop(replace(small, fallbacks=(other,)), rig.runtime, rig.http, monotonic_s)
        loop.pools = Pools({"L4": 2})
        running = asyncio.create_task(loop.run())
        await until(rig, lambda now: now == [Phase.SERVING] * 3)
        assert sorted(r.gpu for r in rig.runtime.replicas(small.id)) == ["H100-SXM", "L4", "L4"]
        assert (await rig.ask())["usage"]["completion_tokens"] == 4
        loop.pools = Pools()
        await until(rig, lambda now: now == [Phase.SERVING] * 3 + [Phase.STARTING])
        async with asyncio.timeout(30):
            while "H100-SXM" in {r.gpu for r in rig.runtime.replicas(small.id)}:
                await rig.runtime.changed(small.id)
        await until(rig, lambda now: now == [Phase.SERVING] * 3)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
