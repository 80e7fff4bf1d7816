"""`whaleflux operator`: run LLMServices in a Kubernetes cluster."""

import asyncio
import contextlib
import signal
from typing import Annotated

import typer

from controller.console import serve_console
from controller.logs import set_up_logs
from controller.operator.manifests import Images
from controller.operator.operator import operator_of


def operator(
    namespace: Annotated[
        str, typer.Option(help="Watch this namespace only; all when empty.", envvar="NAMESPACE")
    ] = "",
    image: Annotated[
        str, typer.Option(help="Image of router and emulated engine.", envvar="WHALEFLUX_IMAGE")
    ] = "whaleflux/whaleflux:latest",
    vllm_image: Annotated[
        str, typer.Option(help="Default image of vLLM.", envvar="VLLM_IMAGE")
    ] = "vllm/vllm-openai:v0.32.0",
    host: Annotated[str, typer.Option(help="Address of console and /metrics.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of console and /metrics.")] = 8080,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Watch LLMServices and keep them within their objectives."""
    set_up_logs(log_level, as_json=True)
    asyncio.run(_operate(Images(image, vllm_image), namespace, host, port))


async def _operate(images: Images, namespace: str, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        operator_of(images, namespace) as operator_,
        serve_console(
            operator_.views, port, host, ready=operator_.ready, metrics=operator_.metrics
        ),
    ):
        work = asyncio.create_task(operator_.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
