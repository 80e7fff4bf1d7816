"""NVML beside a measurement: what the driver says, and its absence as a note."""

import asyncio
from types import SimpleNamespace
from typing import Any

from profiler.measure.nvml import Sample, sampling


class NVMLError(Exception):
    """As the library's."""


class Card:
    """Stands in for `pynvml` with one GPU; `unsupported` names functions that it lacks."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, reasons: int = 0, unsupported: frozenset[str] = frozenset()) -> None:
        self.reasons, self.unsupported = reasons, unsupported
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml"):
            if name in object.__getattribute__(self, "unsupported"):

                def missing(*_: object) -> None:
                    raise NVMLError("Not Supported")

                return missing
            object.__getattribute__(self, "calls").append(name)
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.65"

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, i: int) -> int:
        return i

    def nvmlDeviceGetName(self, _: int) -> str:
        return "NVIDIA H200"

    def nvmlDeviceGetPowerUsage(self, _: int) -> int:
        return 512_000

    def nvmlDeviceGetMemoryInfo(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(used=64 << 30)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: int) -> int:
        return self.reasons

    def nvmlDeviceGetClockInfo(self, _: int, kind: int) -> int:
        return 1980 if kind == 1 else 3201

    def nvmlDeviceGetTemperature(self, _: int, __: int) -> int:
        return 61


async def looked_at(card: Card) -> Any:
    async with sampling(card, interval_s=0.0) as report:
        async with asyncio.timeout(30):
            while not report().gpus[0].samples:  # noqa: ASYNC110 - the sampler has no event
                await asyncio.sleep(0)
        return report()


async def test_the_card_is_sampled_and_the_driver_let_go() -> None:
    card = Card()
    report = await looked_at(card)
    (gpu,) = report.gpus
    assert report.driver == "580.65"
    assert gpu.name == "NVIDIA H200"
    assert gpu.samples[0] == Sample(512.0, 1980.0, 3201.0, float(64 << 30), 61.0, ())
    assert gpu.throttled_ratio == 0
    assert report.notes == (
        "NVIDIA H200: power 512 W mean, SM clock 1980 MHz mean, memory used 64 GiB, "
        "temperature 61 °C at most",
    )
    assert "nvmlShutdown" in card.calls


async def test_a_throttled_card_is_named_with_its_reasons() -> None:
    report = await looked_at(Card(reasons=0x4 | 0x40 | 0x1))
    assert "throttled 100% of the time (power cap, thermal, hardware)" in report.notes[0]


async def test_what_a_card_does_not_say_is_unknown_not_zero() -> None:
    silent = frozenset({"nvmlDeviceGetPowerUsage", "nvmlDeviceGetCurrentClocksThrottleReasons"})
    (gpu,) = (await looked_at(Card(unsupported=silent))).gpus
    assert gpu.samples[0].power_w is None
    assert gpu.mean("power_w") is None
    assert gpu.samples[0].throttling == ()
    assert "power" not in gpu.note


async def test_without_a_driver_there_is_a_note_and_no_error() -> None:
    card = Card(unsupported=frozenset({"nvmlInit"}))
    async with sampling(card) as report:
        assert report().gpus == ()
        assert report().notes[0].startswith("NVML: absent (NVMLError: Not Supported)")


async def test_without_a_gpu_there_is_a_note() -> None:
    card = Card()
    card.nvmlDeviceGetCount = lambda: 0  # type: ignore[method-assign]
    async with sampling(card) as report:
        assert report().notes == ("NVML: this host has no GPU",)
