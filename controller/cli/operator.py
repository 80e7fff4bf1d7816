"""`whaleflux operator`: run LLMServices in a Kubernetes cluster."""

import asyncio
import contextlib
import secrets
import signal
import socket
from typing import Annotated

import typer

from controller.cli.options import GpuPool
from controller.console import serve_console
from controller.logs import set_up_logs
from controller.operator.lease import LeaseLost, LeaseName
from controller.operator.manifests import Images
from controller.operator.operator import Operator, Shared, operator_of
from controller.pools import read_pools
from profiler.errors import Refused


def operator(
    namespace: Annotated[
        list[str] | None, typer.Option(help="Watch this namespace; repeat it. All without any.")
    ] = None,
    image: Annotated[
        str, typer.Option(help="Image of router and emulated engine.", envvar="WHALEFLUX_IMAGE")
    ] = "whaleflux/whaleflux:latest",
    vllm_image: Annotated[
        str, typer.Option(help="Default image of vLLM.", envvar="VLLM_IMAGE")
    ] = "vllm/vllm-openai:v0.32.0",
    leader_elect: Annotated[
        bool, typer.Option(help="Work only while holding a Lease: for several replicas.")
    ] = False,
    lease_name: Annotated[str, typer.Option(help="Name of the Lease.")] = "whaleflux-operator",
    lease_namespace: Annotated[
        str, typer.Option(help="Namespace of the Lease, and of EngineProfiles for everybody.")
    ] = "",
    identity: Annotated[
        str, typer.Option(help="Name in the Lease; the host's when empty.", envvar="POD_NAME")
    ] = "",
    network_policy_from: Annotated[
        list[str] | None,
        typer.Option(help="Make NetworkPolicies; this namespace may reach engines; repeat it."),
    ] = None,
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
    if leader_elect and not lease_namespace:
        raise Refused("--leader-elect: give --lease-namespace, where the Lease is")
    identity = f"{identity or socket.gethostname()}_{secrets.token_hex(4)}"
    shared = Shared(
        images=Images(image, vllm_image),
        namespaces=tuple(namespace or ()),
        home=lease_namespace,
        lease=LeaseName(lease_namespace, lease_name, identity) if leader_elect else None,
        policies_from=tuple(network_policy_from or ()),
        gpu_metrics=tuple(gpu_metrics or ()),
        pools=read_pools(gpu_pool or ()),
    )
    asyncio.run(_operate(shared, (host, port)))


async def _operate(shared: Shared, where: tuple[str, int]) -> None:
    stop, (host, port) = asyncio.Event(), where
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        operator_of(shared) as operator_,
        serve_console(
            operator_.views,
            port,
            host,
            ready=operator_.ready,
            metrics=operator_.metrics,
            waits=operator_.waits,
        ),
    ):
        await _run_until(operator_, stop)


async def _run_until(operator_: Operator, stop: asyncio.Event) -> None:
    """Run until told to stop; a Lease that was lost ends the process, which begins anew."""
    work = asyncio.create_task(operator_.run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    work.cancel()
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
    except* LeaseLost as lost:
        raise Refused(str(lost.exceptions[0])) from None
