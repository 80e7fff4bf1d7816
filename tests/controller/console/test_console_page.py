"""The page in a real Chromium: what people see, live, and what they must never see."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from controller.console import serve_console
from tests.browser import WANTED
from tests.controller.console.some_views import (
    Fleet,
    a_decision,
    a_replica,
    a_view,
    an_unknown_view,
)

DEADLINE_S = 20.0

pytestmark = WANTED


class Page:
    """A browser tab; every call to the driver runs beside the event loop that serves it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    async def open(self, url: str) -> None:
        await asyncio.to_thread(self._driver.get, url)

    async def run(self, script: str) -> Any:
        return await asyncio.to_thread(self._driver.execute_script, script)

    async def text(self, selector: str = "body") -> str:
        """Visible text of the first match; empty where there is none or it is hidden."""
        found = f"document.querySelector({json.dumps(selector)})"
        return str(await self.run(f"return {found}?.innerText ?? ''"))

    async def until(self, true: Callable[[str], bool], selector: str = "body") -> str:
        """Wait until the visible text is as it should be; what it was at the end, else."""
        end_s = time.monotonic() + DEADLINE_S
        while not true(text := await self.text(selector)):
            assert time.monotonic() < end_s, f"{selector} still says: {text}"
            await asyncio.sleep(0.05)
        return text

    async def until_drawn(self, selector: str, samples: int) -> None:
        """Wait until a line joins so many samples."""
        path = f"return document.querySelector({json.dumps(selector)})?.getAttribute('d') ?? ''"
        async with asyncio.timeout(DEADLINE_S):
            while str(await self.run(path)).count("L") < samples - 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def press(self, selector: str, *keys: str) -> None:
        element = await asyncio.to_thread(self._driver.find_element, By.CSS_SELECTOR, selector)
        await asyncio.to_thread(element.send_keys, *keys)

    async def log(self, kind: str) -> list[dict[str, Any]]:
        """Entries since the last call."""
        return list(await asyncio.to_thread(self._driver.get_log, kind))

    async def resize(self, width: int, height: int) -> None:
        await asyncio.to_thread(
            self._driver.execute_cdp_cmd,
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )


@pytest.fixture
def page(driver: Any) -> Iterator[Page]:
    driver.get("about:blank")
    for kind in ("performance", "browser"):
        driver.get_log(kind)
    yield Page(driver)
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.get("about:blank")


async def test_a_service_is_shown_with_its_figures(page: Page) -> None:
    decided = a_decision(ago_s=130.0, message="from 1 to 2 serving")
    async with serve_console(Fleet((a_view(decisions=(decided,)),)).views, 0) as url:
        await page.open(url)
        text = await page.until(lambda text: "7.25" in text)
    for told in (
        "live", "chat", "default", "org/tiny", "1 × h100", "http://127.0.0.1:8000",
        "--max-num-seqs 256", "99.50 % of 99 %", "Within SLO", "Steady",
        "capacity 10.0", "forecast 8.50", "arriving 7.25", "TTFT 400 ms", "SLO 1.00 s",
        "ITL 20.0 ms", "SLO 50.0 ms", "12 run 3 wait 64 % KV", "5 min",
        "1 serving · 1 standby", "2 min ago", "DemandRising", "from 1 to 2 serving",
    ):  # fmt: skip
        assert told in text
    severe = [entry for entry in await page.log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


async def test_it_follows_the_views_without_a_reload(page: Page) -> None:
    fleet = Fleet((a_view(),))
    async with serve_console(fleet.views, 0) as url:
        await page.open(url)
        await page.until(lambda text: "7.25" in text)
        await page.run("window.sameDocument = true")
        fleet.seen = (a_view(arrival_rps=9.75), a_view(name="second", serving_wanted=5))
        await page.until(lambda text: "9.75" in text and "second" in text)
        fleet.seen = (a_view(name="second", serving_wanted=5),)
        text = await page.until(lambda text: "9.75" not in text)
        assert "1 serving (5 wanted)" in text
        assert await page.run("return window.sameDocument")


async def test_a_page_opened_late_shows_the_past(page: Page) -> None:
    fleet = Fleet((a_view(),))
    async with serve_console(fleet.views, 0) as url:
        while fleet.asked < 4:  # noqa: ASYNC110 - the console asks once a second
            await asyncio.sleep(0.05)
        await page.open(url)
        await page.until(lambda text: "7.25" in text)
        await page.until_drawn(".plot .line", samples=4)


async def test_names_of_users_are_text(page: Page) -> None:
    evil = "<img src=x onerror=window.owned=1><script>window.owned=1</script>"
    view = a_view(
        name=evil, namespace=evil, model=evil, message=evil, endpoint="javascript:window.owned=1",
        configuration=evil, fault=evil, reason=evil, decisions=(a_decision(message=evil),),
        replicas=(a_replica(id=evil, message=evil, phase=evil),),
    )  # fmt: skip
    async with serve_console(Fleet((view, a_view())).views, 0) as url:
        await page.open(url)
        await page.until(lambda text: evil in text)
        assert await page.text("h2") == evil
        assert (
            await page.run("return document.querySelectorAll('main img, main script').length") == 0
        )
        assert await page.run("return document.querySelectorAll('a[href^=javascript]').length") == 0
        assert await page.run("return window.owned ?? null") is None


async def test_the_unknown_is_a_dash_and_never_zero(page: Page) -> None:
    async with serve_console(Fleet((an_unknown_view(capacity_rps=None),)).views, 0) as url:
        await page.open(url)
        text = await page.until(lambda text: "SLO unknown" in text)
        assert "– run – wait – KV" in text
        assert "attainment – of 99 %" in text
        for figure in ("arriving", "forecast", "capacity", "TTFT", "ITL"):
            assert f"{figure} –" in text
        assert "NaN" not in text
        assert "null" not in text
        assert (
            await page.run("return document.querySelector('.plot .line').getAttribute('d')") == ""
        )


async def test_a_phone_needs_no_sideways_scrolling(page: Page) -> None:
    long = "a-service-with-a-name-that-was-never-meant-for-a-phone-" * 3
    view = a_view(name=long, model=long, configuration=f"--{long} " * 9, fault=long,
                  replicas=(a_replica(id=long, message=long),))  # fmt: skip
    await page.resize(360, 740)
    async with serve_console(Fleet((view, a_view())).views, 0) as url:
        await page.open(url)
        await page.until(lambda text: long in text)
        widths = await page.run("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert widths == [360, 360]


async def test_nothing_is_asked_of_another_origin(page: Page) -> None:
    async with serve_console(Fleet((a_view(),)).views, 0) as url:
        await page.open(url)
        await page.until(lambda text: "7.25" in text)
        messages = [
            json.loads(entry["message"])["message"] for entry in await page.log("performance")
        ]
    asked = [m["params"]["request"]["url"] for m in messages
             if m["method"] == "Network.requestWillBeSent"]  # fmt: skip
    paths = {urlsplit(one).path for one in asked}
    assert {"/", "/page.js", "/page.css", "/api/stream", "/api/services"} <= paths
    assert [one for one in asked if not one.startswith((url, "about:", "data:"))] == []


async def test_a_fault_is_shown_while_it_lasts(page: Page) -> None:
    fleet = Fleet((a_view(fault="no GPU is free"),))
    async with serve_console(fleet.views, 0) as url:
        await page.open(url)
        await page.until(lambda text: text == "Fault: no GPU is free", ".fault")
        assert await page.text(".badge") == "Fault"
        assert await page.run("return document.title") == "(1) WhaleFlux"
        fleet.seen = (a_view(),)
        await page.until(lambda text: text == "", ".fault")
        assert await page.text(".badge") == "Within SLO"


async def test_a_lost_connection_is_told_and_mended(page: Page) -> None:
    fleet = Fleet((a_view(),))
    async with serve_console(fleet.views, 0) as url:
        await page.open(url)
        await page.until(lambda text: "7.25" in text)
        assert await page.text("#notice") == ""
    await page.until(lambda text: "lost" in text, "#notice")
    await page.until(lambda text: "last heard" in text, "#connection")
    assert "7.25" in await page.text()
    fleet.seen = (a_view(arrival_rps=8.75),)
    async with serve_console(fleet.views, urlsplit(url).port or 0):
        await page.until(lambda text: "8.75" in text and "live" in text)
        assert await page.text("#notice") == ""


async def test_the_past_can_be_read_with_the_keyboard(page: Page) -> None:
    async with serve_console(Fleet((a_view(),)).views, 0) as url:
        await page.open(url)
        await page.until(lambda text: "7.25" in text)
        await page.press(".plot", Keys.ARROW_LEFT)
        await page.until(lambda text: "10 s ago" in text, ".chart .when")
        await page.press(".plot", Keys.ESCAPE)
        await page.until(lambda text: text == "", ".chart .when")
