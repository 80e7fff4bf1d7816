"""Drift found when it is there, not when it is not, and never from incidents."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from profiler.configuration import Configuration
from profiler.engine import Engine
from profiler.measure.profiling import Total
from profiler.profile import Source, resolve_profile
from profiler.recalibrate import (
    MOST_STEP,
    Left,
    Window,
    corrected,
    expected,
    judge,
    recalibrate,
)

PROFILE = resolve_profile("meta-llama/Llama-3.1-8B-Instruct", "L4")
LIMITS = PROFILE.limits(
    Configuration(max_model_len=4096, max_num_seqs=32, max_num_batched_tokens=2048)
)
WINDOW_S = 60.0


@dataclass
class _Counted:
    """What the engine's histograms gain in one window."""

    ttft: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    generated: int = 0
    running: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    usage: list[float] = field(default_factory=list)

    def window(self) -> Window:
        return Window(
            duration_s=WINDOW_S,
            ttft=Total(sum(self.ttft), len(self.ttft)),
            itl=Total(sum(self.gaps), len(self.gaps)),
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generated,
            running=float(np.mean(self.running)) if self.running else 0.0,
            waiting=float(np.mean(self.waiting)) if self.waiting else 0.0,
            kv_usage_ratio=float(np.mean(self.usage)) if self.usage else 0.0,
        )


def production(
    windows: int, rate_rps: float, factor: Callable[[int], float] = lambda _: 1.0, seed: int = 0
) -> list[Window]:
    """Step the twin's engine through Poisson arrivals; steps of window i take factor(i)."""
    rng = np.random.default_rng(seed)
    engine = Engine(PROFILE.cost, LIMITS)
    arrivals = np.cumsum(rng.exponential(1 / rate_rps, int(2 * rate_rps * windows * WINDOW_S)))
    prompts = rng.integers(50, 900, arrivals.size)
    answers = rng.integers(20, 200, arrivals.size)
    counted = [_Counted() for _ in range(windows)]
    now_s, cursor = 0.0, 0
    last_s: dict[int, float] = {}
    request_s = PROFILE.cost.request_s
    while now_s < windows * WINDOW_S:
        while cursor < arrivals.size and arrivals[cursor] + request_s <= now_s:
            visible_s = float(arrivals[cursor] + request_s)
            engine.enqueue(cursor, visible_s, int(prompts[cursor]), int(answers[cursor]))
            cursor += 1
        if engine.begin(now_s, factor(int(now_s // WINDOW_S))) is None:
            now_s = float(arrivals[cursor] + request_s)
            continue
        now_s = engine.next_end_s or now_s
        place = int(now_s // WINDOW_S)
        emissions = engine.end(now_s)
        if place >= windows:
            break
        c = counted[place]
        for e in emissions:
            c.generated += 1
            if e.generated == 1:
                c.ttft.append(now_s - float(arrivals[e.request]))
                c.prompt_tokens += int(prompts[e.request])
            else:
                c.gaps.append(now_s - last_s[e.request])
            last_s[e.request] = now_s
        c.running.append(engine.running)
        c.waiting.append(engine.waiting)
        c.usage.append(engine.kv_usage_ratio)
    return [c.window() for c in counted]


@pytest.mark.parametrize("rate_rps", [0.3, 0.8, 1.3])
def test_closed_forms_meet_the_engine_they_describe(rate_rps: float) -> None:
    seen = production(12, rate_rps, seed=3)
    made = [expected(PROFILE.cost, LIMITS, w) for w in seen]
    itl = [w.itl.mean / e.itl_s for w, e in zip(seen, made, strict=True) if w.itl and e]
    ttft = [w.ttft.mean / e.ttft_s for w, e in zip(seen, made, strict=True) if w.ttft and e]
    assert np.median(itl) == pytest.approx(1.0, abs=0.05)
    assert np.median(ttft) == pytest.approx(1.0, abs=0.12)


def test_an_engine_as_predicted_shows_no_drift() -> None:
    found = recalibrate(PROFILE, LIMITS, production(40, 0.8, seed=5))
    assert not found.decode.found
    assert not found.prefill.found
    assert found.profile is PROFILE


@pytest.mark.parametrize("change_at", [0, 10])
def test_an_engine_15_percent_slower_is_found_within_12_windows(change_at: int) -> None:
    seen = production(change_at + 12, 0.8, lambda i: 1.15 if i >= change_at else 1.0, seed=7)
    found = recalibrate(PROFILE, LIMITS, seen)
    assert found.decode.found
    assert found.decode.ratio == pytest.approx(1.15, abs=0.04)
    assert found.decode.since is not None
    assert abs(found.decode.since - change_at) <= 3


def test_a_correction_is_bounded_and_says_where_it_comes_from() -> None:
    seen = production(20, 0.5, lambda _: 1.4, seed=9)
    found = recalibrate(PROFILE, LIMITS, seen)
    ratio = found.profile.cost.kv_token_s / PROFILE.cost.kv_token_s
    assert ratio == pytest.approx(math.exp(MOST_STEP))
    assert found.profile.source is Source.MEASURED
    assert "recalibrated" in found.profile.provenance.notes[-1]


def test_repeated_corrections_reach_the_engine() -> None:
    profile = PROFILE
    for seed in range(4):
        seen = production(20, 0.6, lambda _: 1.25, seed=20 + seed)
        profile = recalibrate(profile, LIMITS, seen).profile
    made = [expected(profile.cost, LIMITS, w) for w in seen]
    itl = [w.itl.mean / e.itl_s for w, e in zip(seen, made, strict=True) if w.itl and e]
    assert np.median(itl) == pytest.approx(1.0, abs=0.06)


def poisoned(rng: np.random.Generator, level: float, count: int = 60) -> np.ndarray:
    values = level + rng.normal(0.0, 0.03, count)
    bad = rng.choice(count, count // 5, replace=False)
    values[bad] += rng.uniform(0.3, 2.0, bad.size)
    return values


def test_a_fifth_of_poisoned_windows_moves_the_estimate_by_less_than_3_percent() -> None:
    for seed in range(30):
        drift = judge(poisoned(np.random.default_rng(seed), math.log(1.15)), [None] * 60)
        assert drift.ratio == pytest.approx(1.15, rel=0.03), seed
        assert drift.found, seed


def test_poison_alone_is_no_drift() -> None:
    alarms = [
        judge(poisoned(np.random.default_rng(seed), 0.0), [None] * 60).found for seed in range(60)
    ]
    assert sum(alarms) <= 1


def test_false_alarms_are_as_rare_as_promised() -> None:
    """At every look of a series, not only at its end."""
    alarms = 0
    for seed in range(100):
        values = np.random.default_rng(1000 + seed).normal(0.0, 0.04, 60)
        alarms += any(judge(values[:n], [None] * n).confidence >= 0.99 for n in range(5, 61, 5))
    assert alarms <= 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"restarted": True}, Left.RESTART),
        ({"errors": 3.0}, Left.ERRORS),
        ({"preemptions": 50.0}, Left.PREEMPTIONS),
        ({"waiting": 20.0}, Left.SATURATED),
        ({"ttft": None}, Left.NO_DATA),
        ({"ttft": Total(1.0, 2.0)}, Left.TOO_FEW),
    ],
)
def test_disturbed_windows_are_left_out_by_name(change: dict[str, object], reason: Left) -> None:
    seen: Sequence[Window] = production(10, 0.6, seed=11)
    broken = [replace(w, **change) if i == 4 else w for i, w in enumerate(seen)]  # type: ignore[arg-type]
    found = recalibrate(PROFILE, LIMITS, broken)
    assert (reason, 1) in found.decode.excluded


def test_incidents_of_a_fifth_of_the_time_do_not_poison_the_profile() -> None:
    seen = production(30, 0.6, lambda i: 3.0 if i % 5 == 2 else 1.0, seed=13)
    found = recalibrate(PROFILE, LIMITS, seen)
    assert found.profile is PROFILE
    assert dict(found.decode.excluded).get(Left.OUTLIER, 0) >= 4


def test_too_few_windows_say_nothing() -> None:
    found = recalibrate(PROFILE, LIMITS, production(2, 0.6))
    assert (found.decode.confidence, found.decode.ratio) == (0.0, 1.0)
    assert recalibrate(PROFILE, LIMITS, []).profile is PROFILE


def test_without_certainty_the_same_profile_comes_back() -> None:
    quiet = judge(np.zeros(20), [None] * 20)
    assert corrected(PROFILE, quiet, quiet) is PROFILE
