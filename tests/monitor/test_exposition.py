"""The fast reader says what the reference parser says, and counts what it cannot read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitor import Exposition, read_exposition

Plain = list[tuple[str, dict[str, str], float]]


def plain(read: Exposition) -> Plain:
    return [(name, dict(s.labels), s.value) for name, all_ in read.samples.items() for s in all_]


def by_oracle(page: str, wanted: set[str]) -> Plain:
    families = text_string_to_metric_families(page)
    samples = [s for family in families for s in family.samples if s.name in wanted]
    return [(s.name, dict(s.labels), s.value) for s in samples]


def in_order(samples: Plain) -> list[str]:
    return sorted(map(repr, samples))


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12)
values = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(texts, values), min_size=1, max_size=5, unique_by=lambda p: p[0]))
def test_agrees_with_the_reference_parser_on_any_label(pairs: list[tuple[str, float]]) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("vllm:g", "help {with} braces\nand lines", ["who", "n"], registry=registry)
    for text, value in pairs:
        gauge.labels(text, "0").set(value)
    page = generate_latest(registry)
    read = read_exposition(page, {"vllm:g"})
    assert read.malformed == 0
    assert in_order(plain(read)) == in_order(by_oracle(page.decode(), {"vllm:g"}))


def test_agrees_with_the_reference_parser_on_counters_and_histograms() -> None:
    registry = CollectorRegistry()
    Counter("vllm:c", "c", registry=registry).inc(3)
    seconds = Histogram("vllm:h", "h", ["engine"], registry=registry)
    seconds.labels("0").observe(0.02)
    seconds.labels("1").observe(200)
    page = generate_latest(registry)
    wanted = {"vllm:c_total", "vllm:h_bucket", "vllm:h_sum", "vllm:h_count"}
    got = plain(read_exposition(page, wanted))
    assert in_order(got) == in_order(by_oracle(page.decode(), wanted))
    assert len(got) == 1 + 2 * 17


@pytest.mark.parametrize(
    "line",
    [
        "a 1",
        "  a   1  ",
        "a 1 1700000000000",
        "a{} 1",
        'a {b="c"} 1',
        'a{b="c",} 1 -5',
        'a{ b = "c" , d = "}" } 1\r',
        'a{b="x{y}z # \\" \\\\ \\n"} +Inf',
        'a{b="é"} -Inf',
    ],
)
def test_reads_every_spelling_the_format_allows(line: str) -> None:
    read = read_exposition(f"{line}\n".encode(), {"a"})
    assert plain(read) == by_oracle(f"{line}\n", {"a"})


def test_not_a_number_is_read_as_such() -> None:
    (sample,) = read_exposition(b"a NaN\n", {"a"}).samples["a"]
    assert math.isnan(sample.value)


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a x",
        "a 1_000",
        "a 1 2 3",
        "a 1 soon",
        "a{",
        'a{b="c" 1',
        'a{b="c"}',
        "a{b=c} 1",
        'a{b="c"d="e"} 1',
        'a{,b="c"} 1',
        'a{0b="c"} 1',
        'a 7{b="c"} 1',
    ],
)
def test_a_malformed_line_is_skipped_and_counted(line: str) -> None:
    read = read_exposition(f"a 1\n{line}\na 2\n".encode(), {"a"})
    assert [s.value for s in read.samples["a"]] == [1, 2]
    assert read.malformed == 1


def test_a_line_cut_in_transit_is_not_a_smaller_number() -> None:
    read = read_exposition(b"a 1\na 12", {"a"})
    assert plain(read) == [("a", {}, 1.0)]
    assert read.malformed == 1


def test_other_names_are_neither_read_nor_counted() -> None:
    read = read_exposition(b"# a 9\nab 1\nb{ 1\n\na 3\n", {"a", "missing"})
    assert plain(read) == [("a", {}, 3.0)]
    assert read.malformed == 0
    assert "missing" not in read.samples


@given(st.binary(max_size=200))
def test_no_page_can_break_it(page: bytes) -> None:
    read_exposition(page, {"a", "vllm:g"})
    read_exposition(b"a{" + page + b"\n", {"a"})
