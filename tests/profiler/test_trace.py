"""A trace is read as it stands or refused with the row, the column and the mend."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.errors import Refused
from profiler.trace import (
    Hashes,
    Lengths,
    Trace,
    gamma_renewal,
    joined,
    poisson,
    read_trace,
    stream_trace,
)

HEADER = "arrival_s,input_tokens,output_tokens\n"


def small() -> Trace:
    return Trace.of([0.0, 1.0, 1.0, 4.0], [10, 20, 30, 40], [1, 2, 3, 0])


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_knows_its_duration_and_rate() -> None:
    assert (len(small()), small().duration_s, small().rate_rps) == (4, 4.0, 1.0)


def test_an_empty_trace_has_no_rate() -> None:
    assert small().take(0).rate_rps is None
    assert small().take(0).duration_s == 0


def test_until_leaves_out_the_moment_itself() -> None:
    assert len(small().until(1.0)) == 1
    assert len(small().until(1.001)) == 3


def test_compression_divides_time() -> None:
    assert small().compressed(2).arrival_s.tolist() == [0, 0.5, 0.5, 2]


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_refuses_a_factor_that_stops_time(factor: float) -> None:
    with pytest.raises(Refused, match="positive factor"):
        small().compressed(factor)


def test_take_refuses_a_negative_count() -> None:
    with pytest.raises(Refused, match="0 or more"):
        small().take(-1)


def test_of_copies_and_freezes() -> None:
    arrivals = np.array([0.0, 1.0])
    trace = Trace.of(arrivals, [1, 1], [1, 1])
    arrivals[0] = 9
    assert trace.arrival_s[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        trace.arrival_s[0] = 5


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (([0, 2, 1], [1, 1, 1], [1, 1, 1]), "row 3: arrival_s is 1.0: sort"),
        (([-1.0], [1], [1]), "row 1: arrival_s is -1.0: let the trace begin"),
        (([0, float("nan")], [1, 1], [1, 1]), "row 2: arrival_s is nan: give a number"),
        (([0], [0], [1]), "row 1: input_tokens is 0"),
        (([0], [1], [-1]), "row 1: output_tokens is -1"),
        (([0], [1.5], [1]), "row 1: input_tokens is 1.5: give a whole number"),
        (([0], [float("nan")], [1]), "row 1: input_tokens is nan: give a whole number"),
        (([0], [1e30], [1]), "row 1: input_tokens is 1e\\+30: give a whole number"),
        (([0, 1], [1], [1, 1]), "input_tokens must be int64\\[2\\]"),
        (([0], [4], [1], [5]), "row 1: prefix_tokens is 5: a prefix is no longer"),
    ],
)
def test_refuses_columns_that_are_no_trace(columns: tuple[list[float], ...], says: str) -> None:
    with pytest.raises(Refused, match=says):
        Trace.of(*columns)


def test_refuses_arrays_of_another_type() -> None:
    whole = np.array([1], dtype=np.int64)
    with pytest.raises(Refused, match="arrival_s must be float64"):
        Trace(whole, whole, whole, whole)  # type: ignore[arg-type]


def test_reads_columns_in_any_order_and_ignores_others(tmp_path: Path) -> None:
    path = written(tmp_path, "who,output_tokens,arrival_s,input_tokens\nme,3,0.5,7\n\nyou,0,1,8\n")
    trace = read_trace(path)
    assert trace.arrival_s.tolist() == [0.5, 1]
    assert trace.input_tokens.tolist() == [7, 8]
    assert trace.output_tokens.tolist() == [3, 0]
    assert trace.prefix_tokens.tolist() == [0, 0]


def test_reads_gzip_by_its_bytes_not_its_name(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(gzip.compress(f"{HEADER}0,1,2\n".encode()))
    assert len(read_trace(path)) == 1


def test_reads_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER.replace("\n", "\r\n").encode() + b"0,1,2\r\n")
    assert len(read_trace(path)) == 1


def test_prefix_blocks_become_tokens_within_the_prompt(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER.strip() + ",prefix_blocks_seen\n0,2000,1,1\n1,600,1,2\n")
    assert read_trace(path).prefix_tokens.tolist() == [512, 600]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column arrival_s, input_tokens, output_tokens"),
        ("arrival_s,input_tokens\n0,1\n", "no column output_tokens: name it"),
        (HEADER, "has no rows"),
        (HEADER + "0,1,1\n1,x,1\n", "row 2: input_tokens is 'x': give a number"),
        (HEADER + "0,1,1\n1,,1\n", "row 2: input_tokens is '': give a number"),
        (HEADER + "0,1,1\n\n1,2\n", "row 2: ends before its output_tokens"),
        (HEADER + "0,1,1\nnan,2,2\n", "row 2: arrival_s is nan"),
        (HEADER + "0,1,1\n1,nan,2\n", "row 2: input_tokens is nan"),
        (HEADER + "0,1,1\n1,2.5,2\n", "row 2: input_tokens is 2.5"),
        (HEADER + "0,1,1\n5,1,1\n4,1,1\n", "row 3: arrival_s is 4.0: sort"),
        (HEADER + "-1,1,1\n", "row 1: arrival_s is -1.0"),
        (HEADER + "0,0,1\n", "row 1: input_tokens is 0"),
        (HEADER + "0,1,-1\n", "row 1: output_tokens is -1"),
    ],
)
def test_a_fault_names_file_row_column_and_mend(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(Refused, match=says) as fault:
        read_trace(path)
    assert str(path) in str(fault.value)
    assert "\n" not in str(fault.value)


def test_refuses_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        read_trace(tmp_path / "nowhere.csv")
    damaged = tmp_path / "damaged.csv.gz"
    damaged.write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(Refused, match="damaged"):
        read_trace(damaged)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match="not UTF-8"):
        read_trace(binary)


def test_reads_priorities_and_what_prompts_hold(tmp_path: Path) -> None:
    path = written(
        tmp_path, HEADER.strip() + ",priority,hash_ids\n0,1000,1,2,7 8\n1,9,1,-1,7\n2,600,1,0,\n"
    )
    trace = read_trace(path)
    assert trace.priority is not None
    assert trace.priority.tolist() == [2, -1, 0]
    assert trace.hashes is not None
    assert (trace.hashes.ids.tolist(), trace.hashes.offsets.tolist()) == ([7, 8, 7], [0, 2, 3, 3])
    assert read_trace(written(tmp_path, HEADER + "0,1,1\n")).hashes is None


def test_hashes_may_stand_for_other_numbers_of_tokens(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER.strip() + ",hash_ids\n0,40,1,1|2|3\n")
    trace = read_trace(path, hash_block_tokens=16)
    assert trace.hashes is not None
    assert trace.hashes.block_tokens == 16
    with pytest.raises(Refused, match="row 1: hash_ids are 3 blocks of 512 tokens for a prompt"):
        read_trace(path)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1,600,1,0,1 x", "row 2: hash_ids are '1 x': give whole numbers"),
        ("1,600,1,0,1.5", "row 2: hash_ids are '1.5': give whole numbers"),
        ("1,600,1,0,1 -2", "row 2: hash_ids hold -2: give numbers of 0 or more"),
        ("1,600,1,0,9223372036854775808", "row 2: hash_ids hold 9223372036854775808"),
        ("1,600,1,0,1 2 3", "row 2: hash_ids are 3 blocks of 512 tokens"),
        ("1,600,1,0.5,1", "row 2: priority is 0.5: give a whole number"),
        ("1,600,1,,1", "row 2: priority is '': give a number"),
    ],
)
def test_a_fault_of_an_optional_column_names_its_row(tmp_path: Path, row: str, says: str) -> None:
    path = written(tmp_path, HEADER.strip() + f",priority,hash_ids\n0,600,1,0,1\n{row}\n")
    with pytest.raises(Refused, match=says):
        read_trace(path)


def columns_of(trace: Trace) -> list[list[float]]:
    assert trace.priority is not None
    assert trace.hashes is not None
    rows = np.split(trace.hashes.ids, trace.hashes.offsets[1:-1])
    return [
        trace.arrival_s.tolist(), trace.input_tokens.tolist(), trace.output_tokens.tolist(),
        trace.prefix_tokens.tolist(), trace.priority.tolist(), [row.tolist() for row in rows],
    ]  # fmt: skip


def labelled(n: int) -> Trace:
    """Requests that all differ, every third without hashes."""
    hashes = Hashes.of([[i, i + 1] if i % 3 else [] for i in range(n)])
    return Trace.of(
        np.arange(n) * 0.5, 1000 + np.arange(n), np.arange(n), np.arange(n),
        priority=np.arange(n) % 3, hashes=hashes,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_a_file_in_parts_is_the_file(tmp_path: Path, rows: int) -> None:
    lines = [f"{i // 2},{600 + i},{i},{i % 3},{i} {i + 1}" for i in range(20)]
    text = "\n\n".join([HEADER.strip() + ",priority,hash_ids", *lines])
    path = written(tmp_path, text)
    parts = list(stream_trace(path, rows=rows))
    assert {len(part) for part in parts[:-1]} <= {rows}
    assert columns_of(joined(parts)) == columns_of(read_trace(path))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("9,x,1", "row 5: input_tokens is 'x': give a number"),
        ("9,0,1", "row 5: input_tokens is 0: give at least 1 token"),
        ("2,1,1", "row 5: arrival_s is 2.0: sort the rows"),
        ("9,1", "row 5: ends before its output_tokens"),
    ],
)
@pytest.mark.parametrize("rows", [1, 2, 4, 9])
def test_a_fault_in_a_later_part_names_the_file_s_row(
    tmp_path: Path, row: str, says: str, rows: int
) -> None:
    path = written(tmp_path, HEADER + "".join(f"{i},1,1\n" for i in range(4)) + row + "\n")
    with pytest.raises(Refused, match=says):
        list(stream_trace(path, rows=rows))


@given(st.integers(0, 20), st.integers(1, 5))
def test_ranks_share_all_requests_in_turn(n: int, of: int) -> None:
    whole = labelled(n)
    for rank in range(of):
        part = whole.rank(rank, of)
        assert part.output_tokens.tolist() == list(range(n))[rank::of]
        assert part.hashes is not None
        assert part.hashes.counts.tolist() == [0 if i % 3 == 0 else 2 for i in range(n)[rank::of]]
    with pytest.raises(Refused, match="there is no rank"):
        whole.rank(of, of)


@given(st.integers(1, 20), st.data())
def test_rows_and_joining_are_inverse(n: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, n))
    whole = labelled(n)
    assert columns_of(joined([whole.rows(slice(cut)), whole.rows(slice(cut, None))])) == (
        columns_of(whole)
    )


arrivals = st.lists(st.floats(0, 1e6), min_size=1, max_size=30).map(sorted)


@given(arrivals, st.floats(0, 1e6), st.floats(0.01, 100))
def test_cutting_and_compressing_commute(times: list[float], end_s: float, factor: float) -> None:
    ones = [1] * len(times)
    trace = Trace.of(times, ones, ones)
    cut = trace.until(end_s)
    assert all(cut.arrival_s < end_s)
    assert len(cut) == sum(t < end_s for t in times)
    assert np.array_equal(cut.compressed(factor).arrival_s, trace.arrival_s[: len(cut)] / factor)


@given(
    st.floats(0.1, 50),
    st.floats(0.1, 30),
    st.sampled_from([0.3, 1.0, 3.0]),
    st.integers(0, 2**32),
)
def test_drawn_arrivals_ascend_within_the_duration(
    rate_rps: float, duration_s: float, cv: float, seed: int
) -> None:
    lengths = Lengths.fixed(5, 6)
    rng = np.random.default_rng(seed)
    drawn = (
        poisson(rate_rps, duration_s, lengths, rng),
        gamma_renewal(rate_rps, duration_s, lengths, rng, cv=cv),
    )
    for trace in drawn:
        assert trace.duration_s <= duration_s
        assert set(trace.input_tokens) <= {5}
        assert set(trace.output_tokens) <= {6}


@pytest.mark.parametrize("cv", [0.5, 1.0, 4.0])
def test_a_renewal_process_keeps_rate_and_burstiness(cv: float) -> None:
    rng = np.random.default_rng(7)
    trace = gamma_renewal(50, 2000, Lengths.fixed(1, 1), rng, cv=cv)
    gaps_s = np.diff(trace.arrival_s)
    assert len(trace) == pytest.approx(100_000, rel=0.03)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.05)


def test_a_bursty_process_does_not_begin_with_a_burst() -> None:
    counts = [
        len(gamma_renewal(2, 10, Lengths.fixed(1, 1), np.random.default_rng(seed), cv=4))
        for seed in range(800)
    ]
    assert np.mean(counts) == pytest.approx(20, abs=3)  # 27.5 had it started at 0 s


def test_lengths_are_drawn_in_pairs() -> None:
    lengths = Lengths(np.array([1, 100]), np.array([2, 200]))
    trace = poisson(100, 10, lengths, np.random.default_rng(0))
    assert set(zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)) == {
        (1, 2),
        (100, 200),
    }


def test_lengths_of_a_trace_are_its_pairs() -> None:
    assert Lengths.of(small()).input_tokens.tolist() == [10, 20, 30, 40]


def test_the_same_seed_draws_the_same_trace() -> None:
    one, two = (
        gamma_renewal(5, 20, Lengths.fixed(1, 1), np.random.default_rng(3), cv=2) for _ in range(2)
    )
    assert np.array_equal(one.arrival_s, two.arrival_s)


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        (([], []), "no lengths"),
        (([1, 2], [1]), "as many"),
        (([0], [1]), "at least 1 input token"),
    ],
)
def test_refuses_lengths_that_cannot_be_drawn(
    lengths: tuple[list[int], list[int]], says: str
) -> None:
    with pytest.raises(Refused, match=says):
        Lengths(*(np.array(side, dtype=np.int64) for side in lengths))


@pytest.mark.parametrize(("rate_rps", "duration_s"), [(0, 1), (1, 0), (float("nan"), 1)])
def test_refuses_a_process_without_rate_or_time(rate_rps: float, duration_s: float) -> None:
    with pytest.raises(Refused, match="must be a positive number"):
        poisson(rate_rps, duration_s, Lengths.fixed(1, 1), np.random.default_rng(0))
