"""A small server that answers completions in every way a real one might."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def event(text: str = " hi", finish_reason: str | None = None) -> bytes:
    """One token as vLLM streams it."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


def usage(tokens: int) -> bytes:
    """The event that ends a stream when usage was asked for."""
    return b"data: " + json.dumps({"choices": [], "usage": {"completion_tokens": tokens}}).encode()


@dataclass
class FakeEngine:
    """Answers with `answer`; `bodies` are the requests it was sent, in order."""

    answer: Answer
    models: Any = field(default_factory=lambda: {"data": [{"id": "tiny"}, {"id": "adapter"}]})
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(self.models)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        return await self.answer(request, body)


def streaming(*chunks: bytes, broken: bool = False) -> Answer:
    """Answer with these chunks; `broken` drops the connection after them."""

    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if broken and request.transport is not None:
            await asyncio.sleep(0)
            request.transport.close()
        return response

    return answer


def as_asked() -> Answer:
    """Answer with as many tokens as the request wants, streaming or not."""

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        tokens = body["max_tokens"]
        if body["stream"]:
            ends = (usage(tokens), b"\n\n", b"data: [DONE]\n\n")
            return await streaming(*([event()] * tokens), *ends)(request, body)
        return web.json_response(
            {
                "choices": [{"text": " hi" * tokens, "finish_reason": "length"}],
                "usage": {"completion_tokens": tokens},
            }
        )

    return answer


def answering(status: int = 200, **kwargs: Any) -> Answer:
    """Answer in one piece."""

    async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=status, **kwargs)

    return answer


def hanging(*chunks: bytes) -> Answer:
    """Stream these chunks, if any, and then nothing for ever."""

    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        if chunks:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
        await asyncio.Event().wait()
        raise AssertionError

    return answer


def dropping() -> Answer:
    """Close the connection without a word."""

    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return answer
