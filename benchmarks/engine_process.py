"""Start and stop an emulated engine for a benchmark."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from controller.runtimes.processes import free_port


@asynccontextmanager
async def emulated_engine(flags: Sequence[str]) -> AsyncIterator[str]:
    """Run `whaleflux emulate` on a free port until the block ends; yields its address."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controller.cli", "emulate", *flags, f"--port={port}",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        await _answers(url, process)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _answers(url: str, process: asyncio.subprocess.Process) -> None:
    async with aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(f"{url}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
    raise SystemExit(f"the emulated engine ended at start with {process.returncode}")
