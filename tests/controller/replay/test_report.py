"""The page of a replay: what it says, that it lets nothing through, and that it draws."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.replay.bound import Bound
from controller.replay.clairvoyant import Clairvoyant, Schedule
from controller.replay.outcome import Change, Outcome
from controller.replay.report import Told, as_html, terms_said, verdict
from controller.replay.report.figures import figures
from controller.replay.terms import (
    FailedStarts,
    Faults,
    Garbled,
    LongStarts,
    NodeLoss,
    SlowReplica,
    Span,
)
from profiler.slo import Slo
from tests.browser import WANTED
from tests.controller.replay.builders import a_trace, played, served, some_terms
from tests.controller.replay.histories import buckets, counted

EVIL = "</script><img src=x onerror=window.owned=1>"
TERMS = some_terms(initial=2, max_replicas=8)


def an_outcome(name: str = "whaleflux", count: Callable[[float], float] | int = 2) -> Outcome:
    return replace(played(a_trace(duration_s=150), count, TERMS)[0], policy=name)


def told(**changes: Any) -> Told:
    outcomes = (an_outcome(), an_outcome("hpa", lambda now_s: 1 + now_s // 40))
    usual = {"source": "a trace", "outcomes": outcomes, "terms": TERMS, "served": served()}
    return Told(**{**usual, **changes})


def known(attained_ratio: float = 0.95) -> Clairvoyant:
    bound = Bound(60.0, 60 / 3600, attained_ratio, 20.0, 30.0, (1, 1))
    return Clairvoyant(bound, Schedule((1, 2)), an_outcome("clairvoyant", 1), reached=True)


def page(**changes: Any) -> str:
    pytest.importorskip("plotly", reason="the extra `report` is not installed")
    return as_html(told(**changes))


def text_of(html: str) -> str:
    without = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", without))


def test_the_verdict_names_the_cheapest_that_attains() -> None:
    cheap = replace(an_outcome("cheap"), gpu_hours=1.0, attained_ratio=0.90)
    good = replace(an_outcome("good"), gpu_hours=2.0, attained_ratio=0.96)
    dear = replace(an_outcome("dear"), gpu_hours=3.0, attained_ratio=0.99)
    (line,) = verdict(told(outcomes=(dear, cheap, good)))
    assert line == "good is the cheapest that attains 95%: 2.00 GPU-hours, 96.0% of requests."


def test_the_verdict_says_that_nobody_attains() -> None:
    near = replace(an_outcome("near"), attained_ratio=0.5)
    far = replace(an_outcome("far"), attained_ratio=0.1)
    (line,) = verdict(told(outcomes=(far, near)))
    assert line.startswith("Nobody attains 95%: near comes nearest with 50.0%")


def test_the_verdict_says_that_no_fleet_can() -> None:
    impossible = served(Slo(ttft_s=0.001, itl_s=0.05))
    none = replace(an_outcome(), attained_ratio=0.0, meets_slo=False)
    (line,) = verdict(told(served=impossible, outcomes=(none,)))
    assert line.startswith("No fleet keeps this objective (95% of requests within TTFT 1 ms")


def test_the_bound_is_compared_with_those_alone_who_attain() -> None:
    facts = told(known=known())
    good = replace(an_outcome(), gpu_hours=1 / 30, attained_ratio=0.97)
    assert facts.over_bound(good) == pytest.approx(2.0)
    assert math.isnan(facts.over_bound(replace(good, attained_ratio=0.9)))
    assert math.isnan(told().over_bound(good))
    assert "can pay less than 0.02 GPU-hours" in " ".join(verdict(facts))


def test_what_really_was_is_told_beside() -> None:
    seconds = replace(buckets([[1] * 30, [1] * 9, [100]]), total=np.zeros(3))
    history = counted([[20] * 30, [20] * 9, [20]], ttft_s=seconds)
    facts = told(history=history, served=served(Slo(ttft_s=1.0)))
    assert facts.real_gpu_hours == pytest.approx(2 * 45 / 3600)
    assert facts.real_ttft_ratio == pytest.approx(39 / 40)
    assert "97.5% of first tokens came in time" in " ".join(verdict(facts))
    drawn = figures(facts)
    for name in ("plot-replicas", "plot-ttft"):
        assert drawn[name]["data"][-1]["name"] == "as it was"


def test_every_fault_is_said() -> None:
    span = Span(10, 20)
    faults = Faults(
        node_losses=(NodeLoss(5.0, 1),),
        slow_replicas=(SlowReplica(0, 2.0, span),),
        long_starts=(LongStarts(3.0, span),),
        failed_starts=(FailedStarts(span, 0.3),),
        garbled=(Garbled(math.nan, span),),
        missed_scrapes=(span,),
        missed_ratio=0.5,
        silent_ratio=0.1,
    )
    said = [line for name, line in terms_said(told(terms=some_terms(faults=faults)))
            if name == "Fault"]  # fmt: skip
    assert len(said) == 8
    assert said[0] == "node 1 is lost at 5 s"
    assert "30% of starts fail from 10 to 20 s" in said


def test_the_page_holds_figures_plots_decisions_and_terms() -> None:
    html = page(known=known(), notes=("a gap",))
    for section in ("figures", "course", "pareto", "decisions", "terms"):
        assert f'<section id="{section}">' in html
    for plot in ("load", "replicas", "queue", "ttft", "pareto"):
        assert f'id="plot-{plot}"' in html
    text = text_of(html)
    for words in ("Note: a gap.", "knows the future", "what no policy can pass",
                  "hpa: 4 decisions", "0:00:00 2 → 1 scripted"):  # fmt: skip
        assert words in text, words


def test_every_decision_is_there_and_long_lists_are_folded() -> None:
    changes = tuple(Change(15.0 * i, i % 3, i % 3 + 1, f"because {i}") for i in range(200))
    html = page(outcomes=(replace(an_outcome(), changes=changes),))
    assert all(f">because {i}<" in html for i in range(200))
    before, _, after = html.partition("<details>")
    assert ">because 59<" in before
    assert ">because 60<" in after


def test_names_and_reasons_are_text() -> None:
    changes = (Change(0.0, 1, 2, EVIL),)
    html = page(outcomes=(replace(an_outcome(EVIL), changes=changes),), source=EVIL, notes=(EVIL,))
    assert "<img" not in html


def test_it_fetches_nothing() -> None:
    html = page()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src &#x27;none&#x27;")
    assert re.findall(r'(?:src|href)="', html.split("<script>")[0]) == []


def test_what_never_came_is_a_hole_in_a_line_and_a_dash_in_a_table() -> None:
    outcome = an_outcome()
    series = replace(outcome.series, ttft_p95_s=np.array([0.5, np.inf, np.nan]))
    silent = replace(outcome, series=series, attained_ratio=math.nan)
    facts = told(outcomes=(silent,))
    assert figures(facts)["plot-ttft"]["data"][0]["y"] == [500.0, None, None]
    assert json.loads(json.dumps(figures(facts), allow_nan=False))
    assert "whaleflux" in page(outcomes=(silent,))


def test_long_times_are_put_together_and_no_peak_is_lost() -> None:
    outcome = an_outcome()
    week = np.zeros(7 * 24 * 60)
    week[5000] = 77.0
    series = replace(outcome.series, queue=week)
    line = figures(told(outcomes=(replace(outcome, series=series),)))["plot-queue"]["data"][0]
    assert len(line["y"]) <= 1440
    assert max(line["y"]) == 77.0
    place = line["y"].index(77.0)
    assert line["x"][place] <= 5000 < line["x"][place + 1]


def test_the_front_has_only_those_than_which_nothing_as_cheap_attains_more() -> None:
    rows = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.9), (3.0, 0.8)]
    outcomes = tuple(
        replace(an_outcome(str(i)), gpu_hours=hours, attained_ratio=ratio)
        for i, (hours, ratio) in enumerate(rows)
    )
    front = figures(told(outcomes=outcomes))["plot-pareto"]["data"][0]
    assert (front["x"], front["y"]) == ([1.0, 3.0], [50.0, 90.0])


class TestInABrowser:
    pytestmark = WANTED

    def shown(self, driver: Any, folder: Path, **changes: Any) -> Any:
        file = folder / "replay.html"
        file.write_text(page(**changes), encoding="utf-8")
        driver.get_log("browser")
        driver.get(file.as_uri())
        return driver.execute_script

    def test_it_draws_and_asks_nobody(self, driver: Any, tmp_path: Path) -> None:
        run = self.shown(driver, tmp_path, known=known(), source=EVIL)
        for plot in ("load", "replicas", "queue", "ttft", "pareto"):
            count = f"return document.querySelectorAll('#plot-{plot} svg.main-svg').length"
            assert run(count) > 0, plot
        assert run("return performance.getEntriesByType('resource').length") == 0
        assert run("return window.owned ?? null") is None
        assert run("return document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert driver.get_log("browser") == []

    def test_a_policys_decisions_are_chosen_without_a_script(
        self, driver: Any, tmp_path: Path
    ) -> None:
        run = self.shown(driver, tmp_path)
        seen = "return [...document.querySelectorAll('.decisions')].map(e => e.offsetHeight > 0)"
        assert run(seen) == [True, True]
        run("document.querySelector('#only-1').click()")
        assert run(seen) == [False, True]
