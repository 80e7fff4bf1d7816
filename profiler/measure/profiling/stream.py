"""Streams of tokens that are watched while they run, and cut when enough was seen.

`profiler.measure.client` follows one request to its end for a report; a closed batch needs
to know at every moment how far each of its streams has come. Errors become values: the
driver decides what a broken stream means.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from profiler.measure.client import Target
from profiler.measure.events import EventReader, one_line
from profiler.measure.prompts import PromptKind, make_prompt

Prompt = list[int] | str


@dataclass(slots=True)
class Stream:
    """One completion under way; moments on the driver's clock, seconds."""

    prompt: Prompt
    max_tokens: int
    sent_s: float = float("nan")
    token_s: list[float] = field(default_factory=list)
    error: str | None = None
    ended: bool = False

    @property
    def ttft_s(self) -> float:
        """Time to first token; NaN before it."""
        return self.token_s[0] - self.sent_s if self.token_s else float("nan")


def joined(kind: PromptKind, seed: int, parts: tuple[tuple[int, int], ...]) -> Prompt:
    """A prompt of several parts, each (index, tokens): equal indices make equal parts."""
    made = [make_prompt(kind, tokens, seed, index) for index, tokens in parts if tokens]
    if kind is PromptKind.TEXT:
        return " ".join(str(part) for part in made)
    return [token for part in made if not isinstance(part, str) for token in part]


async def follow(
    session: aiohttp.ClientSession,
    target: Target,
    stream: Stream,
    now_s: Callable[[], float],
    changed: asyncio.Event,
) -> None:
    """Send it and note every token until it ends; `changed` is set at each note."""
    stream.sent_s = now_s()
    try:
        async with asyncio.timeout(target.timeout_s):
            await _read(session, target, stream, now_s, changed)
    except TimeoutError:
        stream.error = f"no end within {target.timeout_s:g} s"
    except (aiohttp.ClientError, OSError) as fault:
        stream.error = f"{type(fault).__name__}: {fault}"
    finally:
        stream.ended = True
        changed.set()


async def _read(
    session: aiohttp.ClientSession,
    target: Target,
    stream: Stream,
    now_s: Callable[[], float],
    changed: asyncio.Event,
) -> None:
    url = f"{target.base_url}/v1/completions"
    async with session.post(url, data=_body(target, stream), headers=_JSON) as response:
        if response.status != 200:
            stream.error = f"HTTP {response.status}: {one_line(await response.read())}"
            return
        reader = EventReader()
        async for chunk in response.content.iter_any():
            tokens = reader.feed(chunk)
            if reader.output_tokens is not None:  # a busy server joins tokens in one event
                tokens = reader.output_tokens - len(stream.token_s)
            if reader.finished and not stream.token_s:
                tokens = max(tokens, 1)  # half a character: an end, but no text
            if tokens > 0:
                stream.token_s += [now_s()] * tokens
                changed.set()
        stream.error = reader.fault
        if reader.fault is None and not reader.finished:
            stream.error = "the stream ended before the answer did"


_JSON = {"Content-Type": "application/json"}


def _body(target: Target, stream: Stream) -> bytes:
    fields: dict[str, Any] = {
        "model": target.model,
        "prompt": stream.prompt,
        "max_tokens": stream.max_tokens,
        "min_tokens": stream.max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    return msgspec.json.encode(fields)
