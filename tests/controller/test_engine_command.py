"""The command line of engines: vLLM's own flags, and what only one of the two gets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from controller.api.llmservice import EngineType
from controller.engine_command import (
    MIDDLEWARE,
    engine_command,
    engine_environment,
    middleware_args,
)
from profiler.document import read_profile
from profiler.profile import Source, resolve_profile
from tests.controller.builders import a_service


def test_both_engines_get_the_configuration_in_vllms_flags() -> None:
    for engine in EngineType:
        service = a_service(engine=engine, args=("--seed=3",))
        command = engine_command(service, "127.0.0.1", 9000)
        assert set(service.configuration.engine_args()) <= set(command)
        assert {"--host=127.0.0.1", "--port=9000", f"--model={service.model}"} <= set(command)
        assert command[-1] == "--seed=3", "what the manifest adds comes last and wins"


def test_a_command_in_the_manifest_takes_the_programs_place() -> None:
    service = a_service(engine=EngineType.VLLM, command=("my-engine", "--fast"))
    assert engine_command(service, "h", 1)[:2] == ("my-engine", "--fast")


def test_an_emulated_engine_is_told_the_profile_that_was_given() -> None:
    measured = replace(resolve_profile("Llama-3.1-8B-Instruct", "L4"), source=Source.MEASURED)
    command = engine_command(a_service(engine=EngineType.EMULATED, profile=measured), "h", 1)
    (inline,) = [arg.removeprefix("--profile=") for arg in command if arg.startswith("--profile=")]
    assert json.loads(inline)["kind"] == "EngineProfile"
    told = read_profile(inline).cost
    assert told.dense_s == pytest.approx(measured.cost.dense_s, rel=1e-8)
    assert told.kv_token_s == pytest.approx(measured.cost.kv_token_s, rel=1e-8)


def test_vllm_alone_gets_the_middleware_and_a_path_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/before")
    vllm, emulated = a_service(engine=EngineType.VLLM), a_service(engine=EngineType.EMULATED)
    assert engine_environment(vllm) == {"PYTHONPATH": f"{MIDDLEWARE}:/before"}
    assert middleware_args(vllm) == ("--middleware=whaleflux_hold_headers.HoldHeaders",)
    assert (Path(MIDDLEWARE) / "whaleflux_hold_headers.py").is_file()
    assert engine_environment(emulated) == {}
    assert middleware_args(emulated) == ()
