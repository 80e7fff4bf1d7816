"""Wait with a deadline inside an event loop; tests of the real engine poll with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from e2e.harness.wait import NotInTime

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def eventually(
    condition: Callable[[], T | None],
    timeout_s: float,
    what: str,
    seen: Callable[[], object] = lambda: "",
) -> T:
    """Return the first truthy answer; raise `NotInTime` with what is `seen` after `timeout_s`."""
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + timeout_s
    while not (answer := condition()):
        if clock() >= deadline_s:
            raise NotInTime(f"{what}: not within {timeout_s:g} s {seen()}")
        await asyncio.sleep(0.05)
    return answer
