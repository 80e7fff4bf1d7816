"""What the GPU's driver says while an engine is measured: power, clocks, memory, heat.

Sampled in the background by `whaleflux profile` on the engine's own host. Everything here
is beside the measurement: no driver, no library, or a field that a card does not have is
said in a note and is never an error. `nvidia-ml-py` is imported only when asked for.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

INTERVAL_S = 1.0

THROTTLING: Mapping[int, str] = MappingProxyType({
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal, software",
    0x40: "thermal, hardware",
    0x80: "power brake",
})  # fmt: skip
"""NVML's clocks event reasons that make a measurement slower than the card is; idleness,
set clocks and display settings (1, 2, 0x10, 0x100) do not count."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one GPU; None: the card does not say."""

    power_w: float | None
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    memory_used_bytes: float | None
    temperature_c: float | None
    throttling: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GpuReport:
    """One GPU over a whole profile."""

    name: str
    samples: tuple[Sample, ...]

    def mean(self, column: str) -> float | None:
        """Mean of a field over the samples that have it."""
        values = [v for s in self.samples if (v := getattr(s, column)) is not None]
        return sum(values) / len(values) if values else None

    def most(self, column: str) -> float | None:
        """Largest value of a field."""
        return max((v for s in self.samples if (v := getattr(s, column)) is not None), default=None)

    @property
    def throttled_ratio(self) -> float:
        """Share of samples, 0 to 1, in which the card was held back."""
        return sum(bool(s.throttling) for s in self.samples) / max(len(self.samples), 1)

    @property
    def note(self) -> str:
        """One line for a profile's provenance."""
        facts = (
            ("power", self.mean("power_w"), "W mean"),
            ("SM clock", self.mean("sm_clock_mhz"), "MHz mean"),
            ("memory used", _gib(self.most("memory_used_bytes")), "GiB"),
            ("temperature", self.most("temperature_c"), "°C at most"),
        )
        said = [f"{name} {value:.0f} {unit}" for name, value, unit in facts if value is not None]
        reasons = sorted({r for s in self.samples for r in s.throttling})
        held = f"; throttled {self.throttled_ratio:.0%} of the time ({', '.join(reasons)})"
        return f"{self.name}: {', '.join(said)}{held if reasons else ''}"


@dataclass(frozen=True, slots=True)
class Report:
    """What NVML said of the host's GPUs; without GPUs, `notes` say why."""

    driver: str = ""
    gpus: tuple[GpuReport, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Sampler:
    """Collects samples of all GPUs of this host."""

    library: Any
    """The module `pynvml`, or one that stands in for it."""
    driver: str = ""
    names: list[str] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)
    _samples: list[list[Sample]] = field(default_factory=list)

    def start(self) -> None:
        """Open the driver; raises the library's error when there is none."""
        self.library.nvmlInit()
        self.driver = _text(self.library.nvmlSystemGetDriverVersion())
        count = self.library.nvmlDeviceGetCount()
        self._handles = [self.library.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        self.names = [_text(self.library.nvmlDeviceGetName(h)) for h in self._handles]
        self._samples = [[] for _ in self._handles]

    def look(self) -> None:
        """Take one sample of every GPU."""
        for handle, samples in zip(self._handles, self._samples, strict=True):
            samples.append(self._sample(handle))

    def stop(self) -> None:
        """Let the driver go."""
        with suppress(self.library.NVMLError):
            self.library.nvmlShutdown()

    def report(self) -> Report:
        """What was seen."""
        gpus = tuple(
            GpuReport(name, tuple(samples))
            for name, samples in zip(self.names, self._samples, strict=True)
        )
        notes = tuple(gpu.note for gpu in gpus) or ("NVML: this host has no GPU",)
        return Report(self.driver, gpus, notes)

    def _sample(self, handle: Any) -> Sample:
        lib = self.library
        power_mw = self._ask(lambda: lib.nvmlDeviceGetPowerUsage(handle))
        used = self._ask(lambda: lib.nvmlDeviceGetMemoryInfo(handle).used)
        reasons = self._ask(lambda: lib.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        sensor = getattr(lib, "NVML_TEMPERATURE_GPU", 0)
        return Sample(
            power_w=None if power_mw is None else power_mw / 1e3,
            sm_clock_mhz=self._ask(
                lambda: lib.nvmlDeviceGetClockInfo(handle, getattr(lib, "NVML_CLOCK_SM", 1))
            ),
            memory_clock_mhz=self._ask(
                lambda: lib.nvmlDeviceGetClockInfo(handle, getattr(lib, "NVML_CLOCK_MEM", 2))
            ),
            memory_used_bytes=used,
            temperature_c=self._ask(lambda: lib.nvmlDeviceGetTemperature(handle, sensor)),
            throttling=_reasons(reasons),
        )

    def _ask(self, read: Callable[[], Any]) -> float | None:
        """A field's value; None where the card or the driver has none."""
        try:
            return float(read())
        except (self.library.NVMLError, AttributeError):
            return None


@asynccontextmanager
async def sampling(
    library: Any | None = None, interval_s: float = INTERVAL_S
) -> AsyncIterator[Callable[[], Report]]:
    """Sample while the block runs; the function yielded reports what was seen so far."""
    try:
        sampler = Sampler(importlib.import_module("pynvml") if library is None else library)
        sampler.start()
    except Exception as absent:  # whatever is missing, the profile goes on
        said = f"NVML: absent ({type(absent).__name__}: {absent}); no power, clocks or heat"
        yield lambda: Report(notes=(said,))
        return
    task = asyncio.create_task(_keep_looking(sampler, interval_s))
    try:
        yield sampler.report
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sampler.stop()


async def _keep_looking(sampler: Sampler, interval_s: float) -> None:
    while True:
        sampler.look()
        await asyncio.sleep(interval_s)


def _reasons(bits: float | None) -> tuple[str, ...]:
    if bits is None:
        return ()
    return tuple(name for bit, name in THROTTLING.items() if int(bits) & bit)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _gib(value: float | None) -> float | None:
    return None if value is None else value / (1 << 30)
