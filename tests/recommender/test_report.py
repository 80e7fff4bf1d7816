"""The report as text: complete, escaped, and plain about what is missing."""

import base64
import importlib
import json
import re
import sys
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from profiler.errors import Refused
from profiler.slo import Slo
from recommender import Comparison, Offer
from recommender.explanation import WhatIf
from recommender.report import as_html, draw
from recommender.report.facts import Facts
from recommender.report.figures import figures
from recommender.report.markup import Html, joined, of
from tests.recommender.builders import a_slo, a_workload
from tests.recommender.some_reports import (
    UNKNOWN,
    a_candidate,
    a_comparison,
    a_question,
    a_recommendation,
    a_story,
    all_named,
    idle,
    without_answers,
)

SECTIONS = (
    "workload", "why", "sureness", "latency", "pareto", "runners-up", "what-if", "split",
    "comparison", "not-possible",
)  # fmt: skip
EVIL = "</script><img src=x onerror=window.owned=1><script>window.owned=1</script>'\"&%{x}"


class Reader(HTMLParser):
    """What a browser reads: elements by id, scripts, and the text outside of them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip():
            self.scripts.append(data)
        elif self.lasttag not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(*told: Any, **named: Any) -> Reader:
    pytest.importorskip("plotly", reason="the extra `report` is not installed")
    return Reader(as_html(*told, **named))


def a_report(**changes: Any) -> Reader:
    parts = {"asked": a_question(), "found": a_recommendation(), "story": a_story()}
    return read(**{**parts, "comparison": a_comparison(), **changes})


def test_it_begins_with_the_answer() -> None:
    text = a_report().text
    assert "Run 2 × mine TP1" in text
    assert "2 replicas on 2 GPUs carry 6.00 req/s for 5.00 per hour" in text
    assert "98.7% of requests are predicted to keep the objective" in text
    assert "(95% of requests within TTFT 500 ms, ITL 50.0 ms)" in text
    assert text.index("Run 2 ×") < text.index("What was asked for") < text.index("Why this")
    assert "--tensor-parallel-size=1 --max-num-seqs=16" in text
    assert "That is 5.00 per hour less than what runs now (-50%)" in text


def test_every_section_is_there_in_order() -> None:
    ids = a_report().ids
    assert [one for one in ids if one in SECTIONS] == list(SECTIONS)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "told",
    [
        "max_num_seqs 16", "2.50 per hour, 8 a node", "as the mean", "drawn, not recorded",
        "ITL binds; 60% waits for memory", "± 8%", "± 42%", "with 90% confidence",
        "plan from a recorded trace", "At 3.00 req/s a replica", "17.1", "1.25",
        "The 4 fleets in figures", "mine TP4", "10% more traffic", "+50%",
        "gpu: other is not in the catalogue", "1 × mine TP1 for prefill", "1.2 ms",
        "Flags to drop: --tensor-parallel-size=4", "8 does not divide the heads",
        "priced 107 candidates", "analytical",
    ],
)  # fmt: skip
def test_the_whole_story_is_told(told: str) -> None:
    assert told in re.sub(r" +", " ", a_report().text)


def test_every_plot_has_a_place_a_heading_and_units() -> None:
    page = a_report()
    drawn = figures(Facts(a_question(), a_recommendation(), a_story()))
    assert set(drawn) <= set(page.ids)
    assert page.tags.count("figure") == len(drawn) == 7
    titles = [(f["layout"]["xaxis"]["title"]["text"], f["layout"]["yaxis"]["title"]["text"])
              for f in drawn.values() if f["layout"].get("barmode") != "stack"]  # fmt: skip
    assert ("cost per hour", "E2E within which 95% stay, s") in titles
    assert ("share of requests", "TTFT, ms") in titles
    assert ("prompt tokens", "requests, %") in titles


def test_only_its_own_scripts_may_run_and_nothing_is_fetched() -> None:
    page = a_report()
    hashes = [base64.b64encode(sha256(s.encode()).digest()).decode() for s in page.scripts]
    assert len(hashes) == 8
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert set(re.findall(r"'sha256-([^']+)'", page.policy)) == set(hashes)
    assert "unsafe-eval" not in page.policy
    assert not {"img", "link", "iframe", "a"} & set(page.tags)
    assert [name for name, _ in page.attributes if name in ("src", "href", "style")] == []
    assert [name for name, _ in page.attributes if name.startswith("on")] == []


def test_names_of_users_are_text() -> None:
    page = read(*all_named(EVIL))
    assert page.tags.count("script") == 8
    assert "img" not in page.tags
    assert page.text.count(EVIL) > 20
    own = [script for script in page.scripts if "Plotly.newPlot" in script and len(script) < 1e5]
    assert len(own) == 7
    assert all("<img" not in script and "</" not in script for script in own)


def test_names_are_no_markup_to_plotly_and_no_template() -> None:
    drawn = figures(Facts(*all_named("<b>%{x}</b>")))
    told = json.dumps(drawn)
    assert "<b>" not in told
    templates = [trace.get("hovertemplate", "") for f in drawn.values() for trace in f["data"]]
    assert all("&lt;" not in template for template in templates)


def test_the_same_story_makes_the_same_page() -> None:
    pytest.importorskip("plotly")
    told = (a_question(), a_recommendation(), a_story(), a_comparison())
    assert as_html(*told) == as_html(*told)


# --- what is missing ---


def test_no_runner_up_is_said() -> None:
    text = a_report(found=a_recommendation(runners_up=(), not_possible=())).text
    assert "No other layout fits and keeps the objective." in text
    assert "Every layout within a node fits and would start." in text


def test_a_split_that_cannot_be_had_says_why() -> None:
    story = a_story(split=None, split_says="slo: give itl")
    assert "Not to be had: slo: give itl" in a_report(story=story).text


def test_what_runs_now_may_be_unknown_or_unable_to_start() -> None:
    assert "What runs now was not given" in a_report(comparison=None).text
    unable = Comparison(None, 0, UNKNOWN, "what runs now would not start: too long")
    text = a_report(comparison=unable).text
    assert "What runs now would not start: too long." in text
    assert "What runs now cannot do that" in text


def test_the_unknown_is_a_dash_and_never_nan() -> None:
    found = a_recommendation(best=idle(a_candidate()), runners_up=(idle(a_candidate(2)),))
    story = a_story(pareto=(), what_if=(), attained_ratio=UNKNOWN)
    text = a_report(found=found, story=story).text
    assert "–" in text
    assert "nan" not in text.lower()
    assert "No fleet was compared." in text
    assert "Nothing else was tried." in text


def test_a_latency_that_no_request_has_is_named_instead_of_drawn() -> None:
    page = a_report(story=without_answers())
    assert "Not known: inter-token latency." in page.text
    assert "plot-itl" not in page.ids
    assert "plot-ttft" in page.ids


def test_costs_without_prices_are_said_to_count_gpus() -> None:
    asked = a_question(offers=(Offer("mine"),))
    assert "No prices were given: costs count GPUs." in a_report(asked=asked).text
    assert "No prices were given" not in a_report().text


def test_what_would_cost_less_is_told_at_the_top() -> None:
    assert "What would cost less" not in a_report().text
    cheaper = WhatIf("FP8 weights", a_candidate(), 1, 2.5, "")
    text = a_report(story=a_story(what_if=(cheaper,))).text
    assert "What would cost less, if it may be: FP8 weights (2.50 per hour)." in text


def test_no_nine_of_the_objective_is_lost() -> None:
    asked = a_question(slo=a_slo(percentile=0.995))
    assert "99.5% of requests within TTFT 500 ms" in a_report(asked=asked).text
    plot = figures(Facts(asked, a_recommendation(), a_story()))["plot-ttft"]["layout"]
    assert plot["shapes"][0]["x0"] < plot["xaxis"]["range"][1]


def test_a_long_list_is_folded() -> None:
    many = a_recommendation(not_possible=tuple(f"reason {i}" for i in range(9)))
    page = a_report(found=many)
    assert "9 layouts left out, and why" in page.text
    assert page.tags.count("details") == 3


def test_a_missing_plotly_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plotly", "plotly.offline", "plotly.graph_objects"):
        monkeypatch.setitem(sys.modules, name, None)
    importlib.reload(draw)  # importing it needs no plotly
    with pytest.raises(Refused, match=re.escape("pip install 'whaleflux[report]'")):
        as_html(a_question(), a_recommendation(), a_story())


# --- figures ---


def test_free_gpus_and_narrow_ranges_have_axes_from_zero() -> None:
    found = a_recommendation(best=a_candidate(price_per_hour=0.0))
    pareto = figures(Facts(a_question(), found, a_story()))["plot-pareto"]
    assert pareto["layout"]["xaxis"]["type"] == "linear"
    assert pareto["layout"]["yaxis"]["type"] == "linear"


def test_the_front_joins_what_is_efficient_and_the_best_is_marked() -> None:
    pareto = figures(Facts(a_question(), a_recommendation(), a_story()))["plot-pareto"]
    by_name = {trace["name"]: trace for trace in pareto["data"]}
    assert by_name["efficient front"]["x"] == [5.0, 7.5]
    assert (by_name["recommended"]["x"], by_name["recommended"]["y"]) == ([5.0], [2.0])
    assert "TTFT 200 ms" in by_name["mine TP1"]["text"][0]


def test_a_bound_far_above_does_not_press_the_curve_flat() -> None:
    near, far = (
        figures(Facts(a_question(slo=slo), a_recommendation(), a_story()))["plot-ttft"]
        for slo in (a_slo(), Slo(ttft_s=60.0))
    )
    assert near["layout"]["yaxis"]["type"] == "linear"
    assert far["layout"]["yaxis"]["type"] == "log"
    assert far["layout"]["annotations"][0]["y"] == pytest.approx(np.log10(60_000))


@pytest.mark.parametrize("tokens", [np.full(7, 5), np.array([1, 2, 30, 9000, 200_000])])
def test_lengths_are_counted_whatever_their_spread(tokens: np.ndarray) -> None:
    workload = replace(a_workload(), input_tokens=tokens, output_tokens=tokens)
    plot = figures(Facts(a_question(workload=workload), a_recommendation(), a_story()))
    bars = plot["plot-prompts"]["data"][0]
    assert sum(bars["y"]) == pytest.approx(100.0, abs=0.1)
    assert plot["plot-prompts"]["layout"]["xaxis"]["type"] == (
        "log" if np.ptp(tokens) else "linear"
    )


def test_text_is_escaped_unless_it_is_markup() -> None:
    assert of("p", "<b>", [Html("<i></i>"), "&"], class_='"') == (
        '<p class="&quot;">&lt;b&gt;<i></i>&amp;</p>'
    )
    assert joined("a", ["<"]) == "a&lt;"
