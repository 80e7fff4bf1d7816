"""GPU health from a DCGM exporter's page and from NVML."""

from types import SimpleNamespace

from monitor.detectors.reading import GpuReading
from monitor.sources.gpu import Card, Nvml, read_gpus_of_pods
from tests.monitor.cards import Cards, NVMLError

PAGE = b"""# HELP DCGM_FI_DEV_XID_ERRORS Value of the last XID error encountered.
# TYPE DCGM_FI_DEV_XID_ERRORS gauge
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-a",pod="chat-1",namespace="llm"} 79
DCGM_FI_DEV_XID_ERRORS{gpu="1",UUID="GPU-b",pod="chat-2",namespace="llm"} 0
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a",pod="chat-1",namespace="llm"} 71
DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{gpu="0",UUID="GPU-a",pod="chat-1",namespace="llm"} 2
DCGM_FI_DEV_ROW_REMAP_FAILURE{gpu="0",UUID="GPU-a",pod="chat-1",namespace="llm"} 0
DCGM_FI_DEV_ROW_REMAP_PENDING{gpu="0",UUID="GPU-a",pod="chat-1",namespace="llm"} 1
DCGM_FI_DEV_CLOCK_THROTTLE_REASONS{gpu="0",UUID="GPU-a",pod="chat-1",namespace="llm"} 64
DCGM_FI_DEV_CLOCKS_EVENT_REASONS{gpu="1",UUID="GPU-b",pod="chat-2",namespace="llm"} 5
DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL{gpu="0",UUID="GPU-a",pod="chat-1",namespace="llm"} 3
DCGM_FI_DEV_PCIE_REPLAY_COUNTER{gpu="0",UUID="GPU-a",pod="chat-1",namespace="llm"} 4
DCGM_FI_DEV_GPU_TEMP{gpu="1",UUID="GPU-b",pod="chat-2",namespace="llm"} NaN
"""

FIRST = GpuReading("GPU-a", 79, 2.0, True, False, True, False, 7.0, 71.0)
SECOND = GpuReading("GPU-b", xid=0, thermal_throttled=False, power_throttled=True)


def test_an_exporters_page_tells_of_every_gpu_by_the_pod_that_holds_it() -> None:
    assert read_gpus_of_pods(PAGE) == {("llm", "chat-1"): (FIRST,), ("llm", "chat-2"): (SECOND,)}


def test_labels_that_prometheus_renamed_are_read_too() -> None:
    page = PAGE.replace(b"pod=", b"exported_pod=").replace(b"namespace=", b"exported_namespace=")
    assert read_gpus_of_pods(page) == read_gpus_of_pods(PAGE)


def test_a_page_without_gpus_has_none() -> None:
    assert read_gpus_of_pods(b"vllm:num_requests_running 1\n") == {}


def test_nvml_tells_what_each_card_says() -> None:
    first, second = Nvml(Cards()).look()
    assert first == GpuReading("GPU-0", 0, 1, True, False, True, True, 57, 80)
    assert second == GpuReading("GPU-1", xid=0, temperature_c=81)


def test_a_card_is_called_as_the_label_of_a_node_calls_it() -> None:
    second = Card(1, "GPU-1", "NVIDIA-H100-80GB-HBM3")
    assert Nvml(Cards()).cards == (Card(0, "GPU-0", "NVIDIA-L4"), second)


def test_an_xid_is_kept_after_its_event() -> None:
    cards = Cards()
    nvml = Nvml(cards)
    other = SimpleNamespace(eventType=2, device=0, eventData=1)
    xid = SimpleNamespace(eventType=8, device=1, eventData=74)
    cards.events = [other, xid]
    assert [gpu.xid for gpu in nvml.look()] == [0, 74]
    assert [gpu.xid for gpu in nvml.look()] == [0, 74]


def test_without_events_xids_are_not_known() -> None:
    class NoEvents(Cards):
        def nvmlEventSetCreate(self) -> object:
            raise NVMLError("Not Supported")

    assert [gpu.xid for gpu in Nvml(NoEvents()).look()] == [None, None]
