"""What comes in practice and is no trouble, and what is refused in one line."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from controller.cli import build_app
from controller.replay.bound import bound
from controller.replay.ours import Ours, ours, service_of
from controller.replay.run import replay
from controller.replay.served import Served
from controller.replay.static import constant, smallest
from controller.replay.terms import Garbled, Span, Terms
from profiler.errors import Refused
from profiler.slo import Slo
from profiler.trace import Trace
from tests.controller.replay.builders import (
    CONFIGURATION,
    Scripted,
    a_trace,
    played,
    served,
    slow_served,
    some_terms,
    terms_with,
)
from tests.recommender.builders import a_profile, a_slo


def test_a_trace_with_gaps():
    parts = [a_trace(rate_rps=40, duration_s=20, seed=s) for s in range(2)]
    later = replace(parts[1], arrival_s=parts[1].arrival_s + 3600.0)
    trace = Trace.of(*(
        np.concatenate([getattr(part, name) for part in (parts[0], later)])
        for name in ("arrival_s", "input_tokens", "output_tokens")
    ))  # fmt: skip
    terms = some_terms()
    outcome = replay(trace, slow_served(), ours(slow_served(), terms, 5.0), terms)
    assert outcome.unserved == 0
    assert len(outcome.series.arrivals) == 61
    assert np.isnan(outcome.series.ttft_p95_s[30])
    assert outcome.longest_outage_s < 60  # the gap itself is no outage


def test_ten_thousand_at_one_instant():
    trace = Trace.of([5.0] * 10_000, [32] * 10_000, [2] * 10_000)
    which = Served.of(trace, a_profile(), CONFIGURATION, a_slo())
    terms = some_terms(max_replicas=10, until_s=60.0)
    outcome = replay(trace, which, ours(which, terms, 5.0), terms)
    assert outcome.unserved == 0
    assert 0 < outcome.attained_ratio < 1
    assert bound(trace, which, terms, outcome.attained_ratio).replica_s <= outcome.replica_s


def test_answers_of_no_tokens_make_one():
    trace = Trace.of([1, 2, 3], [32, 32, 32], [0, 0, 5])
    outcome, _ = played(trace, 1, some_terms())
    assert outcome.attained == 3
    assert np.isnan(outcome.each.itl_s[:2]).all()


def test_an_objective_that_no_fleet_meets_is_served_as_well_as_can_be():
    impossible = served(Slo(ttft_s=0.001, itl_s=0.05))
    trace = a_trace(rate_rps=150)
    terms = some_terms()
    outcome = replay(trace, impossible, ours(impossible, terms, 5.0), terms)
    assert not outcome.meets_slo
    assert outcome.attained_ratio == 0
    assert outcome.peak_replicas > terms.min_replicas  # never pinned to the floor
    assert outcome.unserved == 0
    assert impossible.known(terms).capacity_rps > 0


class Told(Ours):
    """Ours, and every sentence it said."""

    def decide(self, scrape, fleet, state, now_s):
        wish, after = super().decide(scrape, fleet, state, now_s)
        self.said = {*getattr(self, "said", ()), wish.reason}
        return wish, after


@pytest.mark.parametrize(
    ("rate_rps", "sentence"),
    [(80, "more would not mend it"), (150, "requests miss the latency objective")],
)
def test_an_objective_out_of_reach_is_at_neither_bound_and_says_so(rate_rps, sentence):
    impossible = served(Slo(ttft_s=0.001, itl_s=0.05))
    terms = some_terms(initial=4, max_replicas=32)
    policy = Told(service_of(impossible, terms), 5.0)
    outcome = replay(a_trace(rate_rps=rate_rps, duration_s=600), impossible, policy, terms)
    counts = [4, *(change.after for change in outcome.changes)]
    assert terms.min_replicas < min(counts) <= max(counts) < terms.max_replicas / 2
    assert any(sentence in said for said in policy.said)
    assert outcome.unserved == 0


def test_our_policy_follows_a_service_that_appears_and_vanishes():
    trace = a_trace(rate_rps=20, duration_s=300)
    terms = some_terms(initial=2, appears_s=60.0, vanishes_s=240.0)
    outcome = replay(trace, slow_served(), ours(slow_served(), terms, 5.0), terms)
    came = trace.arrival_s
    assert outcome.turned_away == ((came < 60) | (came >= 240)).sum()
    assert all(60 <= change.at_s < 240 for change in outcome.changes)
    assert outcome.cut == outcome.unserved == 0


ROWS = {
    "gaps": [f"{s},64,8" for s in (*range(20), *range(2000, 2020))],
    "a burst at one instant": ["5.0,32,2"] * 10_000,
    "answers of no tokens": [f"{s},64,0" for s in range(60)],
}


def told(tmp_path: Path, rows: list[str], *options: object) -> dict[str, dict[str, Any]]:
    file = tmp_path / "t.csv"
    file.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]) + "\n")
    wanted = ("--model", "meta-llama/Llama-3.1-8B-Instruct", "--gpu", "L4", "--slo-itl-ms", 200)
    asked = ["replay", str(file), *map(str, wanted), "--policy", "whaleflux", "-o", "json"]
    answer = CliRunner().invoke(build_app("replay"), [*asked, *map(str, options)])
    assert answer.exception is None, answer.output
    return {row["policy"]: row for row in json.loads(answer.stdout)["policies"]}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_the_command_takes_traces_as_they_come(tmp_path: Path, rows: list[str]) -> None:
    ours_row = told(tmp_path, rows, "--slo-ttft-ms", 2000)["whaleflux"]
    assert 0 < ours_row["attainedRatio"] <= 1


@pytest.mark.parametrize("garbled", ["nan@0-1e9", "-1@0-1e9"])
def test_the_command_holds_on_metrics_that_are_no_numbers(tmp_path: Path, garbled: str) -> None:
    rows = [f"{s / 2},256,32" for s in range(400)]
    options = ("--slo-ttft-ms", 2000, "--initial", 2, "--garbled", garbled)
    ours_row = told(tmp_path, rows, *options)["whaleflux"]
    assert ours_row["scaleUps"] == ours_row["scaleDowns"] == 0


@pytest.mark.parametrize("value", [math.nan, -1.0, math.inf])
def test_metrics_that_are_no_numbers_hold_our_policy(value):
    trace = a_trace(rate_rps=20, duration_s=120)
    terms = terms_with(some_terms(initial=2), garbled=(Garbled(value, Span(0, 1e9)),))
    outcome = replay(trace, slow_served(), ours(slow_served(), terms, 5.0), terms)
    assert outcome.changes == ()


@pytest.mark.parametrize("wish", [math.nan, math.inf, -math.inf])
def test_a_wish_that_is_no_number_changes_nothing(wish):
    outcome, _ = played(a_trace(), lambda _: wish, some_terms(initial=2))
    assert outcome.changes == ()


def test_a_service_that_appears_starts_then_and_has_no_earlier_requests():
    trace = a_trace()
    outcome, policy = played(trace, 1, some_terms(appears_s=20.0))
    assert outcome.turned_away == (trace.arrival_s < 20).sum()
    assert outcome.lives[0].asked_s == 20
    assert outcome.lives[0].ready_s == 30
    assert policy.shown[0][0] == 20
    assert outcome.unserved == 0


def test_a_service_that_vanishes_drains_and_is_not_asked_again():
    trace = a_trace()
    outcome, policy = played(trace, 3, some_terms(initial=3, vanishes_s=30.0))
    assert outcome.turned_away == (trace.arrival_s >= 30).sum()
    assert all(30 <= life.gone_s < 35 for life in outcome.lives)
    assert policy.shown[-1][0] < 30
    assert outcome.cut == outcome.unserved == 0


def test_a_trace_without_requests():
    nothing = Trace.of([], [], [])
    which = Served.of(nothing, a_profile(), CONFIGURATION, a_slo())
    outcome = constant(nothing, which, 1, some_terms(until_s=60.0))
    assert outcome.requests == 0
    assert math.isnan(outcome.attained_ratio)
    assert outcome.replica_s == 60
    assert bound(nothing, which, some_terms(until_s=60.0), 1.0).replica_s == 60


def test_a_request_that_fits_nowhere_is_refused():
    trace = Trace.of([1.0], [4000], [200])
    with pytest.raises(Refused, match=r"row 1: .* exceed max_model_len 4096"):
        Served.of(trace, a_profile(), CONFIGURATION, a_slo())


@pytest.mark.parametrize(
    "changes",
    [
        {"scrape_s": 0},
        {"start_up_s": math.nan},
        {"min_replicas": 3, "max_replicas": 2},
        {"max_replicas": 0, "min_replicas": 0},
        {"replicas_per_node": 0},
        {"appears_s": 5, "vanishes_s": 1},
    ],
)
def test_terms_that_make_no_sense_are_refused(changes):
    with pytest.raises(Refused):
        Terms(**changes)


def test_a_policy_without_an_interval_is_refused():
    with pytest.raises(Refused, match="interval_s"):
        replay(a_trace(), served(), Scripted(lambda _: 1, interval_s=0.0), some_terms())


def test_the_smallest_constant_fleet():
    trace, terms = a_trace(rate_rps=40), some_terms(max_replicas=16)
    found = smallest(trace, slow_served(), terms)
    count = int(found.mean_replicas)
    assert found.attained_ratio >= 0.99
    assert constant(trace, slow_served(), count - 1, terms).attained_ratio < 0.99
