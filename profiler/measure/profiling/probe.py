"""Find out what is served at an address before measuring it: model, version, lengths."""

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from profiler.errors import Refused

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Served:
    """What an engine says of itself over its API; None or empty: it does not say."""

    model: str
    """Name that requests use."""
    max_model_len: int | None
    version: str


async def probe(session: aiohttp.ClientSession, base_url: str, wanted: str | None) -> Served:
    """Ask `/v1/models` and `/version`; `Refused` when nobody answers or the model is not there.

    Without `wanted` the first model is taken.
    """
    listed = await _get(session, f"{base_url}/v1/models")
    cards = listed.get("data") if isinstance(listed, dict) else None
    names = {str(c["id"]): c for c in cards or () if isinstance(c, dict) and "id" in c}
    if not names:
        raise Refused(f"{base_url}/v1/models lists no model: is it an OpenAI-compatible engine?")
    name = wanted if wanted in names else next(iter(names)) if wanted is None else None
    if name is None:
        raise Refused(f"served-name: {wanted!r} is not served (served: {', '.join(names)})")
    longest = names[name].get("max_model_len")
    version = await _version(session, base_url)
    return Served(name, int(longest) if isinstance(longest, int) else None, version)


async def _version(session: aiohttp.ClientSession, base_url: str) -> str:
    try:
        said = await _get(session, f"{base_url}/version")
    except Refused:
        return ""
    return str(said.get("version", "")) if isinstance(said, dict) else ""


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    try:
        async with asyncio.timeout(_TIMEOUT_S), session.get(url) as response:
            if response.status != 200:
                raise Refused(f"{url} answered HTTP {response.status}: check address and key")
            return msgspec.json.decode(await response.read())
    except TimeoutError:
        raise Refused(f"{url} did not answer within {_TIMEOUT_S:g} s: is it serving?") from None
    except msgspec.MsgspecError:
        raise Refused(f"{url} answered no JSON: is it an OpenAI-compatible engine?") from None
    except (aiohttp.ClientError, OSError) as fault:
        raise Refused(f"{url} cannot be reached ({fault}): check the address") from fault
