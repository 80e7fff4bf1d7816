"""Ask an engine for one token: the probe that `/health` is not.

Called for the replicas that `Watch.wants_canary` names. It never raises for what an engine or a
network can do: no token within the time is a canary that did not answer.
"""

import asyncio
from collections.abc import Callable

import aiohttp

from monitor.detectors.reading import Canary

TIMEOUT_S = 3.0
"""A token takes tens of milliseconds; an engine with a long step under way has time for it."""


async def probe(
    session: aiohttp.ClientSession,
    url: str,
    model: str,
    *,
    now_s: Callable[[], float],
    timeout_s: float = TIMEOUT_S,
) -> Canary | None:
    """Send a completion of one token to a replica's own address; None: it was refused (4xx).

    A refusal comes from the API's process and tells nothing of the engine behind it.
    """
    began_s = now_s()
    answered = await _answers(session, url, model, timeout_s)
    if answered is None:
        return None
    ended_s = now_s()
    return Canary(at_s=ended_s, answered=answered, took_s=ended_s - began_s)


async def _answers(
    session: aiohttp.ClientSession, url: str, model: str, timeout_s: float
) -> bool | None:
    body = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0.0}
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.post(f"{url}/v1/completions", json=body) as answer,
        ):
            await answer.read()
            return None if 400 <= answer.status < 500 else answer.status == 200
    except (TimeoutError, aiohttp.ClientError, OSError):
        return False
