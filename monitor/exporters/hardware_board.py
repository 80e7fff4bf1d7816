"""The GPUs under the services, by DCGM exporter: how well used, how well.

Shows GPUs that an engine's Pod holds, from the recordings that join both (`recordings.py`).
"""

from monitor.exporters.grafana import GOOD, Board, Panel, Query, Step, limits, number
from monitor.exporters.promql import CHOSEN, SERVICE, metric, rate

_OF_GPU = "{{service}} {{pod}} GPU {{gpu}}"
_UTIL = metric("whaleflux:gpu_utilization:ratio", *CHOSEN)
_POWER = metric("whaleflux:gpu_power:watts", *CHOSEN)
_TEMPERATURE = metric("whaleflux:gpu_temperature:celsius", *CHOSEN)
_XID = metric("whaleflux:gpu_xid:code", *CHOSEN)
_HEAT = metric("whaleflux:gpu_thermal_throttling:bool", *CHOSEN)
_DEFAULT = "In the exporter's default counters."
_ADD = "Add `{}` to the exporter's counters: its default file leaves it out."


def _per_gpu(
    title: str,
    description: str,
    unit: str,
    name: str,
    steps: tuple[Step, ...] = GOOD,
    top: float | None = None,
) -> Panel:
    query = Query(metric(f"whaleflux:gpu_{name}", *CHOSEN), _OF_GPU)
    return Panel("timeseries", title, description, unit, (query,), steps, top=top)


_NOW = (
    number("GPUs held", "GPUs that engines' Pods hold.", "short", f"count({_UTIL})"),
    number("Mean utilization", "Share of the time in which a kernel ran.", "percentunit",
            f"avg({_UTIL})"),
    number("Power", "Of all GPUs held.", "watt", f"sum({_POWER})"),
    number("Hottest", "Highest temperature of a GPU.", "celsius", f"max({_TEMPERATURE})",
            limits(warn=80, bad=88)),
    number("With an XID", "GPUs whose last XID is not 0; see the code below.", "short",
            f"count({_XID} > 0) or vector(0)", limits(bad=1)),
    number("Held back by heat", "GPUs whose clocks are held back by heat.", "short",
            f"sum({_HEAT})", limits(bad=1)),
)  # fmt: skip

_USE = (
    _per_gpu("Utilization", "Share of the time in which a kernel ran. It says busy, not useful: "
             "an engine shows nearly 1 with a single request.", "percentunit",
             "utilization:ratio", top=1.0),
    _per_gpu("Memory in use", "Weights, KV cache and all else; an engine takes its share at the "
             "start.", "percentunit", "memory_used:ratio", top=1.0),
    _per_gpu("Tensor cores active", f"Share of cycles. {_DEFAULT}", "percentunit",
             "tensor_active:ratio", top=1.0),
    _per_gpu("Memory interface active", "Share of cycles; decoding is bound by it. "
             f"{_DEFAULT}", "percentunit", "dram_active:ratio", top=1.0),
    Panel(
        "timeseries", "KV cache in use", "By service, mean of its replicas, as engines tell.",
        "percentunit",
        (Query(f"avg by ({SERVICE}) ({metric('vllm:kv_cache_usage_perc', *CHOSEN)})"),), top=1.0,
    ),
    Panel(
        "timeseries", "Generated tokens per joule", "Tokens a second over the watts of the "
        "service's GPUs.", "none",
        (Query(f'{rate("vllm:generation_tokens_total", *CHOSEN)} / on ({SERVICE}) '
               f"sum by ({SERVICE}) ({_POWER})"),),
    ),
)  # fmt: skip

_HEALTH = (
    _per_gpu("Temperature", "Clocks are held back from about 85 °C on.", "celsius",
             "temperature:celsius", steps=limits(warn=80, bad=88)),
    _per_gpu("Power", "Drawn by each GPU.", "watt", "power:watts"),
    _per_gpu("SM clock", "A sound GPU under load holds it.", "hertz", "sm_clock:hertz"),
    _per_gpu("Held back by heat", _ADD.format("DCGM_FI_DEV_CLOCKS_EVENT_REASONS"), "short",
             "thermal_throttling:bool", steps=limits(bad=1), top=1.0),
    _per_gpu("Held back by the power cap", "Sound cards do this at full load. "
             + _ADD.format("DCGM_FI_DEV_CLOCKS_EVENT_REASONS"), "short",
             "power_throttling:bool", top=1.0),
    _per_gpu("Last XID", "The driver's error code; 0: none. It stays until the driver is loaded "
             "anew.", "none", "xid:code", steps=limits(bad=1)),
    _per_gpu("Uncorrected ECC errors", "Since the driver was loaded. "
             + _ADD.format("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"), "none", "ecc_uncorrected:total",
             steps=limits(bad=1)),
    _per_gpu("Row remapping failed", "1: replace the card.", "short", "row_remap_failed:bool",
             steps=limits(bad=1), top=1.0),
    _per_gpu("PCIe replays", "Since the driver was loaded; a slope is a bad link.", "none",
             "pcie_replays:total"),
)  # fmt: skip

HARDWARE = Board(
    uid="whaleflux-hardware",
    title="WhaleFlux / Hardware",
    description="The GPUs that services hold, by DCGM exporter.",
    rows=(("Now", _NOW), ("Use", _USE), ("Health", _HEALTH)),
)
