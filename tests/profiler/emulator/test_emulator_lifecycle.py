"""Hanging up, sleeping, draining and faults, seen over HTTP."""

import json
from typing import TYPE_CHECKING, Any

import pytest

from profiler.emulator.faults import DEAD

from .emulated import STEP_S, Emulated, emulated, until

if TYPE_CHECKING:
    import asyncio

LONG = {"prompt": "a b c", "max_tokens": 500, "ignore_eos": True}


async def begun(server: Emulated, *, stream: bool = True) -> "asyncio.Task[Any]":
    """Start a long request and make its first two tokens."""
    sent = server.post("/v1/completions", **LONG, stream=stream)
    await until(lambda: server.engine.in_flight > 0)
    await server.clock.advance(2.5 * STEP_S)
    return sent


async def inject(server: Emulated, kind: str, **more: Any) -> None:
    response = await server.post("/faults", kind=kind, **more)
    assert response.status == 200, await response.text()


async def test_a_client_that_hangs_up_frees_its_kv() -> None:
    async with emulated() as server:
        response = await (await begun(server))
        assert server.engine.kv_usage_ratio > 0
        response.close()
        await until(lambda: server.engine.in_flight == 0)
        assert (server.engine.running, server.engine.kv_usage_ratio) == (0, 0.0)
        page = await server.metrics()
    assert page["vllm:request_success_total{finished_reason=abort}"] == 1


async def test_a_client_that_hangs_up_before_the_first_token_leaves_the_queue() -> None:
    async with emulated() as server:
        sent = server.post("/v1/completions", **LONG)
        await until(lambda: server.engine.in_flight > 0)
        sent.cancel()
        await until(lambda: server.engine.in_flight == 0)


async def test_asleep_it_queues_and_awake_it_serves() -> None:
    async with emulated(sleep_mode=True) as server:
        response = await server.session.post("/sleep?level=2")
        assert response.status == 200
        assert await sleeping(server)
        waits = server.post("/v1/completions", prompt="a", max_tokens=1)
        await until(lambda: server.engine.waiting == 1)
        await server.clock.advance(100)
        page = await server.metrics()
        assert not waits.done()
        woken = server.post("/wake_up")
        await until(lambda: server.clock.sleepers == 1)
        await server.clock.advance(1.99)
        assert await sleeping(server)
        await server.clock.advance(0.02 + STEP_S)
        assert (await woken).status == (await waits).status == 200
        assert not await sleeping(server)
    assert page["vllm:engine_sleep_state{sleep_state=awake}"] == 0
    assert page["vllm:engine_sleep_state{sleep_state=discard_all}"] == 1
    assert page["vllm:num_requests_waiting"] == 1


async def sleeping(server: Emulated) -> bool:
    async with server.session.get("/is_sleeping") as response:
        return bool((await response.json())["is_sleeping"])


async def test_going_to_sleep_aborts_what_is_in_flight() -> None:
    async with emulated(sleep_mode=True) as server:
        response = await (await begun(server))
        await server.session.post("/sleep")
        *_, last, done = (await response.text()).split("\n\n")[:-1]
    assert json.loads(last[6:])["choices"][0]["finish_reason"] == "abort"
    assert done == "data: [DONE]"


async def test_draining_refuses_new_requests_and_stays_healthy() -> None:
    async with emulated() as server:
        response = await (await begun(server))
        server.engine.draining = True
        refused = await server.post("/v1/completions", **LONG)
        async with server.session.get("/health") as health:
            assert health.status == 200
        await server.clock.advance(10)
        assert "[DONE]" in await response.text()
        assert refused.status == 500
        assert (await refused.json())["error"]["type"] == "InternalServerError"


async def test_a_hang_stops_tokens_and_not_health() -> None:
    async with emulated(faults=True) as server:
        response = await (await begun(server))
        await inject(server, "hang")
        await server.clock.advance(100)
        page = await server.metrics()
        async with server.session.get("/health") as health:
            assert health.status == 200
        assert page["vllm:generation_tokens_total"] == 2
        assert page["vllm:num_requests_running"] == 1
        await inject(server, "clear")
        await server.clock.advance(10)
        assert "[DONE]" in await response.text()


async def test_slow_stretches_every_step() -> None:
    async with emulated(faults=True) as server:
        await inject(server, "slow", factor=3)
        await server.completion(max_tokens=5)
        page = await server.metrics()
    assert page["vllm:inter_token_latency_seconds_sum"] == pytest.approx(4 * 3 * STEP_S)


async def test_a_device_error_kills_the_engine_until_it_is_cleared() -> None:
    async with emulated(faults=True) as server:
        response = await (await begun(server))
        whole = await begun(server, stream=False)
        await inject(server, "xid", code=48)
        failed = await whole
        assert failed.status == 500
        assert (await failed.json())["error"]["message"] == DEAD
        assert DEAD in await response.text()
        assert (await server.post("/v1/completions", **LONG)).status == 500
        async with server.session.get("/health") as health:
            assert health.status == 503
        page = await server.metrics()
        await inject(server, "clear")
        assert (await server.completion())["usage"]["completion_tokens"] == 3
    xid = [value for name, value in page.items() if name.startswith("DCGM_FI_DEV_XID_ERRORS")]
    assert xid == [48]
    assert page["vllm:request_success_total{finished_reason=error}"] == 2


async def test_metrics_can_go_away_and_come_back() -> None:
    async with emulated(faults=True) as server:
        await inject(server, "metrics_gone")
        async with server.session.get("/metrics") as response:
            assert response.status == 404
        await inject(server, "clear")
        await server.metrics()


async def test_a_crash_is_the_process_s_end() -> None:
    async with emulated(faults=True) as server:
        crashes: list[bool] = []
        server.faults.crash = lambda: crashes.append(True)
        await inject(server, "crash")
    assert crashes == [True]


@pytest.mark.parametrize("body", [{"kind": "flood"}, {"kind": "slow", "factor": 0}, {}])
async def test_an_unknown_fault_is_refused(body: dict[str, Any]) -> None:
    async with emulated(faults=True) as server:
        assert (await server.post("/faults", **body)).status == 400
