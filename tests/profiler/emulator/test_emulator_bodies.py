"""Bodies and streams have the shapes that OpenAI clients and vLLM's own expect."""

import json
from typing import Any

import pytest

from profiler.emulator import ManualClock, pieces

from .emulated import WALL_S, Emulated, emulated, until


def events(text: str) -> list[Any]:
    """Decode a stream; the last is the mark that ends it."""
    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


async def streamed(server: Emulated, path: str, **body: Any) -> list[Any]:
    sent = server.post(path, stream=True, **body)
    await until(lambda: server.engine.in_flight > 0)
    await server.clock.advance(1e6)
    response = await sent
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    return events(await response.text())


async def test_a_completion_answers_with_text_usage_and_reason() -> None:
    async with emulated() as server:
        body = await server.completion(prompt="one two three four", max_tokens=5)
    choice = body["choices"][0]
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"], body["created"]) == (
        "text_completion", "org/tiny", int(WALL_S),
    )  # fmt: skip
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert len(pieces(choice["text"])) == 5
    assert body["usage"] == {
        "prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9,
        "prompt_tokens_details": None,
    }  # fmt: skip


async def test_a_chat_answers_with_a_message() -> None:
    async with emulated() as server:
        sent = server.post(
            "/v1/chat/completions",
            messages=[{"role": "user", "content": [{"type": "text", "text": "hello you"}]}],
            max_completion_tokens=4, ignore_eos=True, model="org/tiny",
        )  # fmt: skip
        await until(lambda: server.engine.in_flight > 0)
        await server.clock.advance(1e6)
        body = await (await sent).json()
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    message = body["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert len(pieces(message["content"])) == 4
    assert body["usage"]["prompt_tokens"] == 2 + 5 + 3


async def test_a_streamed_completion_says_what_the_whole_one_says() -> None:
    async with emulated() as server:
        whole = await server.completion(max_tokens=4)
        chunks = await streamed(
            server, "/v1/completions", prompt="a b c", max_tokens=4, ignore_eos=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
    *words, usage = chunks
    assert "".join(c["choices"][0]["text"] for c in words) == whole["choices"][0]["text"]
    assert [c["choices"][0]["finish_reason"] for c in words] == [None, None, None, "length"]
    assert {c["object"] for c in chunks} == {"text_completion"}
    assert len({c["id"] for c in chunks}) == 1
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


async def test_a_streamed_chat_opens_with_the_role() -> None:
    async with emulated() as server:
        chunks = await streamed(
            server, "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}],
            max_tokens=2, ignore_eos=True,
        )  # fmt: skip
    opening, first, last = (c["choices"][0] for c in chunks)
    assert opening["delta"] == {"role": "assistant", "content": ""}
    assert first["delta"].keys() == {"content"}
    assert (first["finish_reason"], last["finish_reason"]) == (None, "length")
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}


async def test_an_answer_that_may_stop_stops_the_same_way_each_time() -> None:
    async with emulated(limits=None) as server:
        asked = {"prompt": list(range(9)), "max_tokens": 900, "ignore_eos": False}
        one = await server.completion(**asked)
        two = await server.completion(**asked)
    assert one["choices"] == two["choices"]
    assert one["choices"][0]["finish_reason"] == "stop"
    assert 1 <= one["usage"]["completion_tokens"] < 900


async def test_min_tokens_holds() -> None:
    async with emulated() as server:
        body = await server.completion(ignore_eos=False, min_tokens=900, max_tokens=901)
    assert body["usage"]["completion_tokens"] >= 900


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("a b c", 3), ([7, 8], 2), (["a b"], 2), ([[1, 2, 3]], 3), ("internationalisation", 3)],
)
async def test_prompts_are_counted_in_every_form(prompt: object, count: int) -> None:
    async with emulated() as server:
        body = await server.completion(prompt=prompt)
    assert body["usage"]["prompt_tokens"] == count


async def test_headers_of_a_stream_wait_for_its_first_token() -> None:
    async with emulated(clock=ManualClock()) as server:
        sent = server.post("/v1/completions", prompt="a", max_tokens=2, stream=True)
        await until(lambda: server.engine.running > 0)
        assert not sent.done()
        await server.clock.advance(0.011)
        assert (await sent).status == 200


async def test_the_model_is_listed_under_its_served_names() -> None:
    async with emulated(served_names=("small", "tiny")) as server:
        async with server.session.get("/v1/models") as response:
            body = await response.json()
        named = await server.completion(model="tiny")
    assert [card["id"] for card in body["data"]] == ["small", "tiny"]
    assert body["data"][0]["max_model_len"] == 64 * 16
    assert body["data"][0]["root"] == "org/tiny"
    assert named["model"] == "tiny"


async def test_tokenize_counts() -> None:
    async with emulated() as server:
        response = await server.post("/tokenize", prompt="a b a")
        body = await response.json()
    assert body["count"] == 3
    assert body["tokens"][0] == body["tokens"][2] != body["tokens"][1]


async def test_small_endpoints_answer() -> None:
    async with emulated() as server:
        for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
            async with server.session.request(method, path) as response:
                assert response.status == 200
        async with server.session.get("/version") as response:
            assert await response.json() == {"version": "0.32.0"}
