"""`whaleflux operator`: run LLMServices in a Kubernetes cluster."""

import asyncio
import contextlib
import signal
from typing import Annotated

import typer

from controller.cli.options import GpuPool
from controller.console import serve_console
from controller.logs import set_up_logs
from controller.operator.manifests import Images
from controller.operator.operator import Shared, operator_of
from controller.pools import read_pools


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
    gpu_metrics: Annotated[
        list[str] | None,
        typer.Option(help="URL of DCGM exporters; repeat it. All addresses of a name are read."),
    ] = None,
    gpu_pool: GpuPool = None,
    host: Annotated[str, typer.Option(help="Address of console and /metrics.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of console and /metrics.")] = 8080,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Watch LLMServices and keep them within their objectives."""
    set_up_logs(log_level, as_json=True)
    shared = Shared(tuple(gpu_metrics or ()), read_pools(gpu_pool or ()))
    asyncio.run(_operate(Images(image, vllm_image), namespace, (host, port), shared))


async def _operate(images: Images, namespace: str, where: tuple[str, int], shared: Shared) -> None:
    stop, (host, port) = asyncio.Event(), where
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        operator_of(images, namespace, shared) as operator_,
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
