"""Hold a stream's headers until its first token, so that a router may still retry it.

vLLM answers a streaming request with "200" at once and with its first token when the
scheduler came to it. A replica that dies in between leaves the client with an empty answer
that no router can mend. Run as `--middleware whaleflux_hold_headers.HoldHeaders` with this
file's folder on the engine's `PYTHONPATH`; it imports nothing, as the engine's environment
has no WhaleFlux. Answers that are no event stream pass through untouched.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Message, Receive, Send], Awaitable[None]]


class HoldHeaders:
    """ASGI 3 middleware."""

    def __init__(self, app: "App") -> None:
        self._app = app

    async def __call__(self, scope: "Message", receive: "Receive", send: "Send") -> None:
        """Run the application; `receive` is its own, so it sees a disconnect as before."""
        held = _HeldSend(send).send if scope["type"] == "http" else send
        await self._app(scope, receive, held)


class _HeldSend:
    """The `send` of one request: keeps the start of an event stream back until bytes follow."""

    def __init__(self, send: "Send") -> None:
        self._send = send
        self._start: Message | None = None

    async def send(self, message: "Message") -> None:
        """Pass on, in order, what the application sends."""
        if message["type"] == "http.response.start" and _streams_events(message):
            self._start = message
            return
        if self._start is not None:
            if _says_nothing(message):
                return
            start, self._start = self._start, None
            await self._send(start)
        await self._send(message)


def _streams_events(start: "Message") -> bool:
    """Whether the answer is a stream of server-sent events that succeeded so far."""
    kinds = [value for name, value in start.get("headers", ()) if name.lower() == b"content-type"]
    return start["status"] == 200 and any(
        kind.split(b";")[0].strip().lower() == b"text/event-stream" for kind in kinds
    )


def _says_nothing(message: "Message") -> bool:
    """Whether a piece of the body is empty with more to come."""
    is_body = message["type"] == "http.response.body"
    return is_body and not message.get("body") and bool(message.get("more_body"))
