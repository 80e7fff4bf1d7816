"""`whaleflux up`: a local control plane from manifests."""

import asyncio
import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from controller.api import Manifests, read_manifests
from controller.cli.options import GpuPool
from controller.console import serve_console
from controller.logs import set_up_logs
from controller.plane import local_plane, running
from controller.pools import Pools, read_pools
from controller.runtimes.host_gpus import find_host_gpus


def up(
    manifests: Annotated[list[Path], typer.Argument(help="Manifest files or folders.")],
    router_port: Annotated[int, typer.Option(help="Port of the first service's router.")] = 8000,
    console_port: Annotated[int, typer.Option(help="Port of the console and /metrics.")] = 8080,
    gpu_pool: GpuPool = None,
    log_dir: Annotated[Path | None, typer.Option(help="Folder of the engines' logs.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve LLMServices on this machine: processes, a router each, and a console."""
    set_up_logs(log_level)
    wanted = read_manifests(manifests)
    folder = log_dir or Path(tempfile.mkdtemp(prefix="whaleflux-"))
    pools = read_pools(gpu_pool) if gpu_pool else None
    asyncio.run(_serve(wanted, pools, (router_port, console_port), folder))


async def _serve(
    manifests: Manifests, pools: Pools | None, ports: tuple[int, int], log_dir: Path
) -> None:
    router_port, console_port = ports
    out = Console(stderr=True)
    gpus = find_host_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with out.status("choosing configurations"):
        async with (
            local_plane(manifests, router_port, log_dir, gpus, pools) as plane,
            serve_console(plane.views, console_port, metrics=plane.metrics) as console_url,
            running(plane),
        ):
            out.print(f"console   {console_url}")
            for loop in plane.loops:
                url = plane.runtime.endpoint(loop.service.id)
                out.print(f"{loop.service.name:<9} {url}/v1  ({loop.service.served_name})")
            out.print(f"logs      {log_dir}")
            with contextlib.suppress(asyncio.CancelledError):
                await stop.wait()
            out.print("stopping")
