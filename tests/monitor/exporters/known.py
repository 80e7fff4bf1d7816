"""Names of series that exist: what our own code and the emulated engine publish, and what the
router and DCGM's exporter are known to."""

import re
from collections.abc import Iterator
from typing import Any

from controller.metrics import Metrics
from controller.operator.instruments import Instruments
from monitor.exporters import dashboards, rules
from profiler.emulator.families import COUNTERS, HISTOGRAMS

ROUTER = (
    "vllm_router_requests_total", "vllm_router_request_errors_total", "vllm_router_active_workers",
    "vllm_router_cb_state", "vllm_router_processed_requests_total",
    *(f"vllm_router_generate_duration_seconds_{part}" for part in ("bucket", "sum", "count")),
)  # fmt: skip
"""As vllm-router 0.1.17 publishes them."""
DCGM = (
    *(f"DCGM_FI_DEV_{name}" for name in (
        "GPU_UTIL", "FB_USED", "FB_FREE", "GPU_TEMP", "POWER_USAGE", "SM_CLOCK", "XID_ERRORS",
        "ECC_DBE_VOL_TOTAL", "ROW_REMAP_FAILURE", "PCIE_REPLAY_COUNTER", "CLOCKS_EVENT_REASONS",
        "CLOCK_THROTTLE_REASONS",
    )),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_DRAM_ACTIVE",
)  # fmt: skip
"""As NVIDIA's exporter 4 names them."""
ENGINE_GAUGES = (
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total", "vllm:request_success_total",
)  # fmt: skip
_NAME = re.compile(r"\b(?:whaleflux|vllm|DCGM_FI|process)[:_][A-Za-z0-9_:]+")


def names_in(expression: str) -> set[str]:
    """Names of series that an expression reads."""
    unquoted = re.sub(r'"[^"]*"', '""', expression)
    return set(_NAME.findall(unquoted))


def published() -> set[str]:
    """Every name that a scrape may find."""
    return {*own(), *engine(), *ROUTER, *DCGM}


def own() -> set[str]:
    """The operator's own, by its families and their types."""
    metrics = Metrics(lambda: ())
    Instruments(metrics)
    found = set()
    for line in metrics.render().decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            found |= {name + part for part in parts}
    return found


def engine() -> set[str]:
    histograms = (f"vllm:{name}" for name, _, _ in HISTOGRAMS)
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    return {*(f"{name}_total" for name, _, _ in COUNTERS), *parts, *ENGINE_GAUGES}


def recorded() -> dict[str, str]:
    """Recording rules: name to expression."""
    return {r["record"]: r["expr"] for g in rules()["groups"] for r in g["rules"] if "record" in r}


def alerts() -> dict[str, dict[str, Any]]:
    return {r["alert"]: r for g in rules()["groups"] for r in g["rules"] if "alert" in r}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel with its dashboard's uid; headings left out."""
    for uid, board in dashboards().items():
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield uid, panel


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression with where it stands."""
    for uid, panel in panels():
        for target in panel["targets"]:
            yield f"{uid}: {panel['title']}", target["expr"]
    yield from recorded().items()
    for name, alert in alerts().items():
        yield name, str(alert["expr"])
