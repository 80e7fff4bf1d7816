"""`vllm-router`: its command line, and its worker list where no Kubernetes keeps it."""

import asyncio

import aiohttp

from controller.runtimes.processes import Process
from profiler.errors import RetryLater

ROUTER_READY_S = 15.0

_EVEN = ("--policy=round_robin",)
"""Works from no worker on; power_of_two wants two before it starts."""
_UNEVEN = ("--policy=cache_aware", "--balance-abs-threshold=1", "--balance-rel-threshold=1.0")
"""The shortest queue first: in turn, replicas that differ would all serve at the slowest one's
rate."""
_RETRIES = (
    "--retry-max-retries=100",
    "--retry-initial-backoff-ms=100",
    "--retry-max-backoff-ms=500",
)
"""Holds a request for about 45 s while no replica is admitted, and sends it elsewhere when
its replica dies before the answer began."""
_REQUEST_TIMEOUT_S = 3600


def router_args(host: str, port: int, metrics_port: int, *, even: bool) -> tuple[str, ...]:
    """Flags that every runtime sets; `even`: all replicas are on one GPU type."""
    return (
        f"--host={host}",
        f"--port={port}",
        f"--prometheus-host={host}",
        f"--prometheus-port={metrics_port}",
        *(_EVEN if even else _UNEVEN),
        *_RETRIES,
        f"--request-timeout-secs={_REQUEST_TIMEOUT_S}",
        "--health-check-interval-secs=5",
        "--log-level=warning",
    )


def router_command(
    python: str, host: str, port: int, metrics_port: int, *, even: bool
) -> tuple[str, ...]:
    """Give the program and flags of a router whose workers are added by its API."""
    return (
        python,
        "-m",
        "vllm_router.launch_router",
        *router_args(host, port, metrics_port, even=even),
    )


class LocalRouter:
    """One router process and its worker list."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, metrics_url: str, process: Process
    ) -> None:
        self._http = http
        self.url = url
        self.metrics_url = metrics_url
        self.process = process

    async def ready(self, timeout_s: float) -> None:
        """Return when it answers; `RetryLater` when it died or stays silent."""
        for _ in range(int(timeout_s / 0.1)):
            try:
                async with self._http.get(f"{self.url}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
        raise RetryLater(f"router: does not answer at {self.url}: {self.process.last_words()}")

    async def add(self, worker: str) -> None:
        """Send traffic to a worker; fine when it has it already."""
        await self._post("add_worker", worker, fine="already")

    async def remove(self, worker: str) -> None:
        """Send none to a worker; fine when it does not have it."""
        await self._post("remove_worker", worker, fine="not")

    async def _post(self, verb: str, worker: str, fine: str) -> None:
        try:
            async with self._http.post(f"{self.url}/{verb}", params={"url": worker}) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RetryLater(f"router: {verb} {worker}: {error}") from error
        if answer.status >= 400 and fine not in text:
            raise RetryLater(f"router: {verb} {worker}: HTTP {answer.status} {text[:200]}")
