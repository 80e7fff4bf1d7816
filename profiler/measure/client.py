"""One completion request, timed from the client's side.

Called by `profiler.measure.openloop` for every request of a trace. What a server or a
network can do wrong becomes an `Outcome`; only a cancellation passes through. It never
retries: a lost request is a finding.
"""

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import aiohttp
import msgspec
import numpy as np
import numpy.typing as npt

from profiler.errors import Refused
from profiler.measure.events import Completion, EventReader, one_line
from profiler.measure.prompts import PromptKind, make_prompt

KEEP_ALIVE_S = 3.0
"""Uvicorn, and with it vLLM, closes an idle connection after 5 s. A request sent into that
moment would be lost by the client's fault, so the client lets go first."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to send requests to, and how."""

    base_url: str
    """Without `/v1`."""
    model: str
    api_key: str | None = None
    stream: bool = True
    prompt_kind: PromptKind = PromptKind.TOKENS
    timeout_s: float = 600.0
    """From sending to the last token."""
    seed: int = 0
    """Of the prompts: another seed shares no prefix with this one."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace."""

    index: int
    scheduled_s: float
    input_tokens: int
    output_tokens: int


class Status(StrEnum):
    """How a request ended."""

    OK = "ok"
    ERROR = "error"
    """Without a single token: refused, or lost."""
    TIMEOUT = "timeout"
    CUT = "cut"
    """The stream broke after its first token."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of a request; moments are on the clock of the replay, in seconds."""

    index: int
    scheduled_s: float
    sent_s: float
    first_token_s: float | None
    """None without a token, and for an answer in one piece."""
    last_token_s: float | None
    """None without a token."""
    gaps_s: npt.NDArray[np.float32]
    """Between the token events, in order; tokens that came in one chunk are 0 apart."""
    input_tokens: int
    output_tokens: int
    """As the engine counts them, or else the token events."""
    status: Status
    error: str | None = None

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first; None for fewer than two."""
        if self.first_token_s is None or self.last_token_s is None or self.output_tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (self.output_tokens - 1)

    @property
    def mean_gap_s(self) -> float | None:
        """Mean gap between token events; None without any."""
        return float(self.gaps_s.mean()) if self.gaps_s.size else None

    @property
    def max_gap_s(self) -> float | None:
        """The longest gap between token events; None without any."""
        return float(self.gaps_s.max()) if self.gaps_s.size else None


class _NoAnswerError(Exception):
    """The server answered, but with no completion; the text says what."""


@dataclass(slots=True)
class _Progress:
    """What has been seen of an answer so far; it outlives the connection."""

    first_s: float | None = None
    last_s: float | None = None
    events: int = 0
    counted: int | None = None
    gaps_s: "array[float]" = field(default_factory=lambda: array("f"))

    def tokens(self, count: int, at_s: float) -> None:
        """Note `count` token events that came at one moment."""
        for _ in range(count):
            if self.last_s is None:
                self.first_s = at_s
            else:
                self.gaps_s.append(at_s - self.last_s)
            self.last_s = at_s
        self.events += count

    @property
    def broken(self) -> Status:
        """What to call it when the answer breaks off here."""
        return Status.CUT if self.events else Status.ERROR


def open_session(api_key: str | None = None) -> aiohttp.ClientSession:
    """A session that lets every request go out at once: no limit, no timeout of its own."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
    )


async def offered_models(
    session: aiohttp.ClientSession, base_url: str, timeout_s: float = 10.0
) -> tuple[str, ...]:
    """The models a server lists; none when it answers anything else.

    `Refused` when nobody answers, so that a mistyped address costs no run.
    """
    url = f"{base_url}/v1/models"
    try:
        async with asyncio.timeout(timeout_s), session.get(url) as response:
            listed = msgspec.json.decode(await response.read(), type=_Models)
    except TimeoutError:
        raise Refused(f"{url} did not answer within {timeout_s:g} s: is it serving?") from None
    except (aiohttp.ClientError, OSError) as fault:
        raise Refused(f"{url} cannot be reached ({fault}): check the address") from fault
    except msgspec.MsgspecError:
        return ()
    return tuple(model.id for model in listed.data)


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] = []


async def complete(
    session: aiohttp.ClientSession,
    target: Target,
    request: Request,
    now_s: Callable[[], float],
) -> Outcome:
    """Send one request and follow its answer to the end, whatever the end is."""
    body = _body(target, request)
    seen = _Progress()
    sent_s = now_s()
    status, error = Status.OK, None
    try:
        async with asyncio.timeout(target.timeout_s):
            await _answer(session, target, body, seen, now_s)
    except TimeoutError:
        status, error = Status.TIMEOUT, f"no end within {target.timeout_s:g} s"
    except _NoAnswerError as fault:
        status, error = seen.broken, str(fault)
    except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as fault:
        status, error = seen.broken, f"{type(fault).__name__}: {fault}"
    return Outcome(
        index=request.index,
        scheduled_s=request.scheduled_s,
        sent_s=sent_s,
        first_token_s=seen.first_s,
        last_token_s=seen.last_s,
        gaps_s=np.array(seen.gaps_s, dtype=np.float32),
        input_tokens=request.input_tokens,
        output_tokens=seen.events if seen.counted is None else seen.counted,
        status=status,
        error=error,
    )


def _body(target: Target, request: Request) -> bytes:
    """The request as JSON; it holds the engine to the trace's output length."""
    fields: dict[str, object] = {
        "model": target.model,
        "prompt": make_prompt(target.prompt_kind, request.input_tokens, target.seed, request.index),
        "max_tokens": request.output_tokens,
        "min_tokens": request.output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": target.stream,
    }
    if target.stream:
        fields["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(fields)


async def _answer(
    session: aiohttp.ClientSession,
    target: Target,
    body: bytes,
    seen: _Progress,
    now_s: Callable[[], float],
) -> None:
    url = f"{target.base_url}/v1/completions"
    headers = {"Content-Type": "application/json"}
    async with session.post(url, data=body, headers=headers) as response:
        if response.status != 200:
            raise _NoAnswerError(f"HTTP {response.status}: {one_line(await response.read())}")
        if target.stream:
            await _follow(response, seen, now_s)
        else:
            await _take_whole(response, seen, now_s)


async def _follow(
    response: aiohttp.ClientResponse, seen: _Progress, now_s: Callable[[], float]
) -> None:
    """Note every token event as it comes; the usage at the end corrects the count."""
    if response.content_type != "text/event-stream":
        raise _NoAnswerError(
            f"answered {response.content_type} where a stream of events was asked for"
        )
    reader = EventReader()
    async for chunk in response.content.iter_any():
        seen.tokens(reader.feed(chunk), now_s())
        seen.counted = reader.output_tokens
    if reader.fault is not None:
        raise _NoAnswerError(reader.fault)
    if not reader.finished:
        raise _NoAnswerError("the stream ended before the answer did")
    if seen.events == 0:
        raise _NoAnswerError("the stream ended without a token")


async def _take_whole(
    response: aiohttp.ClientResponse, seen: _Progress, now_s: Callable[[], float]
) -> None:
    """Read an answer in one piece: it has an end, but no first token."""
    document = msgspec.json.decode(await response.read(), type=Completion)
    if document.fault is not None or not document.choices:
        raise _NoAnswerError(document.fault or "the answer holds no choices")
    seen.last_s = now_s()
    seen.counted = document.usage.completion_tokens if document.usage else None
