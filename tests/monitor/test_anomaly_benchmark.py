"""The measure itself: VUS-PR on cases done by hand, events and alarms counted."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.anomaly import alarms_at, main, read_set
from benchmarks.vus import events_of, soft_label, vus_pr
from tests.monitor.anomalies import calm

LABEL = np.zeros(2_000, dtype=np.bool_)
LABEL[500:540] = True
LABEL[1_200:1_260] = True


def test_a_perfect_score_is_one_without_a_buffer():
    assert vus_pr(LABEL.astype(float), LABEL, buffer=0, levels=2_000) == pytest.approx(1.0)


def test_a_score_that_follows_the_buffer_is_perfect_with_it():
    score = soft_label(LABEL, events_of(LABEL), 20)
    assert vus_pr(score, LABEL, buffer=20) > 0.95


def test_chance_scores_about_the_base_rate():
    scores = [vus_pr(np.random.default_rng(s).random(2_000), LABEL, buffer=0) for s in range(10)]
    assert np.mean(scores) == pytest.approx(LABEL.mean(), abs=0.02)


def test_a_shift_within_the_buffer_is_partly_credited():
    near, far = (np.roll(LABEL, shift).astype(float) for shift in (15, 200))
    assert vus_pr(near, LABEL, buffer=0) < vus_pr(near, LABEL, buffer=40) < 1.0
    assert vus_pr(far, LABEL, buffer=40) < 0.2


def test_a_buffered_label_falls_with_the_root_of_distance():
    label = np.zeros(12, dtype=np.bool_)
    label[5] = True
    weight = soft_label(label, events_of(label), 4)
    sides = [math.sqrt(0.5), math.sqrt(0.75)]
    assert weight.tolist() == pytest.approx([0, 0, 0, *sides, 1, *sides[::-1], 0, 0, 0, 0])


def test_one_area_by_hand():
    score = np.array([0.9, 0.1, 0.8, 0.3])
    label = np.array([True, False, False, True])
    # levels .9 .8 .3 .1: recall × existence ¼ ¼ 1 1, precision 1 ½ ⅔ ½
    assert vus_pr(score, label, buffer=0, levels=4) == pytest.approx(0.25 + 0.75 * 2 / 3)


def test_without_an_event_or_with_nan_there_is_no_figure():
    assert math.isnan(vus_pr(np.zeros(10), np.zeros(10, dtype=np.bool_)))
    with pytest.raises(ValueError, match="NaN"):
        vus_pr(np.full(10, np.nan), np.ones(10, dtype=np.bool_))


def test_events_found_false_alarms_and_delay():
    over = np.zeros(2_000, dtype=np.bool_)
    over[[510, 545, 800, 805, 900]] = True
    seen = alarms_at(over, LABEL)
    assert (seen.found, seen.events, seen.delays) == (1, 2, [10])
    assert seen.false == 3  # 545 begins 35 samples after 510; 800 and 805 are one
    assert seen.f1 == pytest.approx(2 / 6)
    assert alarms_at(np.zeros_like(over), LABEL).f1 == 0.0


def written(folder: Path) -> Path:
    rows = ["split,m00,m01,m02,label"]
    for split, seed in (("train", 1), ("test", 2)):
        samples = calm(400, seed)[:, :3]
        if split == "test":
            samples[200:230, 1] += 80.0
        for place, sample in enumerate(samples):
            label = int(split == "test" and 200 <= place < 230)
            rows.append(",".join([split, *(f"{part:.5f}" for part in sample), str(label)]))
    path = folder / "omi-0.csv"
    path.write_text("\n".join(rows))
    return path


def test_the_benchmark_reads_and_tells(tmp_path, capsys, monkeypatch):
    data = read_set(written(tmp_path))
    assert (data.train.shape, data.test.shape, data.label.sum()) == ((400, 3), (400, 3), 30)
    monkeypatch.setattr("sys.argv", ["anomaly", "--data", str(tmp_path)])
    main()
    told = capsys.readouterr().out
    assert '"ASD mean of 1", "metric": "event_f1", "value": 1.0' in told


def test_absent_data_is_one_visible_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["anomaly", "--data", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.count("\n") == 1
