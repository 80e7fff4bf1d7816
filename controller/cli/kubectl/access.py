"""Reach the API server as kubectl does: the caller's kubeconfig, context and namespace."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import aiohttp
import typer
import yaml

from controller.kube import KubeClient
from controller.kube.client import Credentials
from profiler.errors import Refused

Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", help="Namespace; the context's by default.")
]
Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig; $KUBECONFIG by default.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
ServiceName = Annotated[str, typer.Argument(help="Name of the LLMService.")]

Answer = TypeVar("Answer")


class Output(StrEnum):
    """How a command prints."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]


@dataclass(frozen=True, slots=True)
class Where:
    """What the options say; None: as the kubeconfig has it."""

    namespace: str | None = None
    kubeconfig: Path | None = None
    context: str | None = None


class UserCredentials(Credentials):
    """Of a person, from a kubeconfig; never a Pod's."""

    def __init__(self, where: Where) -> None:
        try:
            from kubernetes import client, config  # noqa: PLC0415 - takes a good part of a second
        except ImportError as error:
            raise Refused("kubernetes: install it with `whaleflux[kubernetes]`") from error
        file = str(where.kubeconfig) if where.kubeconfig else os.environ.get("KUBECONFIG") or None
        self._configuration = client.Configuration()
        try:
            config.load_kube_config(  # type: ignore[no-untyped-call]
                file, where.context, self._configuration, persist_config=False
            )
            contexts, chosen = config.list_kube_config_contexts(  # type: ignore[no-untyped-call]
                file
            )
        except (config.ConfigException, OSError, yaml.YAMLError) as error:
            said = " ".join(str(error).split())
            raise Refused(
                f"kubernetes: no cluster to talk to ({said}): set KUBECONFIG, or give --kubeconfig "
                "and --context"
            ) from error
        self.url = str(self._configuration.host)
        used = next((each for each in contexts if each["name"] == where.context), chosen)
        self.namespace = str(where.namespace or used["context"].get("namespace") or "default")


def ask(where: Where, question: Callable[[KubeClient, str], Awaitable[Answer]]) -> Answer:
    """Connect, and put the question with the namespace that is meant."""

    async def asked() -> Answer:
        credentials = UserCredentials(where)
        async with aiohttp.ClientSession() as session:
            client = KubeClient(session, credentials)
            client.agent = "kubectl-whaleflux"
            return await question(client, credentials.namespace)

    return asyncio.run(asked())
