"""The health of GPUs, from a DCGM exporter's page or from NVML.

The exporter tells of a whole node; on Kubernetes its samples name the pod that holds each GPU.
NVML is for engines on the controller's own host; `pynvml` is handed in, so that nothing here
needs a driver. What a card does not say is None.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any

from monitor.detectors.pulse import known
from monitor.detectors.reading import GpuReading
from monitor.exposition import read_exposition

THERMAL, POWER = 0x20 | 0x40, 0x04 | 0x80
"""Bits of the clocks event reasons, the same in NVML and DCGM: heat by software and hardware,
power cap and power brake."""

_XID = "DCGM_FI_DEV_XID_ERRORS"
_ECC = "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"
_PENDING = "DCGM_FI_DEV_ROW_REMAP_PENDING"
_FAILED = "DCGM_FI_DEV_ROW_REMAP_FAILURE"
_REASONS = ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS")
_HEAT = "DCGM_FI_DEV_GPU_TEMP"
_LINKS = (
    *(f"DCGM_FI_DEV_NVLINK_{kind}_ERROR_COUNT_TOTAL"
      for kind in ("CRC_FLIT", "CRC_DATA", "REPLAY", "RECOVERY")),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
)  # fmt: skip
_WANTED = (_XID, _ECC, _PENDING, _FAILED, *_REASONS, _HEAT, *_LINKS)


Owner = tuple[str, str]
"""Namespace and pod that hold a GPU; empty where nobody is named."""


def read_gpus_of_pods(page: bytes) -> dict[Owner, tuple[GpuReading, ...]]:
    """Read the GPUs of a DCGM exporter's page by the pod that holds each."""
    seen = read_exposition(page, _WANTED)
    pods: dict[Owner, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, samples in seen.samples.items():
        for labels, value in samples:
            index = labels.get("UUID", labels.get("gpu"))
            if index is not None and known(value) is not None:
                pods[_owner(labels)][index][name] = value
    return {
        owner: tuple(_reading(index, values) for index, values in sorted(gpus.items()))
        for owner, gpus in pods.items()
    }


def _owner(labels: Mapping[str, str]) -> Owner:
    """Prometheus renames labels that it has itself; an exporter's own page has the plain names."""
    return (
        labels.get("exported_namespace", labels.get("namespace", "")),
        labels.get("exported_pod", labels.get("pod", "")),
    )


def _reading(index: str, values: dict[str, float]) -> GpuReading:
    reasons = next((values[name] for name in _REASONS if name in values), None)
    links = [values[name] for name in _LINKS if name in values]
    return GpuReading(
        index=index,
        xid=int(values[_XID]) if _XID in values else None,
        ecc_uncorrected_total=values.get(_ECC),
        row_remap_pending=_flag(values.get(_PENDING)),
        row_remap_failed=_flag(values.get(_FAILED)),
        thermal_throttled=_has(reasons, THERMAL),
        power_throttled=_has(reasons, POWER),
        link_errors_total=sum(links) if links else None,
        temperature_c=values.get(_HEAT),
    )


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU of this host."""

    index: int
    """NVML's number of it, which is CUDA's in the order of PCI buses."""
    uuid: str
    product: str
    """Its name as a node's label `nvidia.com/gpu.product` has it."""


class Nvml:
    """The GPUs of this host through `pynvml`, or a module like it."""

    def __init__(self, library: Any) -> None:
        """Raises the library's own error where there is no driver."""
        self._lib = library
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
        self._handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        self.cards = tuple(starmap(self._card, enumerate(self._handles)))
        self._xids: dict[str, int] = {}
        self._events = self._ask(self._listen)

    def look(self) -> tuple[GpuReading, ...]:
        """Read every GPU."""
        self._hear()
        return tuple(map(self._read, self._handles, (card.uuid for card in self.cards)))

    def _card(self, index: int, handle: Any) -> Card:
        name = _text(self._lib.nvmlDeviceGetName(handle))
        return Card(index, _text(self._lib.nvmlDeviceGetUUID(handle)), "-".join(name.split()))

    def _listen(self) -> Any:
        """XIDs are events: hear of those to come."""
        lib, events = self._lib, self._lib.nvmlEventSetCreate()
        for handle in self._handles:
            lib.nvmlDeviceRegisterEvents(handle, lib.nvmlEventTypeXidCriticalError, events)
        return events

    def _hear(self) -> None:
        """Take what events wait; the library raises when there is none."""
        lib = self._lib
        while self._events is not None:
            event = self._ask(lambda: lib.nvmlEventSetWait_v2(self._events, 0))
            if event is None:
                return
            if event.eventType == lib.nvmlEventTypeXidCriticalError:
                self._xids[_text(lib.nvmlDeviceGetUUID(event.device))] = int(event.eventData)

    def _read(self, handle: Any, name: str) -> GpuReading:
        lib, ask = self._lib, self._ask
        uncorrected = (lib.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, lib.NVML_VOLATILE_ECC)
        rows = ask(lambda: lib.nvmlDeviceGetRemappedRows(handle))
        reasons = ask(lambda: lib.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        links = [*self._nvlinks(handle), ask(lambda: lib.nvmlDeviceGetPcieReplayCounter(handle))]
        told = [errors for errors in links if errors is not None]
        return GpuReading(
            index=name,
            xid=self._xids.get(name, None if self._events is None else 0),
            ecc_uncorrected_total=ask(
                lambda: lib.nvmlDeviceGetTotalEccErrors(handle, *uncorrected)
            ),
            row_remap_pending=None if rows is None else bool(rows[2]),
            row_remap_failed=None if rows is None else bool(rows[3]),
            thermal_throttled=_has(reasons, THERMAL),
            power_throttled=_has(reasons, POWER),
            link_errors_total=sum(told) if told else None,
            temperature_c=ask(
                lambda: lib.nvmlDeviceGetTemperature(handle, lib.NVML_TEMPERATURE_GPU)
            ),
        )

    def _nvlinks(self, handle: Any) -> list[float | None]:
        lib = self._lib
        kinds = (
            lib.NVML_NVLINK_ERROR_DL_REPLAY,
            lib.NVML_NVLINK_ERROR_DL_RECOVERY,
            lib.NVML_NVLINK_ERROR_DL_CRC_FLIT,
            lib.NVML_NVLINK_ERROR_DL_CRC_DATA,
        )
        count = lib.nvmlDeviceGetNvLinkErrorCounter
        return [
            self._ask(partial(count, handle, link, kind))
            for link in range(lib.NVML_NVLINK_MAX_LINKS)
            for kind in kinds
        ]

    def _ask(self, read: Callable[[], Any]) -> Any:
        """A field's value; None where the card or the driver has none."""
        try:
            return read()
        except (self._lib.NVMLError, AttributeError):
            return None


def _has(reasons: float | None, bits: int) -> bool | None:
    return None if reasons is None else bool(int(reasons) & bits)


def _flag(value: float | None) -> bool | None:
    return None if value is None else value > 0


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
