"""Read a stream of completion events (server-sent events, WHATWG HTML §9.2).

Used by `profiler.measure.client`; it never reads a clock, since the client knows when the
bytes came. Chunks may end anywhere, several events may come in one, and comments and other
fields are skipped.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

DONE = b"[DONE]"
BROKEN_OFF = frozenset({"abort", "error"})
"""Finish reasons of an answer that the engine gave up: it is shutting down, or failed."""


class Usage(msgspec.Struct):
    """Token counts that end a stream when `include_usage` is asked for."""

    completion_tokens: int | None = None


class Choice(msgspec.Struct):
    """A piece of the answer."""

    text: str | None = None
    finish_reason: str | None = None


class Completion(msgspec.Struct):
    """One event's document, or a whole answer; vLLM reports errors in either."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None

    @property
    def fault(self) -> str | None:
        """What the engine says went wrong, in one line."""
        if self.error is not None:
            said = self.error.get("message") if isinstance(self.error, dict) else self.error
            return one_line(said.encode() if isinstance(said, str) else str(self.error).encode())
        reason = next(
            (c.finish_reason for c in self.choices if c.finish_reason in BROKEN_OFF), None
        )
        return f"the engine finished it with {reason!r}" if reason else None

    @property
    def is_token(self) -> bool:
        """Whether text came; a token may be empty (half a character), a bare finish is none."""
        return any(c.text or c.finish_reason is None for c in self.choices)


@dataclass(slots=True)
class EventReader:
    """Turns chunks of bytes into documents; remembers how the stream ended."""

    finished: bool = False
    """A finish reason or [DONE] came: what follows can no longer be lost."""
    output_tokens: int | None = None
    """As the engine counts them; None until it says."""
    fault: str | None = None
    """What the engine says went wrong, or what it said that nobody understands."""
    _rest: bytes = b""
    _decoder: msgspec.json.Decoder[Completion] = field(
        default_factory=lambda: msgspec.json.Decoder(Completion)
    )

    def feed(self, chunk: bytes) -> int:
        """Read what has come; how many token events it completed."""
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        return sum(self._is_token(line) for line in lines)

    def _is_token(self, line: bytes) -> bool:
        if not line.startswith(b"data:"):
            return False
        data = line[5:].strip()
        if data == DONE:
            self.finished = True
            return False
        try:
            document = self._decoder.decode(data)
        except msgspec.MsgspecError as fault:
            self.fault = self.fault or f"an event is unreadable ({fault}): {one_line(data, 60)}"
            return False
        self.fault = self.fault or document.fault
        self.finished |= any(choice.finish_reason for choice in document.choices)
        if document.usage is not None:
            self.output_tokens = document.usage.completion_tokens
        return document.is_token


def one_line(text: bytes, limit: int = 200) -> str:
    """The beginning of what a server said, on one line."""
    return " ".join(text.decode(errors="replace").split())[:limit]
