"""Probes and hooks: one attempt, and the loop that turns attempts into a verdict.

Called by `container`. An attempt never raises; it is good or it is not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]


class Target(Protocol):
    """What a probe needs of its container."""

    pod_ip: str
    session: aiohttp.ClientSession

    def port(self, port: int | str) -> int:
        """A port number, from a number or from a container port's name."""

    async def run_command(self, command: list[str]) -> int:
        """Run a command beside the container's process; return its exit code."""


@dataclass(frozen=True, slots=True)
class Timing:
    """A probe's numbers with Kubernetes' defaults."""

    initial_delay_s: float
    period_s: float
    timeout_s: float
    success: int
    failure: int

    @classmethod
    def of(cls, probe: Json) -> Timing:
        return cls(
            probe.get("initialDelaySeconds", 0),
            probe.get("periodSeconds", 10),
            probe.get("timeoutSeconds", 1),
            probe.get("successThreshold", 1),
            probe.get("failureThreshold", 3),
        )


async def attempt(target: Target, action: Json, timeout_s: float | None) -> bool:
    """Carry out one probe or hook; whether it went well within its time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _act(target, action)
    except (TimeoutError, OSError, aiohttp.ClientError):
        return False


async def watch(target: Target, probe: Json, verdict: Callable[[bool], None]) -> None:
    """Probe for ever; call `verdict` each time a threshold is reached anew."""
    timing = Timing.of(probe)
    last: bool | None = None
    run = 0
    await asyncio.sleep(timing.initial_delay_s)
    while True:
        good = await attempt(target, probe, timing.timeout_s)
        run = run + 1 if good == last else 1
        last = good
        if run == (timing.success if good else timing.failure):
            verdict(good)
        await asyncio.sleep(timing.period_s)


async def _act(target: Target, action: Json) -> bool:
    if "httpGet" in action:
        return await _http(target, action["httpGet"])
    if "exec" in action:
        return await target.run_command(action["exec"]["command"]) == 0
    if "sleep" in action:
        await asyncio.sleep(action["sleep"]["seconds"])
        return True
    opened = action.get("tcpSocket") or action["grpc"]  # for gRPC, an open port is enough
    _, writer = await asyncio.open_connection(
        opened.get("host") or target.pod_ip, target.port(opened["port"])
    )
    writer.close()
    return True


async def _http(target: Target, ask: Json) -> bool:
    scheme = ask.get("scheme", "HTTP").lower()
    host = ask.get("host") or target.pod_ip
    url = f"{scheme}://{host}:{target.port(ask['port'])}{ask.get('path', '/')}"
    headers = {each["name"]: each["value"] for each in ask.get("httpHeaders", ())}
    async with target.session.get(url, headers=headers, allow_redirects=False, ssl=False) as answer:
        return 200 <= answer.status < 400
