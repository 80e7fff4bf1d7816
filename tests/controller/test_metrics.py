"""WhaleFlux's own metrics: names and units, what is absent, what is counted."""

import math
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.decide import Decision, Numbers, Reason
from controller.loop import Outcome
from controller.metrics import Metrics
from tests.controller.console.some_views import Fleet, a_replica, a_view, an_unknown_view

PROMTOOL = shutil.which("promtool")


def samples(metrics: Metrics) -> dict[str, float]:
    """Values by name and labels, the service's own left out."""
    held = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in {"namespace", "service"}}
            told = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
            held[f"{sample.name}{{{told}}}" if told else sample.name] = sample.value
    return held


def of(*views: Any) -> Metrics:
    return Metrics(Fleet(views).views)


def busy() -> Metrics:
    """Every family has a sample, and labels need escaping."""
    metrics = of(
        a_view(model='org/"quoted"\\back\nline', fault="no room"), an_unknown_view(name="new")
    )
    metrics.decisions.count("default", "chat", Reason.BACKLOG)
    metrics.action_failed("default", "chat")
    metrics.ticked(0.003)
    return metrics


def test_a_service_is_told_in_base_units() -> None:
    page = samples(of(a_view()))
    assert page["whaleflux_service_arrival_requests_per_second"] == 7.25
    assert page["whaleflux_service_forecast_requests_per_second"] == 8.5
    assert page["whaleflux_service_capacity_requests_per_second"] == 10.0
    assert page["whaleflux_service_slo_attainment_ratio"] == 0.995
    assert page["whaleflux_service_slo_objective_ratio"] == 0.99
    assert page["whaleflux_service_ttft_seconds{quantile=0.99}"] == 0.4
    assert page["whaleflux_service_itl_seconds{quantile=0.99}"] == 0.02
    assert page["whaleflux_service_slo_ttft_seconds"] == 1.0
    assert page["whaleflux_service_slo_itl_seconds"] == 0.05
    assert page["whaleflux_service_info{gpu=1 × h100,model=org/tiny}"] == 1
    assert page["whaleflux_service_faulted"] == 0


def test_replicas_are_counted_by_role_and_none_of_a_role_is_zero() -> None:
    replicas = tuple(a_replica(id=str(i), phase="Serving") for i in range(3))
    page = samples(of(a_view(replicas=replicas, serving_wanted=4, standby_wanted=1)))
    assert page["whaleflux_service_replicas{role=serving}"] == 3
    assert page["whaleflux_service_replicas{role=failed}"] == 0
    assert page["whaleflux_service_desired_replicas{role=serving}"] == 4
    assert page["whaleflux_service_desired_replicas{role=standby}"] == 1


def test_the_unknown_is_absent() -> None:
    page = samples(of(an_unknown_view(capacity_rps=math.nan)))
    unknown = ("arrival", "forecast", "capacity", "attainment", "ttft", "itl")
    assert not [name for name in page if any(word in name for word in unknown)]
    assert page["whaleflux_service_slo_objective_ratio"] == 0.99
    assert not [value for value in page.values() if math.isnan(value)]


def test_a_service_that_went_leaves_no_gauge() -> None:
    fleet = Fleet((a_view(),))
    metrics = Metrics(fleet.views)
    assert b'service="chat"' in metrics.render()
    fleet.seen = ()
    assert b'service="chat"' not in metrics.render()


def test_decisions_are_counted_by_reason_until_forgotten() -> None:
    metrics = of(a_view())
    for reason in (Reason.BACKLOG, Reason.STEADY, Reason.BACKLOG):
        metrics.decisions.count("default", "chat", reason)
    metrics.action_failed("default", "chat")
    page = samples(metrics)
    assert page["whaleflux_decisions_total{reason=Backlog}"] == 2
    assert page["whaleflux_decisions_total{reason=Steady}"] == 1
    assert page["whaleflux_action_errors_total"] == 1
    metrics.forget("default", "chat")
    assert not [name for name in samples(metrics) if "decisions" in name or "errors" in name]


def test_ticks_are_timed() -> None:
    metrics = of()
    metrics.ticked(0.02)
    metrics.ticked(3.0)
    page = samples(metrics)
    assert page["whaleflux_tick_duration_seconds_count"] == 2
    assert page["whaleflux_tick_duration_seconds_sum"] == pytest.approx(3.02)
    assert page["whaleflux_tick_duration_seconds_bucket{le=0.025}"] == 1


def an_outcome(fault: str | None) -> Outcome:
    numbers = Numbers(7.0, 8.0, 0.0, 10.0, 30.0, 1.0)
    decision = Decision(1, 0, (), (Reason.STEADY, Reason.BACKLOG), numbers, "a queue to work off")
    nothing: Any = None
    return Outcome(100.0, nothing, decision, fault)


def test_what_a_loop_publishes_is_counted_and_timed() -> None:
    metrics, service = of(), SimpleNamespace(namespace="default", name="chat")
    publish = metrics.watching(service, lambda: 100.25)  # type: ignore[arg-type]
    publish(an_outcome(fault=None))
    publish(an_outcome(fault="no GPU is free"))
    page = samples(metrics)
    assert page["whaleflux_decisions_total{reason=Backlog}"] == 2
    assert page["whaleflux_action_errors_total"] == 1
    assert page["whaleflux_tick_duration_seconds_sum"] == pytest.approx(0.5)


def test_two_have_nothing_in_common() -> None:
    one, other = of(a_view()), of(a_view())
    one.ticked(1.0)
    one.decisions.count("default", "chat", Reason.STEADY)
    page = samples(other)
    assert page["whaleflux_tick_duration_seconds_count"] == 0
    assert "whaleflux_decisions_total{reason=Steady}" not in page


def test_every_family_is_ours_or_the_process() -> None:
    families = list(text_string_to_metric_families(busy().render().decode()))
    assert all(family.name.startswith(("whaleflux_", "process_")) for family in families)
    assert all(family.documentation for family in families)
    assert not [s for f in families for s in f.samples if s.name.endswith("_created")]
    assert {family.name for family in families} >= {"whaleflux_build_info"}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say() -> None:
    said = subprocess.run(
        [str(PROMTOOL), "check", "metrics"],
        input=busy().render(), capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    ours = [line for line in (said.stdout + said.stderr).splitlines() if b"process_" not in line]
    assert ours == []
