"""Whatever a server does becomes one outcome with its reason."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from profiler.errors import Refused
from profiler.measure import (
    Outcome,
    PromptKind,
    Request,
    Status,
    Target,
    complete,
    offered_models,
    open_session,
)
from tests.profiler.measure_server import (
    Answer,
    FakeEngine,
    answering,
    as_asked,
    dropping,
    event,
    hanging,
    streaming,
    usage,
)

DONE = b"data: [DONE]\n\n"
REQUEST = Request(index=7, scheduled_s=1.5, input_tokens=4, output_tokens=3)


@asynccontextmanager
async def serving(engine: FakeEngine) -> AsyncIterator[tuple[aiohttp.ClientSession, Target]]:
    async with TestServer(engine.app(), shutdown_timeout=0) as server, open_session() as session:
        yield session, Target(str(server.make_url("")).rstrip("/"), "tiny", timeout_s=30.0)


async def outcome_of(answer: Answer, **changes: object) -> Outcome:
    now_s = asyncio.get_running_loop().time
    async with serving(FakeEngine(answer)) as (session, target):
        return await complete(session, replace(target, **changes), REQUEST, now_s)  # type: ignore[arg-type]


async def test_a_stream_is_followed_token_by_token() -> None:
    got = await outcome_of(as_asked())
    assert (got.status, got.error, got.index, got.scheduled_s) == (Status.OK, None, 7, 1.5)
    assert (got.output_tokens, got.gaps_s.size) == (3, 2)
    assert got.first_token_s is not None
    assert got.last_token_s is not None
    assert got.sent_s <= got.first_token_s <= got.last_token_s
    assert got.tpot_s == pytest.approx((got.last_token_s - got.first_token_s) / 2)
    assert got.max_gap_s is not None
    assert got.mean_gap_s is not None
    assert got.max_gap_s >= got.mean_gap_s >= 0


async def test_the_engines_count_wins_over_the_events() -> None:
    got = await outcome_of(streaming(event() + event() + usage(9) + b"\n\n" + DONE))
    assert (got.output_tokens, got.gaps_s.tolist()) == (9, [0.0])


async def test_without_usage_the_events_count() -> None:
    assert (await outcome_of(streaming(event(), event(), DONE))).output_tokens == 2


async def test_a_finish_reason_ends_a_stream_without_done() -> None:
    got = await outcome_of(streaming(event(), event("", "length")))
    assert (got.status, got.output_tokens) == (Status.OK, 1)


async def test_chunks_may_end_anywhere() -> None:
    text = b": comment\r\n\r\n" + event().replace(b"\n", b"\r\n") + event() + DONE
    got = await outcome_of(streaming(*(text[i : i + 7] for i in range(0, len(text), 7))))
    assert (got.status, got.output_tokens) == (Status.OK, 2)


async def test_an_answer_in_one_piece_has_no_first_token() -> None:
    got = await outcome_of(as_asked(), stream=False)
    assert (got.status, got.output_tokens, got.first_token_s) == (Status.OK, 3, None)
    assert got.last_token_s is not None
    assert (got.tpot_s, got.mean_gap_s, got.max_gap_s) == (None, None, None)


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (answering(503, text="no\nworker"), Status.ERROR, "HTTP 503: no worker"),
        (answering(text="hello"), Status.ERROR, "answered text/plain where a stream"),
        (dropping(), Status.ERROR, "Disconnected"),
        (streaming(), Status.ERROR, "ended before the answer did"),
        (streaming(DONE), Status.ERROR, "without a token"),
        (streaming(b"data: {oops\n\n"), Status.ERROR, "an event is unreadable"),
        (streaming(event() + b"data: {oops\n\n"), Status.CUT, "an event is unreadable"),
        (streaming(b'data: {"error": {"message": "boom"}}\n\n', DONE), Status.ERROR, "boom"),
        (streaming(broken=True), Status.ERROR, "ClientPayloadError"),
        (streaming(event(), broken=True), Status.CUT, "ClientPayloadError"),
        (streaming(event()), Status.CUT, "ended before the answer did"),
        (streaming(event(), b'data: {"error": "boom"}\n\n', DONE), Status.CUT, "boom"),
        (streaming(event(), event("", "abort"), DONE), Status.CUT, "finished it with 'abort'"),
    ],
)
async def test_a_fault_is_lost_before_the_first_token_and_cut_after_it(
    answer: Answer, status: Status, says: str
) -> None:
    got = await outcome_of(answer)
    assert (got.status, says in (got.error or "")) == (status, True), got.error


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answering(text="{}", content_type="application/json"), "no choices"),
        (answering(text="oops", content_type="application/json"), "DecodeError"),
        (answering(text='{"error": "boom"}', content_type="application/json"), "boom"),
    ],
)
async def test_an_answer_in_one_piece_may_be_none(answer: Answer, says: str) -> None:
    got = await outcome_of(answer, stream=False)
    assert got.status is Status.ERROR
    assert says in (got.error or "")


async def test_a_null_error_is_none() -> None:
    whole = '{"choices": [{"text": "x", "finish_reason": "length"}], "error": null}'
    got = await outcome_of(answering(text=whole, content_type="application/json"), stream=False)
    assert got.status is Status.OK


async def test_a_server_that_says_nothing_times_out() -> None:
    got = await outcome_of(hanging(), timeout_s=0.05)
    assert (got.status, got.first_token_s, got.error) == (
        Status.TIMEOUT,
        None,
        "no end within 0.05 s",
    )


async def test_nobody_at_the_address_is_an_outcome() -> None:
    now_s = asyncio.get_running_loop().time
    async with open_session() as session:
        got = await complete(session, Target("http://127.0.0.1:1", "tiny"), REQUEST, now_s)
    assert got.status is Status.ERROR
    assert "ClientConnectorError" in (got.error or "")


async def test_the_request_holds_the_engine_to_the_traces_lengths() -> None:
    engine = FakeEngine(as_asked())
    async with serving(engine) as (session, target):
        await complete(session, target, REQUEST, lambda: 0.0)
    (body,) = engine.bodies
    prompt = body.pop("prompt")
    assert len(prompt) == 4
    assert all(isinstance(token, int) for token in prompt)
    assert body == {
        "model": "tiny",
        "max_tokens": 3,
        "min_tokens": 3,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_text_prompts_are_words_and_streaming_options_are_left_out() -> None:
    engine = FakeEngine(as_asked())
    async with serving(engine) as (session, target):
        plain = replace(target, prompt_kind=PromptKind.TEXT, stream=False)
        await complete(session, plain, REQUEST, lambda: 0.0)
    (body,) = engine.bodies
    assert len(body["prompt"].split(" ")) == 4
    assert "stream_options" not in body


async def test_prompts_differ_by_request_and_seed_and_repeat_with_both() -> None:
    engine = FakeEngine(as_asked())
    async with serving(engine) as (session, target):
        for index, seed in ((0, 0), (1, 0), (0, 1), (0, 0)):
            request = replace(REQUEST, index=index, input_tokens=16)
            await complete(session, replace(target, seed=seed), request, lambda: 0.0)
    first, other, reseeded, again = (tuple(body["prompt"]) for body in engine.bodies)
    assert len({first, other, reseeded}) == 3
    assert first == again


async def test_the_key_is_sent_with_every_request() -> None:
    engine = FakeEngine(as_asked())
    async with TestServer(engine.app()) as server, open_session("secret") as session:
        target = Target(str(server.make_url("")).rstrip("/"), "tiny")
        await complete(session, target, REQUEST, lambda: 0.0)
    assert engine.headers[0]["Authorization"] == "Bearer secret"


async def test_lists_the_models_a_server_offers() -> None:
    async with serving(FakeEngine(as_asked())) as (session, target):
        assert await offered_models(session, target.base_url) == ("tiny", "adapter")


@pytest.mark.parametrize("models", [{}, {"data": []}, [], "no"])
async def test_a_server_may_offer_no_model(models: object) -> None:
    async with serving(FakeEngine(as_asked(), models=models)) as (session, target):
        assert await offered_models(session, target.base_url) == ()


async def test_nobody_at_the_address_is_refused_before_a_run() -> None:
    async with open_session() as session:
        with pytest.raises(Refused, match="v1/models cannot be reached"):
            await offered_models(session, "http://127.0.0.1:1")
