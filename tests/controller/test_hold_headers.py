"""A stream's headers wait for its first bytes; everything else passes through untouched."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from controller.vllm_middleware import whaleflux_hold_headers
from controller.vllm_middleware.whaleflux_hold_headers import HoldHeaders

Message = dict[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

STREAM = b"text/event-stream; charset=utf-8"
FIRST = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}
EMPTY = {"type": "http.response.body", "body": b"", "more_body": True}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def start(kind: bytes = STREAM, status: int = 200) -> Message:
    headers = [(b"x-request-id", b"7"), (b"Content-Type", kind)]
    return {"type": "http.response.start", "status": status, "headers": headers}


class Connection:
    """One request as a server sees it: what was sent, and the messages still to be received."""

    def __init__(self, app: App, scope_type: str = "http") -> None:
        self.sent: list[Message] = []
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._app = HoldHeaders(app)
        self._scope = {"type": scope_type}

    async def run(self) -> list[Message]:
        await self._app(self._scope, self.incoming.get, self._send)
        return self.sent

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


def sending(*messages: Message) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


async def test_headers_of_a_stream_wait_for_its_first_bytes() -> None:
    first_token = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await first_token.wait()
        await send(FIRST)
        await send(END)

    connection = Connection(app)
    task = asyncio.create_task(connection.run())
    for _ in range(5):
        await asyncio.sleep(0)
    assert connection.sent == []
    first_token.set()
    assert await task == [start(), FIRST, END]


async def test_empty_pieces_before_the_first_bytes_do_not_count() -> None:
    assert await Connection(sending(start(), EMPTY, FIRST, END)).run() == [start(), FIRST, END]


async def test_empty_pieces_after_the_first_bytes_are_passed_on() -> None:
    messages = [start(), FIRST, EMPTY, FIRST, END]
    assert await Connection(sending(*messages)).run() == messages


async def test_a_stream_without_a_byte_still_ends() -> None:
    assert await Connection(sending(start(), END)).run() == [start(), END]


@pytest.mark.parametrize(
    "begin", [start(b"application/json"), start(STREAM, 503), {**start(), "headers": []}]
)
async def test_what_is_no_successful_stream_starts_at_once(begin: Message) -> None:
    assert await Connection(sending(begin)).run() == [begin]


async def test_the_content_type_is_read_in_any_case() -> None:
    assert await Connection(sending(start(b"Text/Event-Stream"))).run() == []


async def test_a_failure_before_the_first_bytes_leaves_the_answer_to_the_server() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        raise RuntimeError("the engine died")

    connection = Connection(app)
    with pytest.raises(RuntimeError, match="the engine died"):
        await connection.run()
    assert connection.sent == []


async def test_the_application_sees_a_disconnect_while_its_headers_are_held() -> None:
    seen: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        seen.append(await receive())

    connection = Connection(app)
    connection.incoming.put_nowait({"type": "http.disconnect"})
    assert await connection.run() == []
    assert seen == [{"type": "http.disconnect"}]


@pytest.mark.parametrize("scope_type", ["lifespan", "websocket"])
async def test_other_connections_keep_their_own_channels(scope_type: str) -> None:
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((receive, send))

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Any) -> None:
        raise AssertionError

    await HoldHeaders(app)({"type": scope_type}, receive, send)
    assert seen == [receive, send]


async def test_two_requests_do_not_share_what_is_held() -> None:
    middleware = HoldHeaders(sending(start(), FIRST, END))
    for _ in range(2):
        sent: list[Message] = []

        async def send(message: Any, to: list[Message] = sent) -> None:
            to.append(message)

        await middleware({"type": "http"}, asyncio.Queue[Message]().get, send)
        assert sent == [start(), FIRST, END]


def test_the_engine_can_load_it_from_its_folder_alone() -> None:
    folder = Path(whaleflux_hold_headers.__file__).parent
    code = f"import sys; sys.path = [{str(folder)!r}]; import whaleflux_hold_headers as module"
    alone = [sys.executable, "-I", "-S", "-c", f"{code}; print(module.HoldHeaders.__name__)"]
    done = subprocess.run(alone, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("HoldHeaders", "")
