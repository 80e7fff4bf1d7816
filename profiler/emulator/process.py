"""The emulated engine as a process: start-up, signals, draining, exit.

Called by `whaleflux emulate`. The port is taken at once and listens only after start-up,
as with vLLM, so a probe is refused until the engine is ready.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from profiler.emulator.clock import Clock
from profiler.emulator.engine import RealTimeEngine
from profiler.emulator.faults import OUT_OF_MEMORY
from profiler.emulator.jobs import Finish
from profiler.emulator.server import ENGINE
from profiler.engine import Engine
from profiler.errors import Refused

FAULT_AT_RATIO = 0.6
"""Weights are loaded by then: where an engine that runs out of memory does so."""

_BACKLOG = 2048
_LAST_WRITES_S = 1.0  # for handlers to send what an abort left them to say

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """Where and how long the process serves."""

    host: str = "127.0.0.1"
    port: int = 8000
    start_up_s: float = 0.0
    """From process start to listening, engine seconds."""
    shutdown_timeout_s: float = 0.0
    """After SIGTERM, for requests in flight to finish, real seconds; 0 aborts them."""
    out_of_memory: bool = False
    """Whether the start-up fails for want of GPU memory."""


class StartUpError(Exception):
    """The engine did not come up; the process exits with 1."""


def take_port(host: str, port: int) -> socket.socket:
    """Take the address without listening; `Refused` names it when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        taken.close()
        raise _refused(host, port, error) from error
    return taken


def _refused(host: str, port: int, error: Exception) -> Refused:
    return Refused(f"--port: cannot listen on {host}:{port}: {error}; choose another")


async def serve(app: web.Application, serving: Serving, clock: Clock, begun_s: float) -> None:
    """Run from start-up to exit; `begun_s` is when the process started."""
    stop = _Stop()
    taken = take_port(serving.host, serving.port)
    try:
        if not await _started(app[ENGINE], serving, clock, begun_s, stop):
            return
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_LAST_WRITES_S
        )
        await runner.setup()
        try:
            await _listen(runner, taken, serving)
            await stop.asked(1)
            await _drain(app[ENGINE], serving.shutdown_timeout_s, stop)
        finally:
            await runner.cleanup()
    finally:
        taken.close()
        stop.close()
    log.info("Application shutdown complete.")


class _Stop:
    """Counts SIGTERM and SIGINT."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._count = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        for number in self.SIGNALS:
            self._loop.add_signal_handler(number, self._note, number)

    def _note(self, number: signal.Signals) -> None:
        self._count += 1
        log.info("%s received.", number.name)
        task = self._loop.create_task(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def asked(self, times: int) -> None:
        """Return once that many signals have come."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._count >= times)

    def close(self) -> None:
        """Give the signals back."""
        for number in self.SIGNALS:
            self._loop.remove_signal_handler(number)


async def _started(
    engine: RealTimeEngine, serving: Serving, clock: Clock, begun_s: float, stop: _Stop
) -> bool:
    """Pass the start-up; False when told to stop meanwhile."""
    log.info("Starting to load model %s...", engine.options.model)
    await asyncio.to_thread(warm_up, engine)
    share = FAULT_AT_RATIO if serving.out_of_memory else 1.0
    loading = clock.sleep_until(begun_s + serving.start_up_s * share)
    if not await first_of(loading, stop.asked(1)):
        return False
    if serving.out_of_memory:
        log.error(OUT_OF_MEMORY)
        raise StartUpError(OUT_OF_MEMORY)
    limits = engine.limits
    log.info("GPU KV cache size: %s tokens", f"{limits.num_blocks * limits.block_size:,}")
    return True


def warm_up(engine: RealTimeEngine) -> None:
    """Load the twin's compiled kernels, so that the first request does not pay for it."""
    spare = Engine(engine.cost, engine.limits, slots=1, longest_tokens=engine.max_model_len)
    spare.enqueue(0, 0.0, 1, 2)
    spare.begin(0.0)
    spare.end(0.0)
    spare.abort(0)


async def first_of(wanted: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> bool:
    """Wait for either; whether it was the one wanted. The loser is cancelled."""
    task, rival = asyncio.create_task(wanted), asyncio.create_task(other)
    await asyncio.wait({task, rival}, return_when=asyncio.FIRST_COMPLETED)
    won = task.done()
    for loser in (task, rival):
        loser.cancel()
    await asyncio.gather(task, rival, return_exceptions=True)
    return won


async def _listen(runner: web.AppRunner, taken: socket.socket, serving: Serving) -> None:
    try:
        await web.SockSite(runner, taken, backlog=_BACKLOG).start()
    except OSError as error:
        raise _refused(serving.host, serving.port, error) from error
    host, port = taken.getsockname()[:2]
    log.info("Application startup complete. Listening on http://%s:%d", host, port)


async def _drain(engine: RealTimeEngine, timeout_s: float, stop: _Stop) -> None:
    """Refuse new requests; let those in flight finish, or abort them."""
    engine.draining = True
    if timeout_s > 0 and engine.in_flight:
        log.info("Draining %d requests, at most %g s.", engine.in_flight, timeout_s)
        await first_of(engine.until_idle(), asyncio.wait_for(stop.asked(2), timeout_s))
    cut = engine.abort_all(Finish.ABORT)
    if cut:
        log.warning("Aborted %d requests in flight.", cut)
        await asyncio.sleep(0)


def run_process(
    app_of: Callable[[], web.Application], serving: Serving, clock: Clock, begun_s: float
) -> int:
    """Serve until told to stop; the exit code."""

    async def main() -> None:
        await serve(app_of(), serving, clock, begun_s)

    try:
        asyncio.run(main())
    except StartUpError:
        return 1
    return 0
