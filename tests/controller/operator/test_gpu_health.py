"""What exporters tell of the GPUs that pods hold."""

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from controller.operator.gpu_health import GpuHealth

PAGE = 'DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-a",pod="chat-1",namespace="llm"} 79\n'


async def page(request: web.Request) -> web.Response:
    return web.Response(text=PAGE)


async def test_a_pods_gpus_are_found_and_a_silent_exporter_hides_no_others() -> None:
    app = web.Application()
    app.router.add_get("/metrics", page)
    async with TestServer(app, host="127.0.0.1") as server, aiohttp.ClientSession() as http:
        there = str(server.make_url("/metrics"))
        health = GpuHealth(http, ["http://127.0.0.1:9/metrics", there])
        await health.read()
        (gpu,) = health.of("llm", "chat-1")
        assert (gpu.index, gpu.xid) == ("GPU-a", 79)
        assert health.of("other", "chat-1") == ()


async def test_a_name_that_is_not_known_leaves_gpus_unknown() -> None:
    async with aiohttp.ClientSession() as http:
        health = GpuHealth(http, ["http://no-such-name.invalid:9400/metrics"])
        await health.read()
        assert health.of("llm", "chat-1") == ()
