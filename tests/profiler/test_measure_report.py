"""The report counts from the scheduled arrival and lets no lost request off."""

import json

import numpy as np
import pytest
from rich.console import Console

from profiler.measure import Outcome, Report, Spread, Status, as_table, summarise
from profiler.slo import Slo


def answered(scheduled_s: float = 0.0, **changes: object) -> Outcome:
    """Sent 0.1 s late; first token after 0.5 s, then four more, 0.1 s apart."""
    values: dict[str, object] = {
        "index": 0,
        "scheduled_s": scheduled_s,
        "sent_s": scheduled_s + 0.1,
        "first_token_s": scheduled_s + 0.5,
        "last_token_s": scheduled_s + 0.9,
        "gaps_s": np.full(4, 0.1, dtype=np.float32),
        "input_tokens": 10,
        "output_tokens": 5,
        "status": Status.OK,
        **changes,
    }
    return Outcome(**values)  # type: ignore[arg-type]


def failed(status: Status, error: str = "boom") -> Outcome:
    return answered(status=status, error=error)


MIXED = (
    answered(0.0),
    answered(1.1),
    failed(Status.ERROR),
    failed(Status.CUT),
    failed(Status.TIMEOUT, "no end"),
)


def test_counts_how_requests_ended() -> None:
    report = summarise(MIXED)
    assert (report.sent, report.ok, report.failed) == (5, 2, 3)
    assert (report.lost, report.cut, report.timed_out) == (1, 1, 1)
    assert report.errors == (("boom", 2), ("no end", 1))


def test_latencies_count_from_the_scheduled_arrival_and_from_the_sending() -> None:
    report = summarise([answered()])
    means = [
        spread.mean_s if spread else None
        for spread in (report.ttft, report.ttft_from_sent, report.e2e, report.e2e_from_sent)
    ]
    assert means == pytest.approx([0.5, 0.4, 0.9, 0.8])
    assert report.tpot is not None
    assert report.tpot.p50_s == pytest.approx(0.1)
    assert report.itl is not None
    assert report.itl.count == 4
    assert report.itl.p99_s == pytest.approx(0.1)


def test_throughput_is_of_full_answers_over_the_whole_run() -> None:
    report = summarise(MIXED)
    assert report.duration_s == pytest.approx(2.0)
    assert report.requests_rps == pytest.approx(1.0)
    assert report.input_tokens_s == pytest.approx(10)
    assert report.output_tokens_s == pytest.approx(5)


def test_lost_cut_and_late_requests_did_not_attain() -> None:
    report = summarise(MIXED, Slo(ttft_s=10.0))
    assert report.attained_ratio == pytest.approx(0.4)
    assert report.slo_met is False


@pytest.mark.parametrize(
    ("slo", "ratio"),
    [
        (Slo(ttft_s=0.51), 1),
        (Slo(ttft_s=0.45), 0),  # from the sending it would have attained
        (Slo(itl_s=0.11), 1),
        (Slo(itl_s=0.09), 0),
        (Slo(e2e_s=0.91), 1),
        (Slo(ttft_s=0.51, itl_s=0.11, e2e_s=0.8), 0),
    ],
)
def test_every_bound_must_hold(slo: Slo, ratio: float) -> None:
    assert summarise([answered()], slo).attained_ratio == ratio


def test_enough_requests_must_attain() -> None:
    outcomes = [answered()] * 9 + [failed(Status.ERROR)]
    assert summarise(outcomes, Slo(ttft_s=1.0, percentile=0.9)).slo_met is True
    assert summarise(outcomes, Slo(ttft_s=1.0, percentile=0.91)).slo_met is False


def test_a_single_token_has_no_gap_to_judge() -> None:
    short = answered(output_tokens=1, last_token_s=0.5, gaps_s=np.zeros(0, dtype=np.float32))
    assert summarise([short], Slo(itl_s=0.01)).attained_ratio == 1


def test_what_cannot_be_judged_is_unknown() -> None:
    whole = answered(first_token_s=None, gaps_s=np.zeros(0, dtype=np.float32))
    assert summarise([whole], Slo(ttft_s=1.0)).attained_ratio is None
    assert summarise([whole], Slo(ttft_s=1.0)).slo_met is None
    assert summarise([whole], Slo(e2e_s=1.0)).attained_ratio == 1
    assert summarise([answered()], Slo()).attained_ratio is None
    assert summarise([answered()]).slo_met is None


def test_nothing_sent_is_nothing_known() -> None:
    report = summarise([], Slo(ttft_s=1.0))
    assert (report.sent, report.requests_rps, report.ttft, report.attained_ratio) == (
        0,
        None,
        None,
        None,
    )


def test_a_spread_interpolates() -> None:
    assert Spread.of([None]) is None
    assert Spread.of([1.0, None, 3.0]) == Spread(2, 2.0, 2.0, 2.8, 2.9, 2.98)


def rendered(report: Report) -> str:
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(as_table(report))
    return capture.get()


def test_json_keeps_missing_figures_as_null() -> None:
    document = json.loads(json.dumps(summarise(MIXED, Slo(ttft_s=1.0)).as_dict(), allow_nan=False))
    assert (document["failed"], document["slo_met"], document["slo"]["itl_s"]) == (3, False, None)
    assert json.loads(json.dumps(summarise([]).as_dict()))["ttft"] is None


def test_the_table_shows_latencies_in_milliseconds_and_the_verdict() -> None:
    text = rendered(summarise(MIXED, Slo(ttft_s=10.0)))
    assert "500.0" in text
    assert "SLO at 95%: missed" in text
    assert "40.00%" in text
    assert "–" in rendered(summarise([]))
