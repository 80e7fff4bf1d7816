"""Recording rules: burn rates of the objective, load over capacity, GPUs joined to services.

Named `whaleflux:WHAT:UNIT` or `…_rateWINDOW`. Each carries `namespace` and `service`, and `pod` and
the GPU where it is about these, and nothing else: so a restarted operator continues them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from monitor.exporters.promql import SERVICE, bits, highest, quantile, rate, ratio, total
from monitor.sources.gpu import POWER, THERMAL

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Of burn rates: the pairs of multi-window alerts (Beyer et al., The Site Reliability Workbook)."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus writes at every evaluation."""

    name: str
    expr: str


def load() -> Iterator[Recording]:
    """What arrives, what is carried, what misses."""
    arrival = highest("whaleflux_service_arrival_requests_per_second")
    attained = highest("whaleflux_service_slo_attainment_ratio")
    objective = highest("whaleflux_service_slo_objective_ratio")
    capacity = highest("whaleflux_service_capacity_requests_per_second")
    yield Recording("whaleflux:load:ratio", ratio(arrival, capacity))
    yield Recording("whaleflux:slo_error_budget:ratio", f"1 - {objective}")
    # a rate of requests beside that of misses, so that windows weigh requests and not minutes
    yield Recording(
        "whaleflux:judged_requests:per_second", f"{arrival} and on ({SERVICE}) {attained}"
    )
    yield Recording(
        "whaleflux:missed_requests:per_second", f"{arrival} * on ({SERVICE}) (1 - {attained})"
    )
    for name in ("ttft", "itl"):
        seen = highest(f"whaleflux_service_{name}_seconds")
        bound = highest(f"whaleflux_service_slo_{name}_seconds")
        yield Recording(f"whaleflux:{name}_over_bound:ratio", ratio(seen, bound))
    decided = total("whaleflux_service_desired_replicas", 'role="serving"')
    serving = total("whaleflux_service_replicas", 'role="serving"')
    yield Recording(
        "whaleflux:serving_shortfall:replicas",
        f"clamp_min({decided} - on ({SERVICE}) {serving}, 0)",
    )


def burn_rates() -> Iterator[Recording]:
    """Misses over the misses that the objective allows."""
    for window in WINDOWS:
        missed = f"sum_over_time(whaleflux:missed_requests:per_second[{window}])"
        judged = f"sum_over_time(whaleflux:judged_requests:per_second[{window}])"
        yield Recording(f"whaleflux:sli_error:ratio_rate{window}", f"{missed} / ({judged} > 0)")
    for window in WINDOWS:
        errors = f"whaleflux:sli_error:ratio_rate{window}"
        yield Recording(
            f"whaleflux:slo_burn_rate:ratio_rate{window}",
            ratio(errors, "whaleflux:slo_error_budget:ratio"),
        )


def engines() -> Iterator[Recording]:
    """What engines and routers tell, by service."""
    window = "5m"
    yield Recording(
        "whaleflux:prefix_cache_hit:ratio_rate5m",
        ratio(rate("vllm:prefix_cache_hits_total", 'service!=""', window=window),
              rate("vllm:prefix_cache_queries_total", 'service!=""', window=window)),
    )  # fmt: skip
    refused = 'error_type="non_retryable_error"'  # the engine's own 4xx: the caller's mistake
    failed = rate("vllm_router_request_errors_total", refused.replace("=", "!=", 1), window=window)
    answered = rate("vllm_router_requests_total", window=window)
    yield Recording(
        "whaleflux:router_errors:ratio_rate5m",
        f"({failed} or on ({SERVICE}) 0 * {answered}) / on ({SERVICE}) "
        f"(({failed} + on ({SERVICE}) {answered} or on ({SERVICE}) {answered} "
        f"or on ({SERVICE}) {failed}) > 0)",
    )


_GPU = "namespace, pod, UUID, gpu, GPU_I_ID"
"""Labels that tell a GPU, or a MIG instance of it, and the Pod that holds it."""
_USED, _FREE = "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"
_HELD_BACK = "DCGM_FI_DEV_CLOCKS_EVENT_REASONS"
_HELD_BACK_FORMERLY = "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"


def hardware() -> Iterator[Recording]:
    """GPUs by the service whose Pod holds them."""
    yield Recording(
        "whaleflux:engine_pod:info",
        f'group by ({SERVICE}, pod) (last_over_time(vllm:num_requests_running{{service!=""}}[5m]))',
    )
    reasons = f"({_HELD_BACK} or {_HELD_BACK_FORMERLY})"
    of_gpu = {
        "utilization:ratio": "DCGM_FI_DEV_GPU_UTIL / 100",
        "memory_used:ratio": f"{_USED} / ({_USED} + {_FREE})",
        "tensor_active:ratio": "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        "dram_active:ratio": "DCGM_FI_PROF_DRAM_ACTIVE",
        "temperature:celsius": "DCGM_FI_DEV_GPU_TEMP",
        "power:watts": "DCGM_FI_DEV_POWER_USAGE",
        "sm_clock:hertz": "DCGM_FI_DEV_SM_CLOCK * 1e6",
        "xid:code": "DCGM_FI_DEV_XID_ERRORS",
        "ecc_uncorrected:total": "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "row_remap_failed:bool": "DCGM_FI_DEV_ROW_REMAP_FAILURE > bool 0",
        "pcie_replays:total": "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
        "thermal_throttling:bool": bits(reasons, *_single(THERMAL)),
        "power_throttling:bool": bits(reasons, *_single(POWER)),
    }
    for name, expr in of_gpu.items():
        yield Recording(f"whaleflux:gpu_{name}", _of_service(expr))


def _single(mask: int) -> tuple[int, ...]:
    """The bits of a mask."""
    return tuple(1 << i for i in range(mask.bit_length()) if mask >> i & 1)


def _of_service(expr: str) -> str:
    """Name the service of a GPU. Prometheus renames the Pod's labels that it has itself."""
    for label in ("pod", "namespace"):
        expr = f'label_replace({expr}, "{label}", "$1", "exported_{label}", "(.+)")'
    return (
        f"max by ({_GPU}) ({expr}) * on (namespace, pod) group_left (service) "
        "whaleflux:engine_pod:info"
    )


def operator() -> Iterator[Recording]:
    """How the operator itself does."""
    yield Recording(
        "whaleflux:tick_duration_seconds:p99_rate5m",
        quantile(0.99, "whaleflux_tick_duration_seconds", by="", window="5m"),
    )
    requests = "whaleflux_kubernetes_requests_total"
    failed = f'sum(rate({requests}{{code=~"0|401|403|429|5.."}}[5m]))'
    yield Recording(
        "whaleflux:kubernetes_errors:ratio_rate5m",
        f"({failed} or vector(0)) / (sum(rate({requests}[5m])) > 0)",
    )
