"""A module that stands in for `pynvml`, with as many cards as a test wants."""

from typing import Any


class NVMLError(Exception):
    """As the library's."""


class Cards:
    """Two cards, of which only the first tells everything."""

    NVMLError = NVMLError
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC, NVML_TEMPERATURE_GPU = 1, 0, 0
    NVML_NVLINK_ERROR_DL_REPLAY, NVML_NVLINK_ERROR_DL_RECOVERY = 0, 1
    NVML_NVLINK_ERROR_DL_CRC_FLIT, NVML_NVLINK_ERROR_DL_CRC_DATA = 2, 3
    NVML_NVLINK_MAX_LINKS = 2
    nvmlEventTypeXidCriticalError = 8  # noqa: N815 - as the library's

    def __init__(self, *names: str) -> None:
        self.names = names or ("NVIDIA L4", "NVIDIA H100 80GB HBM3")
        self.events: list[Any] = []

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, i: int) -> int:
        return i

    def nvmlDeviceGetUUID(self, i: int) -> str:
        return f"GPU-{i}"

    def nvmlDeviceGetName(self, i: int) -> str:
        return self.names[i]

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, *_: object) -> None: ...

    def nvmlEventSetWait_v2(self, _: object, timeout_ms: int) -> Any:
        assert timeout_ms == 0
        if not self.events:
            raise NVMLError("Timeout")
        return self.events.pop(0)

    def nvmlDeviceGetTotalEccErrors(self, i: int, *_: object) -> int:
        return self.only_first(i, 1)

    def nvmlDeviceGetRemappedRows(self, i: int) -> tuple[int, int, int, int]:
        self.only_first(i, 0)
        return 3, 1, 1, 0

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, i: int) -> int:
        return self.only_first(i, 0x20 | 0x4)

    def nvmlDeviceGetNvLinkErrorCounter(self, i: int, link: int, kind: int) -> int:
        return self.only_first(i, 10 * link + kind)

    def nvmlDeviceGetPcieReplayCounter(self, i: int) -> int:
        return self.only_first(i, 5)

    def nvmlDeviceGetTemperature(self, i: int, _: int) -> int:
        return 80 + i

    def only_first(self, i: int, value: int) -> int:
        if i:
            raise NVMLError("Not Supported")
        return value
