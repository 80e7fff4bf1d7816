"""The command line of an engine: what WhaleFlux sets, then what the manifest adds."""

import json
import os
import sys
from pathlib import Path

from controller.api.llmservice import EngineType
from controller.service import Service
from profiler.document import to_document
from profiler.profile import Source

SHUTDOWN_TIMEOUT_S = 45
"""Time that a draining engine gets for the requests it holds."""


EMULATOR = (sys.executable, "-m", "controller.cli", "emulate")
"""The emulated engine where `whaleflux` is installed for this interpreter."""


MIDDLEWARE = Path(__file__).parent / "vllm_middleware"
"""Folder of a file that vLLM imports: it holds a stream's headers until its first token, so
that a router can send the request elsewhere when the replica dies before."""


def engine_environment(service: Service) -> dict[str, str]:
    """What an engine's process needs beside this one's environment."""
    if service.engine is not EngineType.VLLM:
        return {}
    inherited = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(MIDDLEWARE), inherited)))}


def middleware_args(service: Service) -> tuple[str, ...]:
    """Flags for an engine that runs in `engine_environment`."""
    if service.engine is not EngineType.VLLM:
        return ()
    return ("--middleware=whaleflux_hold_headers.HoldHeaders",)


def engine_command(
    service: Service, host: str, port: int, program: tuple[str, ...] = EMULATOR
) -> tuple[str, ...]:
    """Give the program and flags of one replica that listens on `host`:`port`.

    `program` runs the emulated engine where the manifest names no command.
    """
    return (
        *_program(service, program),
        f"--model={service.model}",
        f"--served-model-name={service.served_name}",
        f"--host={host}",
        f"--port={port}",
        *_revision(service),
        *service.configuration.engine_args(),
        f"--shutdown-timeout={SHUTDOWN_TIMEOUT_S}",
        *service.args,
    )


def _revision(service: Service) -> tuple[str, ...]:
    """Nothing for the emulated engine: it loads no weights."""
    if service.engine is not EngineType.VLLM or not service.pods.revision:
        return ()
    return (f"--revision={service.pods.revision}",)


def _program(service: Service, emulator: tuple[str, ...]) -> tuple[str, ...]:
    if service.engine is EngineType.VLLM:
        return service.command or ("python3", "-m", "vllm.entrypoints.openai.api_server")
    program = service.command or emulator
    if service.profile.source is Source.ANALYTICAL:
        return (*program, f"--gpu={service.gpu}")
    document = to_document(service.profile, service.name)
    return (*program, f"--profile={json.dumps(document, separators=(',', ':'))}")
