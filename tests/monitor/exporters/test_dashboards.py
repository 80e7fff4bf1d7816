"""Dashboards are whole: ids, places, data sources, words, names of series that exist."""

import re
from typing import Any

import pytest

from monitor.exporters import dashboards
from monitor.exporters.grafana import COLUMNS, SCHEMA_VERSION
from tests.monitor.exporters.known import names_in, panels, published, recorded

PANELS = list(panels())
VARIABLES = {"datasource", "namespace", "service"}
BUILT_IN = {"__rate_interval", "__url_time_range", "__data"}


def named(found: tuple[str, Any]) -> str:
    return f"{found[0]}: {found[1]['title']}"


def test_uids_are_promised_and_unique() -> None:
    made = dashboards()
    assert list(made) == [
        "whaleflux-fleet", "whaleflux-service", "whaleflux-decisions", "whaleflux-hardware",
    ]  # fmt: skip
    assert [board["uid"] for board in made.values()] == list(made)
    assert all(board["schemaVersion"] == SCHEMA_VERSION >= 39 for board in made.values())


@pytest.mark.parametrize("board", dashboards().values(), ids=lambda board: board["uid"])
def test_panels_have_their_own_ids_and_places(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in board["panels"] if panel["type"] != "row"]
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert titles


@pytest.mark.parametrize("board", dashboards().values(), ids=lambda board: board["uid"])
def test_a_board_asks_for_its_data_source_and_services_and_leads_to_the_others(
    board: dict[str, Any],
) -> None:
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert set(variables) == VARIABLES
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == (
        "datasource", "prometheus",
    )  # fmt: skip
    assert variables["namespace"]["definition"].startswith("label_values(whaleflux_service_info")
    (link,) = board["links"]
    assert link["tags"] == board["tags"] == ["whaleflux"]
    assert link["includeVars"]


@pytest.mark.parametrize("found", PANELS, ids=named)
def test_a_panel_is_told_and_reads_series_that_exist(found: tuple[str, Any]) -> None:
    _, panel = found
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    steps = [s["value"] for s in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]]
    assert steps == sorted(steps)
    assert panel["datasource"]["uid"] == "${datasource}"
    exists = published() | set(recorded())
    for target in panel["targets"]:
        read = names_in(target["expr"])
        assert read, target["expr"]
        assert read <= exists, read - exists
        used = set(re.findall(r"\$\{?(\w+)", target["expr"]))
        assert used <= VARIABLES | BUILT_IN


@pytest.mark.parametrize("found", PANELS, ids=named)
def test_lines_are_told_apart(found: tuple[str, Any]) -> None:
    _, panel = found
    if panel["type"] == "timeseries":
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert all(legends)
        assert len(set(legends)) == len(legends)


def test_latency_is_held_against_the_services_own_bounds() -> None:
    bounded = {
        panel["title"]: [target["expr"] for target in panel["targets"]]
        for uid, panel in PANELS
        if uid == "whaleflux-service" and panel["fieldConfig"]["overrides"]
    }
    assert "slo_ttft_seconds" in bounded["TTFT"][-1]
    assert "slo_itl_seconds" in bounded["ITL"][-1]
    assert "slo_objective_ratio" in bounded["Within the SLO"][-1]
    assert "capacity_requests_per_second" in bounded["Load and capacity"][-1]


def test_the_fleets_table_names_every_query_and_opens_a_service() -> None:
    (table,) = [p for uid, p in PANELS if uid == "whaleflux-fleet" and p["type"] == "table"]
    organize = table["transformations"][1]["options"]
    values = {f"Value #{target['refId']}" for target in table["targets"]}
    assert values == {
        name for name in {**organize["renameByName"], **organize["excludeByName"]} if "#" in name
    }
    links = [
        prop["value"][0]["url"]
        for override in table["fieldConfig"]["overrides"]
        for prop in override["properties"]
        if prop["id"] == "links"
    ]
    assert links
    assert links[0].startswith("/d/whaleflux-service?")
