"""What is refused, with vLLM's status and error body."""

from typing import Any

import pytest

from profiler.emulator import build_app
from profiler.errors import DoesNotFit

from .emulated import a_cost, emulated, some_limits, some_options


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        ({"model": "other", "prompt": "a"}, 404, "NotFoundError", "model"),
        ({"prompt": "a", "max_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ({"prompt": "a", "max_tokens": "x"}, 400, "Bad Request", "max_tokens"),
        ({"prompt": "a " * 1025}, 400, "BadRequestError", "input_tokens"),
        ({"prompt": "a", "max_tokens": 1024}, 400, "BadRequestError", "input_tokens"),
        ({"prompt": ""}, 400, "BadRequestError", "prompt"),
        ({"prompt": ["a", "b"]}, 400, "BadRequestError", "prompt"),
        ({"prompt": "a", "n": 2}, 400, "BadRequestError", "n"),
        ({"prompt": "a", "min_tokens": 17}, 400, "BadRequestError", "min_tokens"),
        ({"prompt": "a", "stream_options": {}}, 400, "BadRequestError", "stream_options"),
    ],
)
async def test_a_completion_is_refused(
    body: dict[str, Any], status: int, kind: str, param: str
) -> None:
    async with emulated() as server:
        response = await server.post("/v1/completions", **body)
        error = (await response.json())["error"]
        assert server.engine.in_flight == 0
    assert response.status == status
    assert (error["type"], error["param"], error["code"]) == (kind, param, status)
    assert error["message"]


async def test_a_body_that_is_not_json_is_refused() -> None:
    async with emulated() as server:
        response = await server.session.post("/v1/completions", data=b'{"prompt": ')
        assert response.status == 400
        assert "JSON" in (await response.json())["error"]["message"]


async def test_images_are_refused() -> None:
    async with emulated() as server:
        content = [{"type": "image_url", "image_url": {"url": "data:"}}]
        response = await server.post(
            "/v1/chat/completions", messages=[{"role": "user", "content": content}]
        )
        assert response.status == 400


async def test_an_unknown_path_is_not_found() -> None:
    async with emulated() as server, server.session.get("/v2") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == 404


async def test_http_families_name_the_handler_of_a_refusal() -> None:
    async with emulated() as server:
        await server.post("/v1/completions", model="other", prompt="a")
        await server.session.get("/v2")
        page = await server.metrics()
    assert page["http_requests_total{handler=/v1/completions,method=POST,status=4xx}"] == 1
    assert page["http_requests_total{handler=none,method=GET,status=4xx}"] == 1


async def test_a_key_is_asked_for_where_one_is_set() -> None:
    async with emulated(api_key="secret") as server:
        async with server.session.get("/v1/models") as response:
            assert response.status == 401
        key = {"Authorization": "Bearer secret"}
        async with server.session.get("/v1/models", headers=key) as response:
            assert response.status == 200
        async with server.session.get("/health") as response:
            assert response.status == 200


def test_a_model_length_beyond_the_kv_cache_does_not_start() -> None:
    with pytest.raises(DoesNotFit, match="--max-model-len 1025 exceeds the KV cache of 1024"):
        build_app(a_cost(), some_limits(), some_options(max_model_len=1025))


async def test_faults_and_sleep_are_absent_unless_enabled() -> None:
    async with emulated() as server:
        for path in ("/faults", "/sleep", "/wake_up"):
            assert (await server.post(path, kind="hang")).status == 404
