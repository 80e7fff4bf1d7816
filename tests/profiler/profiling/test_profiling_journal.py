"""The journal: what is finished is kept, what was cut is dropped and said."""

from pathlib import Path

import pytest

from profiler.errors import Refused
from profiler.measure.profiling import Decode, Journal, Measured, Mixed, Prefill, fingerprint
from profiler.measure.profiling.points import expected

POINTS = (Prefill(64, 128), Decode(8, 256), Mixed(4, 128, 64))
ALL = tuple(Measured(p, (expected(p, 1 << 40),)) for p in POINTS)


def written(path: Path, key: str = "k") -> Journal:
    journal = Journal(path, key)
    for measured in ALL:
        journal.append(measured)
    return journal


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    assert written(tmp_path / "j").read() == (ALL, ())


def test_no_file_is_no_points(tmp_path: Path) -> None:
    assert Journal(tmp_path / "none", "k").read() == ((), ())


def test_a_cut_last_line_is_dropped_with_a_note(tmp_path: Path) -> None:
    journal = written(tmp_path / "j")
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-40])
    found, notes = journal.read()
    assert found == ALL[:2]
    assert notes == ("j: 1 damaged line(s) dropped",)


def test_a_point_after_a_cut_line_stands_on_its_own(tmp_path: Path) -> None:
    journal = written(tmp_path / "j")
    journal.path.write_bytes(journal.path.read_bytes()[:-40])
    journal.append(ALL[2])
    found, notes = journal.read()
    assert found == ALL
    assert len(notes) == 1


def test_points_of_another_engine_are_not_taken(tmp_path: Path) -> None:
    written(tmp_path / "j", "other")
    assert Journal(tmp_path / "j", "k").read() == ((), ())


def test_the_last_measurement_of_a_point_counts(tmp_path: Path) -> None:
    journal = written(tmp_path / "j")
    again = Measured(POINTS[0], (expected(Prefill(32), 1 << 40),))
    journal.append(again)
    found, _ = journal.read()
    assert found[0] == again
    assert len(found) == 3


@pytest.mark.parametrize(
    "line", [b"[]", b"{}", b'{"key": "k"}', b'{"key": "k", "kind": "x"}', b"\xff"]
)
def test_garbage_is_dropped(tmp_path: Path, line: bytes) -> None:
    journal = written(tmp_path / "j")
    journal.path.write_bytes(line + b"\n" + journal.path.read_bytes())
    found, notes = journal.read()
    assert found == ALL
    assert len(notes) == 1


def test_a_journal_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be written"):
        Journal(tmp_path / "no" / "j", "k").append(ALL[0])
    with pytest.raises(Refused, match="cannot be read"):
        Journal(tmp_path, "k").read()


def test_the_key_follows_every_fact() -> None:
    facts = {"version": "0.32.0", "model": "m", "bounds": 1}
    assert fingerprint(facts) == fingerprint(dict(reversed(facts.items())))
    assert fingerprint(facts) != fingerprint({**facts, "version": "0.33.0"})
