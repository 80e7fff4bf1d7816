"""GPU faults: which are found, how severe they are, and which readings harm nobody."""

from dataclasses import replace
from typing import Any

import pytest

from monitor.detectors.reading import GpuReading
from monitor.detectors.xid import Action, action_for
from monitor.findings import Kind, Severity
from tests.monitor.fleets import Fleet, keys

SOUND = GpuReading("GPU-1", 0, 0.0, False, False, False, False, 0.0, 55.0)


def with_gpu(**changes: Any) -> Fleet:
    fleet = Fleet.of(2, gpus=(SOUND,))
    fleet.watched(30.0)
    assert fleet.found == ()
    fleet.replicas[1].gpus = (SOUND, replace(SOUND, index="GPU-2", **changes))
    return fleet


@pytest.mark.parametrize(
    ("changes", "cause", "severity"),
    [
        ({"xid": 79}, "Xid", Severity.CRITICAL),
        ({"xid": 48}, "Xid", Severity.CRITICAL),
        ({"xid": 94}, "Xid", Severity.CRITICAL),
        ({"xid": 74}, "Xid", Severity.CRITICAL),
        ({"xid": 119}, "Xid", Severity.CRITICAL),
        ({"xid": 63}, "Xid", Severity.WARNING),
        ({"xid": 999}, "Xid", Severity.WARNING),
        ({"xid": 31}, "ApplicationXid", Severity.INFO),
        ({"row_remap_pending": True}, "RowRemapPending", Severity.WARNING),
        ({"row_remap_failed": True}, "RowRemapFailed", Severity.CRITICAL),
        ({"ecc_uncorrected_total": 2.0}, "EccUncorrected", Severity.WARNING),
    ],
)
def test_a_fault_is_found_at_once(changes: dict[str, Any], cause: str, severity: Severity) -> None:
    fleet = with_gpu(**changes)
    (finding,) = fleet.look()
    assert (*finding.key, finding.severity) == (Kind.GPU_FAULT, cause, "r1", severity)
    assert "GPU-2" in finding.message


def test_a_memory_error_that_comes_while_we_look_is_critical() -> None:
    fleet = with_gpu()
    fleet.look()
    fleet.replicas[1].gpus = (SOUND, replace(SOUND, index="GPU-2", ecc_uncorrected_total=1.0))
    (finding,) = fleet.look()
    assert finding.severity is Severity.CRITICAL


def test_throttling_is_told_once_it_lasts() -> None:
    fleet = with_gpu(thermal_throttled=True)
    fleet.watched(25.0)
    assert fleet.found == ()
    fleet.watched(15.0)
    assert keys(fleet.found) == {(Kind.GPU_FAULT, "ThermalThrottling", "r1")}


def test_the_power_cap_harms_nobody_at_full_load() -> None:
    fleet = with_gpu(power_throttled=True)
    fleet.watched(300.0)
    assert [finding.severity for finding in fleet.found] == [Severity.INFO]
    assert not fleet.watch.incident


@pytest.mark.parametrize(("per_look", "found"), [(3.0, True), (0.1, False)])
def test_a_rate_of_link_errors_is_a_fault_and_a_few_are_not(per_look: float, found: bool) -> None:
    fleet = with_gpu()
    for tick in range(24):
        errors = 1e6 + per_look * tick
        fleet.replicas[1].gpus = (replace(SOUND, index="GPU-3", link_errors_total=errors),)
        fleet.look()
    assert keys(fleet.found) == ({(Kind.GPU_FAULT, "LinkErrors", "r1")} if found else set())


@pytest.mark.parametrize("nonsense", [float("nan"), -1.0, float("inf")])
def test_nonsense_is_no_fault(nonsense: float) -> None:
    fleet = with_gpu(
        ecc_uncorrected_total=nonsense, link_errors_total=nonsense, temperature_c=nonsense
    )
    assert fleet.watched(60.0) == ()


def test_what_a_card_does_not_say_is_no_fault() -> None:
    fleet = Fleet.of(1, gpus=(GpuReading("0"),))
    assert fleet.watched(60.0) == ()


def test_what_ends_is_no_longer_told() -> None:
    fleet = with_gpu(xid=79)
    fleet.look()
    fleet.replicas[1].gpus = (SOUND,)
    fleet.watched(60.0)
    assert fleet.found == ()


def test_xids_ask_for_what_nvidia_says() -> None:
    """Examples of its catalogue: the program's fault, contained, uncontained, off the bus."""
    codes = {13: Action.NOTHING, 43: Action.NOTHING, 94: Action.RESTART, 95: Action.RESET}
    codes |= {79: Action.NODE, 74: Action.LINK, 63: Action.RESET_LATER, 64: Action.RESET}
    assert {code: action_for(code) for code in codes} == codes
