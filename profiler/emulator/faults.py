"""Faults on demand: `POST /faults`, there only with `--enable-faults`.

For drills and for tests of whoever watches the engine. Each kind is a way in which real
replicas fail; `clear` undoes all but a crash.
"""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import msgspec

from profiler.emulator.engine import RealTimeEngine
from profiler.emulator.metrics import EngineCollector

log = logging.getLogger(__name__)

DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
"""vLLM's words for an engine that failed as a whole."""

OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total "
    "capacity of 79.11 GiB of which 1.31 GiB is free."
)
XID_OFF_THE_BUS = 79
"""The code of a GPU that has fallen off the bus."""


class Kind(StrEnum):
    """What can go wrong with a running replica."""

    CRASH = "crash"
    """The process is gone, SIGKILL."""
    HANG = "hang"
    """Steps stop; `/health` still says 200."""
    SLOW = "slow"
    """Every step takes `factor` times as long."""
    XID = "xid"
    """A device error: the engine is dead, `/health` says 503, DCGM's gauge shows `code`."""
    METRICS_GONE = "metrics_gone"
    """`/metrics` answers 404."""
    CLEAR = "clear"
    """Undo the others."""


class FaultRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /faults`."""

    kind: Kind
    factor: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    code: Annotated[int, msgspec.Meta(ge=1)] = XID_OFF_THE_BUS


def kill_self() -> None:
    """End this process as the kernel's OOM killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class Faults:
    """Injects into one engine; `crash` is what a crash does."""

    engine: RealTimeEngine
    collector: EngineCollector
    crash: Callable[[], None] = field(default=kill_self)
    metrics_gone: bool = False

    def inject(self, fault: FaultRequest) -> None:
        """Make it happen now."""
        log.warning("fault injected: %s", fault.kind)
        match fault.kind:
            case Kind.CRASH:
                self.crash()
            case Kind.HANG:
                self.engine.hang()
            case Kind.SLOW:
                self.engine.slow_factor = fault.factor
            case Kind.XID:
                self._device_error(fault.code)
            case Kind.METRICS_GONE:
                self.metrics_gone = True
            case Kind.CLEAR:
                self._clear()

    def _device_error(self, code: int) -> None:
        log.error("NVRM: Xid (PCI:0000:19:00): %d; AsyncLLM output_handler failed", code)
        self.collector.xid = code
        self.engine.die(DEAD)

    def _clear(self) -> None:
        self.metrics_gone = False
        self.collector.xid = None
        self.engine.recover()
