"""The report in a real Chromium: drawn, readable by day and night, and asking nobody."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recommender.report import as_html
from tests.browser import WANTED
from tests.recommender.some_reports import (
    a_comparison,
    a_question,
    a_recommendation,
    a_story,
    all_named,
)

pytestmark = WANTED
pytest.importorskip("plotly", reason="the extra `report` is not installed")
PLOTS = 7


class Page:
    """A browser tab with a report in it."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self._driver = driver
        self._path = folder / "report.html"

    def open(self, *told: Any) -> None:
        self._path.write_text(as_html(*told), encoding="utf-8")
        self._driver.get(self._path.as_uri())

    def run(self, script: str) -> Any:
        return self._driver.execute_script(script)

    def tell(self, command: str, **arguments: Any) -> None:
        self._driver.execute_cdp_cmd(command, arguments)

    @property
    def text(self) -> str:
        return str(self.run("return document.body.innerText"))

    def count(self, selector: str) -> int:
        return int(self.run(f"return document.querySelectorAll({json.dumps(selector)}).length"))

    def asked(self) -> list[str]:
        """Addresses that were asked for since it was last called."""
        entries = [json.loads(e["message"])["message"] for e in self._driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in entries
                if e["method"] == "Network.requestWillBeSent"]  # fmt: skip

    def errors(self) -> list[dict[str, Any]]:
        return list(self._driver.get_log("browser"))

    def resize(self, width: int) -> None:
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip

    def overflow(self) -> int:
        """Pixels by which it is wider than the window."""
        widths = self.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        return max(int(widths[0]) - int(widths[1]), 0)


@pytest.fixture
def page(driver: Any, tmp_path: Path) -> Iterator[Page]:
    driver.get("about:blank")
    for kind in ("performance", "browser"):
        driver.get_log(kind)
    yield Page(driver, tmp_path)
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    driver.get("about:blank")


def a_report() -> tuple[Any, ...]:
    return a_question(), a_recommendation(), a_story(), a_comparison()


def test_it_asks_nobody_and_has_no_errors(page: Page) -> None:
    page.open(*a_report())
    assert "Run 2 × mine TP1" in page.text
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    assert {url.split(":")[0] for url in page.asked()} <= {"file", "data"}
    assert page.errors() == []


def test_every_plot_is_drawn(page: Page) -> None:
    page.open(*a_report())
    assert page.count(".plot") == PLOTS
    for name in ("prompts", "answers", "steps", "ttft", "itl", "e2e", "pareto"):
        assert page.count(f"#plot-{name} svg.main-svg") > 0, name
    assert page.count("#plot-steps .bars path") >= 15
    assert page.count("#plot-pareto .scatterlayer .points path") >= 5
    assert "mine TP4" in str(page.run("return document.querySelector('#plot-steps').textContent"))


def test_only_its_own_scripts_run_and_nothing_may_be_fetched(page: Page) -> None:
    page.open(*a_report())
    page.run("const s = document.createElement('script'); s.textContent = 'window.owned = 1';"
             "document.body.append(s)")  # fmt: skip
    assert page.run("return window.owned ?? null") is None
    refused = page.run("return fetch('data:,x').then(() => 'fetched', () => 'refused')")
    assert refused == "refused"


def test_names_of_users_are_text(page: Page) -> None:
    evil = "</script><img src=x onerror=window.owned=1><script>window.owned=1</script>"
    page.open(*all_named(evil))
    assert evil in page.text
    assert page.count("img, a, main script") == 0
    assert page.run("return window.owned ?? null") is None
    label = page.run("return document.querySelector('#plot-steps .ytick text').textContent")
    assert str(label).startswith("</script><img src=x")
    assert page.errors() == []


@pytest.mark.parametrize("width", [1280, 400])
def test_it_needs_no_sideways_scrolling(page: Page, width: int) -> None:
    page.resize(width)
    page.open(*a_report())
    assert page.overflow() == 0
    page.open(*all_named("a-name-that-was-never-meant-for-a-page/" * 6))
    assert page.overflow() == 0


@pytest.mark.parametrize(("scheme", "night"), [("light", False), ("dark", True)])
def test_plots_take_the_colours_of_day_and_night(page: Page, scheme: str, night: bool) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.tell("Emulation.setEmulatedMedia", features=[feature])
    page.open(*a_report())
    ink, paper, label = page.run(
        "const of = (s, p) => getComputedStyle(document.querySelector(s))[p];"
        "return [of('body', 'color'), of('body', 'backgroundColor'), of('.xtick text', 'fill')]"
    )
    assert label == ink
    assert _brightness(ink) > _brightness(paper) if night else _brightness(ink) < 64


def _brightness(colour: str) -> float:
    return sum(map(float, colour[colour.index("(") + 1 : -1].split(",")[:3])) / 3


def test_paper_is_white_at_night_too(page: Page) -> None:
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    page.tell("Emulation.setEmulatedMedia", media="print", features=[feature])
    page.open(*a_report())
    paper = page.run("return getComputedStyle(document.body).backgroundColor")
    assert _brightness(str(paper)) == 255


def test_text_and_tables_need_no_scripts(page: Page) -> None:
    page.tell("Emulation.setScriptExecutionDisabled", value=True)
    page.open(*a_report())
    text = page.text
    for told in ("Run 2 × mine TP1", "Plots need scripts", "ITL binds", "with 90% confidence"):
        assert told in text
    assert page.count("svg") == 0
    assert page.count("table") >= 8


def test_the_pointer_is_told_latencies_and_gpus(page: Page) -> None:
    page.open(*a_report())
    told = page.run(
        "Plotly.Fx.hover('plot-pareto', [{curveNumber: 1, pointNumber: 0}]);"
        "return document.querySelector('#plot-pareto .hoverlayer').textContent"
    )
    for figure in ("2 × mine TP1", "2 GPUs, 5.00 per hour", "TTFT 200 ms", "ITL 20.0 ms"):
        assert figure in str(told)
