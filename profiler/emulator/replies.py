"""Bodies and stream chunks as vLLM 0.32 writes them.

A chunk is bytes around one word, made once per request: the hot path joins, it does not
encode JSON. `json_bytes` serves what is said once.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from profiler.emulator.jobs import Finish, Job

DONE = b"data: [DONE]\n\n"

json_bytes = msgspec.json.encode


def usage(job: Job) -> dict[str, Any]:
    """Count a request's tokens, as OpenAI reports them."""
    prompt, made = len(job.generation.prompt), job.generated
    return {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}


def error_body(status: int, message: str, kind: str, param: str | None) -> dict[str, Any]:
    """Build the body of an answer that is an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk of an answer repeats."""

    id: str
    created: int
    """Seconds since the epoch."""
    model: str


class Style(Protocol):
    """How one of the two APIs words an answer."""

    def opening(self) -> bytes:
        """Send this before the first token."""

    def chunk(self, word: str) -> bytes:
        """Send a token that is not the last."""

    def last(self, word: str, finish: Finish) -> bytes:
        """Send the last token; an aborted answer ends without one."""

    def usage(self, job: Job) -> bytes:
        """Send the chunk that carries the usage and no choice."""

    def whole(self, job: Job) -> bytes:
        """Give the body of an answer that is not streamed."""


class _Chunks:
    """The two halves round a word, and the chunks that both APIs shape alike."""

    chunk_object = ""

    def __init__(self, head: Head, before: str, after: str) -> None:
        self.head = head
        self._fixed: dict[str, Any] = {
            "id": head.id,
            "object": self.chunk_object,
            "created": head.created,
            "model": head.model,
        }
        shared = json_bytes(self._fixed)[:-1].decode()
        self._before = f'data: {shared},"choices":[{{"index":0,{before}'
        self._after = after
        self._plain = f'{after}"finish_reason":null}}]}}\n\n'

    def chunk(self, word: str) -> bytes:
        """Send a token that is not the last."""
        return f"{self._before}{word}{self._plain}".encode()

    def last(self, word: str, finish: Finish) -> bytes:
        """Send the last token with its reason."""
        end = f'{self._after}"finish_reason":"{finish}","stop_reason":null}}]}}\n\n'
        return f"{self._before}{word}{end}".encode()

    def usage(self, job: Job) -> bytes:
        """Send the chunk that carries the usage and no choice."""
        return b"data: " + json_bytes(self._fixed | {"choices": [], "usage": usage(job)}) + b"\n\n"


class CompletionStyle(_Chunks):
    """`/v1/completions`."""

    chunk_object = "text_completion"

    def __init__(self, head: Head) -> None:
        super().__init__(head, '"text":"', '","logprobs":null,')

    def opening(self) -> bytes:
        """Nothing: the first token is the first chunk."""
        return b""

    def whole(self, job: Job) -> bytes:
        """Give the body of an answer that is not streamed."""
        choice = {
            "index": 0,
            "text": job.generation.answer.text(job.generated),
            "logprobs": None,
            "finish_reason": job.finish,
            "stop_reason": None,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
        }
        rest = {"service_tier": None, "system_fingerprint": None, "usage": _usage_whole(job)}
        return json_bytes(self._fixed | {"choices": [choice]} | rest | {"kv_transfer_params": None})


class ChatStyle(_Chunks):
    """`/v1/chat/completions`."""

    chunk_object = "chat.completion.chunk"

    def __init__(self, head: Head) -> None:
        super().__init__(head, '"delta":{"content":"', '"},"logprobs":null,')

    def opening(self) -> bytes:
        """Name the role before anything is said."""
        role = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": role, "logprobs": None, "finish_reason": None}
        return b"data: " + json_bytes(self._fixed | {"choices": [choice]}) + b"\n\n"

    def whole(self, job: Job) -> bytes:
        """Give the body of an answer that is not streamed."""
        message = {
            "role": "assistant",
            "content": job.generation.answer.text(job.generated),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": job.finish,
            "stop_reason": None,
            "token_ids": None,
        }
        rest = {"service_tier": None, "system_fingerprint": None, "usage": _usage_whole(job)}
        tail = {"prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None}
        fixed = self._fixed | {"object": "chat.completion"}
        return json_bytes(fixed | {"choices": [choice]} | rest | tail)


def _usage_whole(job: Job) -> dict[str, Any]:
    return usage(job) | {"prompt_tokens_details": None}
