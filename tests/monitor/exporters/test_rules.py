"""Rules load, alerts tell what to do, and fire when they should: by promtool's own evaluation."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.exporters import rules
from monitor.exporters.recordings import WINDOWS
from tests.monitor.exporters.known import alerts, names_in, published, recorded

RUNBOOKS = Path(__file__).parents[3] / "docs" / "runbooks.md"
ALERTS = alerts()
OF_OPERATOR = {
    "WhaleFluxOperatorDown", "WhaleFluxNoLeader", "WhaleFluxTickSlow", "WhaleFluxKubernetesErrors",
    "WhaleFluxWatchRestarts", "WhaleFluxReconcileQueueStuck",
}  # fmt: skip
"""They are about no service."""
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool on the PATH: apt-get install prometheus",
)


def headings() -> set[str]:
    return {h.lower() for h in re.findall(r"^## (.+)$", RUNBOOKS.read_text("utf-8"), re.MULTILINE)}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_what_and_what_to_do(name: str) -> None:
    alert: dict[str, Any] = ALERTS[name]
    notes = alert["annotations"]
    assert name.startswith("WhaleFlux")
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert notes["description"].endswith(".")
    base, _, anchor = notes["runbook_url"].partition("#")
    assert base == "docs/runbooks.md"
    assert anchor in headings()
    names_service = "{{ $labels.namespace }}/{{ $labels.service }}" in notes["summary"]
    assert names_service is (name not in OF_OPERATOR)


def test_every_runbook_has_its_alert() -> None:
    assert headings() == {name.lower() for name in ALERTS}


def test_the_runbooks_address_can_be_chosen() -> None:
    groups = rules("https://example.org/runbooks")["groups"]
    links = [r["annotations"]["runbook_url"] for g in groups for r in g["rules"] if "alert" in r]
    assert all(link.startswith("https://example.org/runbooks#whaleflux") for link in links)


@pytest.mark.parametrize(("name", "expr"), [*recorded().items()], ids=[*recorded()])
def test_a_recording_reads_series_that_exist(name: str, expr: str) -> None:
    read = names_in(expr)
    assert read
    assert read <= published() | set(recorded()), name


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_reads_series_that_exist(name: str) -> None:
    read = names_in(str(ALERTS[name]["expr"]))
    assert read
    assert read <= published() | set(recorded())


def test_each_window_has_its_burn_rate() -> None:
    for window in WINDOWS:
        assert f"whaleflux:slo_burn_rate:ratio_rate{window}" in recorded()


CHAT = '{namespace="llm",service="chat"}'
OF_CHAT = {"namespace": "llm", "service": "chat"}


def chat(name: str, values: str, more: str = "", instance: str = "a") -> dict[str, str]:
    """A series of the operator about one service."""
    labels = f'{{namespace="llm",service="chat",instance="{instance}"{more}}}'
    return {"series": f"whaleflux_service_{name}{labels}", "values": values}


def load(arrival: str, attained: str, objective: str = "0.95x600") -> list[dict[str, str]]:
    return [
        chat("arrival_requests_per_second", arrival),
        chat("slo_attainment_ratio", attained),
        chat("slo_objective_ratio", objective),
    ]


def alert(at: str, name: str, *firing: dict[str, str]) -> dict[str, Any]:
    severity = ALERTS[name]["labels"]["severity"]
    expected = [{"exp_labels": {**labels, "severity": severity}} for labels in firing]
    return {"eval_time": at, "alertname": name, "exp_alerts": expected}


def value(at: str, expr: str, labels: str, expected: float) -> dict[str, Any]:
    return {"eval_time": at, "expr": expr, "exp_samples": [{"labels": labels, "value": expected}]}


def evaluate(
    folder: Path,
    series: list[dict[str, str]],
    alerting: list[dict[str, Any]] | None = None,
    values: list[dict[str, Any]] | None = None,
) -> None:
    """Let promtool play the series through the rules; the annotations' words are left out."""
    made = rules()
    for rule in (rule for group in made["groups"] for rule in group["rules"]):
        rule.pop("annotations", None)
    (folder / "rules.yaml").write_text(yaml.safe_dump(made))
    case = {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": alerting or [],
        "promql_expr_test": values or [],
    }
    text = yaml.safe_dump(
        {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}
    )
    (folder / "tests.yaml").write_text(text)
    promtool("test", "rules", str(folder / "tests.yaml"))


def promtool(*arguments: str) -> None:
    answer = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@needs_promtool
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rules()))
    promtool("check", "rules", str(file))


@needs_promtool
def test_a_fast_burn_wakes_somebody_and_ends_with_its_cause(tmp_path: Path) -> None:
    """80 % miss of 5 % allowed: 16 times the budget."""
    burnt = "whaleflux:slo_burn_rate:ratio_rate1h"
    evaluate(
        tmp_path,
        load("10x600", "0.2x89 1x600"),
        [
            alert("1m", "WhaleFluxSLOBurnFast"),
            alert("10m", "WhaleFluxSLOBurnFast", OF_CHAT),
            alert("97m", "WhaleFluxSLOBurnFast"),
        ],
        [value("80m", f"round({burnt}, 0.001)", CHAT, 16.0)],
    )


@needs_promtool
def test_each_request_weighs_the_same_in_a_burn_rate(tmp_path: Path) -> None:
    """9 requests a second miss nothing, then 1 a second all: a tenth, not half, missed."""
    missed = "whaleflux:sli_error:ratio_rate1h"
    evaluate(
        tmp_path,
        load("9x29 1x30", "1x29 0x30"),
        values=[value("59m", f"round({missed}, 0.001)", CHAT, 0.1)],
    )


@needs_promtool
@pytest.mark.parametrize(
    ("arrival", "attained", "objective"),
    [
        ("10x120", "0.5x120", "0.95x120"),  # 10 times what is allowed: a ticket's, not a page's
        ("0.01x120", "0x120", "0.95x120"),  # 36 requests an hour say little
        ("10x120", "_x120", "0.95x120"),  # nothing is known
        ("10x120", "0.3x120", "0.5x120"),  # a loose objective, missed, and not by everybody
    ],
)
def test_nobody_is_woken_without_cause(
    tmp_path: Path, arrival: str, attained: str, objective: str
) -> None:
    evaluate(
        tmp_path, load(arrival, attained, objective), [alert("2h", "WhaleFluxSLOBurnFast")]
    )  # fmt: skip


@needs_promtool
def test_a_loose_objective_can_alert_too(tmp_path: Path) -> None:
    evaluate(
        tmp_path,
        load("10x120", "0.05x120", "0.5x120"),
        [alert("30m", "WhaleFluxSLOBurnFast", OF_CHAT)],
    )


@needs_promtool
def test_a_steady_and_a_slow_burn_are_told(tmp_path: Path) -> None:
    evaluate(
        tmp_path,
        load("10x600", "0.6x600"),  # 8 times the budget
        [
            alert("1h", "WhaleFluxSLOBurnFast"),
            alert("1h", "WhaleFluxSLOBurnSteady", OF_CHAT),
            alert("3h", "WhaleFluxSLOBurnSlow", OF_CHAT),
        ],
    )


@needs_promtool
def test_nobody_serves_though_somebody_should(tmp_path: Path) -> None:
    serving, pending = ',role="serving"', ',role="pending"'
    evaluate(
        tmp_path,
        [
            chat("replicas", "1x10 0x20", serving),
            chat("replicas", "1x30", pending),
            chat("desired_replicas", "1x30", serving),
        ],
        [
            alert("14m", "WhaleFluxNoReplicaServes"),
            alert("17m", "WhaleFluxNoReplicaServes", OF_CHAT),
        ],
        [
            value(
                "17m", "whaleflux:serving_shortfall:replicas",
                f"whaleflux:serving_shortfall:replicas{CHAT}", 1,
            )
        ],
    )  # fmt: skip


@needs_promtool
def test_asleep_is_not_an_outage(tmp_path: Path) -> None:
    serving = ',role="serving"'
    evaluate(
        tmp_path,
        [chat("replicas", "0x30", serving), chat("desired_replicas", "0x30", serving)],
        [alert("30m", "WhaleFluxNoReplicaServes"), alert("30m", "WhaleFluxReplicasShort")],
    )


@needs_promtool
def test_signals_are_missing_by_a_finding_or_by_an_absent_arrival(tmp_path: Path) -> None:
    finding = ',kind="MissingData",cause="NoReadings",severity="critical"'
    serving = chat("replicas", "1x20", ',role="serving"')
    for told, expected in (
        ([chat("arrival_requests_per_second", "0x20")], ()),
        ([], (OF_CHAT,)),
        (
            [chat("arrival_requests_per_second", "1x20"), chat("findings", "1x20", finding)],
            (OF_CHAT,),
        ),
    ):
        evaluate(tmp_path, [serving, *told], [
            alert("15m", "WhaleFluxSignalsMissing", *expected),
            alert("15m", "WhaleFluxCriticalFinding"),
        ])  # fmt: skip


@needs_promtool
def test_a_critical_finding_is_told_with_its_cause(tmp_path: Path) -> None:
    found = {"kind": "WedgedEngine", "cause": "NoTokens"}
    labels = ',kind="WedgedEngine",cause="NoTokens",severity="critical"'
    evaluate(
        tmp_path,
        [chat("findings", "1x20", labels)],
        [alert("15m", "WhaleFluxCriticalFinding", {**OF_CHAT, **found})],
    )


def decisions(reason: str, values: str) -> dict[str, str]:
    labels = f'{{namespace="llm",service="chat",reason="{reason}"}}'
    return {"series": f"whaleflux_decisions_total{labels}", "values": values}


@needs_promtool
@pytest.mark.parametrize(("attained", "expected"), [("0.5x30", (OF_CHAT,)), ("1x30", ())])
def test_the_maximum_matters_only_while_the_objective_is_missed(
    tmp_path: Path, attained: str, expected: tuple[dict[str, str], ...]
) -> None:
    evaluate(
        tmp_path,
        [
            *load("10x30", attained),
            decisions("AtMaximum", "0+50x30"),
            decisions("Steady", "0+10x30"),
        ],
        [alert("20m", "WhaleFluxAtMaximum", *expected)],
    )


@needs_promtool
def test_failures_that_come_again_and_actions_that_are_refused(tmp_path: Path) -> None:
    errors = {"series": f"whaleflux_action_errors_total{CHAT}", "values": "0+5x30"}
    evaluate(
        tmp_path,
        [decisions("ReplicaFailed", "0+1x30"), errors],
        [
            alert("20m", "WhaleFluxReplicasFailing", OF_CHAT),
            alert("20m", "WhaleFluxActionErrors", OF_CHAT),
        ],
    )


@needs_promtool
@pytest.mark.parametrize(
    ("carried", "expected"), [("1x60", ()), ("0.6x60", (OF_CHAT,)), ("2.5x60", (OF_CHAT,))]
)
def test_a_profile_is_wrong_on_either_side(
    tmp_path: Path, carried: str, expected: tuple[dict[str, str], ...]
) -> None:
    evaluate(
        tmp_path,
        [chat("carried_ratio", carried), chat("prediction_error_ratio", "0.2x60")],
        [
            alert("50m", "WhaleFluxEngineProfileWrong", *expected),
            alert("50m", "WhaleFluxPredictionErrorHigh"),
        ],
    )


@needs_promtool
def test_the_operator_is_watched_too(tmp_path: Path) -> None:
    requests = 'whaleflux_kubernetes_requests_total{verb="PATCH",code="%s"}'
    evaluate(
        tmp_path,
        [
            {"series": 'whaleflux_build_info{version="1"}', "values": "1x30 _x30"},
            {"series": 'whaleflux_leader{job="op",instance="a"}', "values": "0x30"},
            {"series": 'whaleflux_leader{job="op",instance="b"}', "values": "1x10 0x20"},
            {"series": requests % 200, "values": "0+90x30"},
            {"series": requests % 403, "values": "0+10x30"},
        ],
        [
            alert("5m", "WhaleFluxNoLeader"),
            alert("20m", "WhaleFluxNoLeader", {"job": "op"}),
            alert("20m", "WhaleFluxKubernetesErrors", {}),
            alert("20m", "WhaleFluxOperatorDown"),
            alert("45m", "WhaleFluxOperatorDown", {}),
        ],
    )


@needs_promtool
def test_errors_of_the_router_are_told_and_refusals_of_engines_are_not(tmp_path: Path) -> None:
    errors = 'vllm_router_request_errors_total{namespace="llm",service="%s",error_type="%s"}'
    answered = 'vllm_router_requests_total{namespace="llm",service="%s",route="/v1/completions"}'
    evaluate(
        tmp_path,
        [
            {"series": answered % "chat", "values": "0+90x30"},
            {"series": errors % ("chat", "no_available_workers"), "values": "0+10x30"},
            {"series": answered % "other", "values": "0+90x30"},
            {"series": errors % ("other", "non_retryable_error"), "values": "0+90x30"},
            {"series": errors % ("dark", "no_available_workers"), "values": "0+10x30"},
        ],
        [
            alert(
                "20m", "WhaleFluxRouterErrors", OF_CHAT, {"namespace": "llm", "service": "dark"}
            )
        ],
        [
            value("20m", 'whaleflux:router_errors:ratio_rate5m{service="chat"}',
                  f"whaleflux:router_errors:ratio_rate5m{CHAT}", 0.1),
            value("20m", 'whaleflux:router_errors:ratio_rate5m{service="dark"}',
                  'whaleflux:router_errors:ratio_rate5m{namespace="llm",service="dark"}', 1),
        ],
    )  # fmt: skip


@needs_promtool
@pytest.mark.parametrize("prefix", ["", "exported_"])
def test_a_gpu_belongs_to_the_service_whose_pod_holds_it(tmp_path: Path, prefix: str) -> None:
    """Held back by heat: bits 0x20 and 0x40 of the mask; power is 0x04 and 0x80."""
    held = f'{prefix}namespace="llm",{prefix}pod="chat-1"'
    scraped = ',namespace="gpu-operator",pod="dcgm-7"' if prefix else ""
    gpu = f'{{gpu="0",UUID="GPU-a",{held}{scraped}}}'
    of_gpu = '{UUID="GPU-a",gpu="0",namespace="llm",pod="chat-1",service="chat"}'
    running = 'vllm:num_requests_running{namespace="llm",service="chat",pod="chat-1",engine="0"}'
    expected = {
        "utilization:ratio": 0.5, "memory_used:ratio": 0.75, "thermal_throttling:bool": 1,
        "power_throttling:bool": 0,
    }  # fmt: skip
    evaluate(
        tmp_path,
        [
            {"series": running, "values": "3x9"},
            {"series": f"DCGM_FI_DEV_GPU_UTIL{gpu}", "values": "50x9"},
            {"series": f"DCGM_FI_DEV_FB_USED{gpu}", "values": "60x9"},
            {"series": f"DCGM_FI_DEV_FB_FREE{gpu}", "values": "20x9"},
            {"series": f"DCGM_FI_DEV_CLOCKS_EVENT_REASONS{gpu}", "values": "65x9"},  # 0x41
        ],
        values=[
            value("5m", f"whaleflux:gpu_{name}", f"whaleflux:gpu_{name}{of_gpu}", number)
            for name, number in expected.items()
        ],
    )


@needs_promtool
def test_a_restarted_operator_continues_its_series(tmp_path: Path) -> None:
    name = "whaleflux:load:ratio"
    evaluate(
        tmp_path,
        [
            chat("arrival_requests_per_second", "4x9"),
            chat("arrival_requests_per_second", "4x9", instance="b"),
            chat("capacity_requests_per_second", "8x9", instance="b"),
        ],
        values=[value("5m", name, f"{name}{CHAT}", 0.5)],
    )
