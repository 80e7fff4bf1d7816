"""Requests of the OpenAI API, validated at the edge and resolved into `Generation`s.

The server parses here and nowhere else. Fields that are not named below are ignored, as
vLLM ignores those it does not know; the wording of refusals is vLLM's.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from profiler.emulator import tokens
from profiler.emulator.jobs import Finish, Generation
from profiler.emulator.replies import error_body

COMPLETION_MAX_TOKENS = 16
"""What a completion that names no `max_tokens` gets, in OpenAI's API and vLLM's."""


class ApiError(Exception):
    """An answer that is an error, with its HTTP status."""

    def __init__(
        self, status: int, message: str, param: str | None = None, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(
            status, message, kind or _KINDS.get(status, "BadRequestError"), param
        )


_KINDS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.NOT_FOUND: "NotFoundError",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalServerError",
}


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool | None = False


class Sampling(msgspec.Struct, kw_only=True):
    """What both APIs share."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = 0
    ignore_eos: bool | None = False
    n: int | None = 1
    seed: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(Sampling):
    """`POST /v1/completions`."""

    prompt: str | list[int | str | list[int]] | None = None


class ContentPart(msgspec.Struct):
    """One part of a message's content; only text is understood."""

    type: str = "text"
    text: str | None = None


class ChatMessage(msgspec.Struct):
    """One message of a chat."""

    role: str
    content: str | list[ContentPart] | None = None


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None


class TokenizeRequest(msgspec.Struct):
    """`POST /tokenize`, for a prompt or for a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None


R = TypeVar("R")


def parse(body: bytes, kind: type[R]) -> R:
    """Decode a body; a 400 names the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        place = re.search(r"`\$\.?([^`]*)`$", str(error))
        param = place[1] if place and place[1] else None
        raise ApiError(400, str(error), param, "Bad Request") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"JSON decode error: {error}", None, "Bad Request") from error


@dataclass(frozen=True, slots=True)
class Resolver:
    """Turns requests into what the engine makes, for one served model."""

    names: tuple[str, ...]
    max_model_len: int
    seed: int
    """Mixed into every answer that names no seed of its own."""

    def completion(self, request: CompletionRequest) -> Generation:
        """Resolve `POST /v1/completions`."""
        prompt = prompt_pieces(request.prompt)
        asked = request.max_tokens
        most = COMPLETION_MAX_TOKENS if asked is None else asked
        return self._resolve(request, prompt, most)

    def chat(self, request: ChatRequest) -> Generation:
        """Resolve `POST /v1/chat/completions`."""
        prompt = message_pieces(request.messages)
        asked = request.max_completion_tokens
        asked = request.max_tokens if asked is None else asked
        room = max(self.max_model_len - len(prompt), 1)
        return self._resolve(request, prompt, room if asked is None else asked)

    def check_model(self, name: str | None) -> None:
        """Answer 404 for a model that is not served here."""
        if name and name not in self.names:
            raise ApiError(404, f"The model `{name}` does not exist.", "model")

    def _resolve(self, request: Sampling, prompt: list[bytes | int], most: int) -> Generation:
        self.check_model(request.model)
        _check_sampling(request, most)
        self._check_length(len(prompt), most)
        decided = tokens.digest(prompt, self.seed if request.seed is None else request.seed)
        made = most
        if not request.ignore_eos:
            made = tokens.answer_tokens(decided, request.min_tokens or 0, most)
        finish = Finish.STOP if made < most else Finish.LENGTH
        return Generation(prompt, made, most, tokens.Answer(decided), finish)

    def _check_length(self, prompt_tokens: int, max_tokens: int) -> None:
        if prompt_tokens + max_tokens <= self.max_model_len:
            return
        raise ApiError(
            400,
            f"This model's maximum context length is {self.max_model_len} tokens. However, you "
            f"requested {max_tokens} output tokens and your prompt contains {prompt_tokens} input "
            f"tokens, for a total of {prompt_tokens + max_tokens} tokens. Please reduce the "
            "length of the input prompt or the number of requested output tokens.",
            "input_tokens",
        )


def prompt_pieces(prompt: str | list[Any] | None) -> list[bytes | int]:
    """Read the tokens of a completion's prompt: text, ids, or a list of one of them."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise ApiError(400, "The emulator takes one prompt per request.", "prompt")
        prompt = prompt[0]
    if not prompt:
        message = "Either prompt or prompt_embeds must be provided and non-empty."
        raise ApiError(400, message, "prompt")
    if isinstance(prompt, str):
        return tokens.pieces(prompt) or [b""]
    if not all(isinstance(token, int) for token in prompt):
        raise ApiError(400, "A prompt is text or a list of token ids, not both.", "prompt")
    return prompt


def message_pieces(messages: list[ChatMessage]) -> list[bytes | int]:
    """Read the tokens of a chat, its template's included."""
    if not messages:
        raise ApiError(400, "messages must not be empty.", "messages")
    return tokens.chat_pieces((m.role, _text(m.content)) for m in messages)


def _text(content: str | list[ContentPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if any(part.type != "text" for part in content):
        raise ApiError(400, "The emulated model takes text only.", "messages")
    return "\n".join(part.text or "" for part in content)


def _check_sampling(request: Sampling, max_tokens: int) -> None:
    if max_tokens < 1:
        raise ApiError(400, f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens")
    least = request.min_tokens or 0
    if not 0 <= least <= max_tokens:
        message = f"min_tokens must lie in [0, max_tokens={max_tokens}], got {least}."
        raise ApiError(400, message, "min_tokens")
    if request.n not in (None, 1):
        raise ApiError(400, f"The emulator makes one choice, got n={request.n}.", "n")
    if request.stream_options is not None and not request.stream:
        message = "Stream options can only be defined when `stream=True`."
        raise ApiError(400, message, "stream_options")
