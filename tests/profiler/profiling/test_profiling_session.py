"""A whole profile of an engine whose constants are known: found, resumed, refused, stopped."""

import asyncio
import json
from pathlib import Path

import pytest

from profiler.architecture import load_architecture
from profiler.errors import Refused, RetryLater
from profiler.measure import Target, open_session
from profiler.measure.profiling import (
    Decode,
    Driver,
    EngineBusy,
    EngineFailed,
    Prefill,
    no_phases,
)
from profiler.measure.profiling.drive import PointMissed
from profiler.measure.profiling.stream import Stream, follow
from tests.profiler.profiling.rig import BOUNDS, estimate_of, raising, rig, step_errors, true_cost


async def test_few_points_recover_the_steps_of_all_others(tmp_path: Path) -> None:
    true = true_cost()
    async with rig(true) as r:
        finding = await r.session(tmp_path / "j").run()
    errors = step_errors(estimate_of(finding).cost, true)
    assert finding.points <= 12
    assert errors.mean() < 0.02
    assert errors.max() < 0.05
    assert finding.calibration.held_out
    assert "measured" in estimate_of(finding).origins


async def test_an_unknown_card_is_profiled_from_its_first_measurements(tmp_path: Path) -> None:
    true = true_cost(seed=2)
    architecture = load_architecture("meta-llama/Llama-3.1-8B-Instruct")
    async with rig(true) as r:
        session = r.session(tmp_path / "j", prior=None, architecture=architecture, most_points=16)
        finding = await session.run()
    errors = step_errors(estimate_of(finding).cost, true)
    assert errors.mean() < 0.04
    assert errors.max() < 0.15
    assert any("first three points" in note for note in finding.notes)


async def test_without_metrics_the_client_s_timings_serve(tmp_path: Path) -> None:
    true = true_cost()
    async with rig(true, read_phases=no_phases) as r:
        finding = await r.session(tmp_path / "j", most_points=6).run()
    assert finding.points == 6
    assert all(m.measured_s > 0 for m in finding.calibration.residuals)


async def test_a_killed_profile_goes_on_from_its_journal(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    async with rig(true_cost()) as r:
        session = r.session(journal, most_points=6)
        session.on_progress = raising(session, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            await session.run()
        kept = [json.loads(line)["point"] for line in journal.read_text().splitlines()]
        assert len(kept) == 3
        r.seen.clear()
        finding = await r.session(journal, most_points=6).run()
    assert finding.points == 6
    assert len(journal.read_text().splitlines()) == 6
    assert "3 points from j" in finding.notes
    assert next(step.done for step in r.seen if "warm-up" not in step.now) == 3


async def test_a_finished_journal_is_fitted_without_another_point(tmp_path: Path) -> None:
    async with rig(true_cost()) as r:
        first = await r.session(tmp_path / "j", most_points=4).run()
        r.seen.clear()
        again = await r.session(tmp_path / "j", most_points=4).run()
    assert [s.now for s in r.seen if "warm-up" not in s.now] == ["fit"]
    assert step_errors(estimate_of(again).cost, estimate_of(first).cost).max() < 1e-9


async def test_a_busy_engine_is_refused_unless_shared(tmp_path: Path) -> None:
    async with rig(true_cost(), idle_polls=2) as r, open_session() as other:
        stranger = Stream([1000] * 64, 1500)
        changed = asyncio.Event()
        target: Target = r.driver.target
        task = asyncio.create_task(follow(other, target, stranger, r.driver.now_s, changed))
        await changed.wait()
        with pytest.raises(EngineBusy, match=r"busy with 1 requests .*--share"):
            await r.session(tmp_path / "j").run()
        assert not (tmp_path / "j").exists()
        r.driver.shared = True
        measured = await r.driver.measure(Prefill(64))
        assert measured.measurements
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_engine_that_fails_half_way_keeps_the_journal(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    async with rig(true_cost()) as r:
        session = r.session(journal)
        tell = session.on_progress

        def break_it(step: object) -> None:
            tell(step)  # type: ignore[arg-type]
            if len(r.seen) == 6:
                r.engine.engine.die("gone")

        session.on_progress = break_it
        with pytest.raises(EngineFailed, match=r"failed|broke off"):
            await session.run()
    assert len(journal.read_text().splitlines()) == 3


async def test_metrics_that_vanish_are_a_failure_not_an_absence(tmp_path: Path) -> None:
    async with rig(true_cost()) as r:
        await r.metrics.phases()
        async with r.engine.session.post("/faults", json={"kind": "metrics_gone"}):
            pass
        with pytest.raises(RetryLater, match="published metrics before"):
            await r.session(tmp_path / "j").run()


async def test_a_spent_budget_fits_what_there_is(tmp_path: Path) -> None:
    async with rig(true_cost()) as r:
        kept = await r.session(tmp_path / "j", most_points=4).run()
        finding = await r.session(tmp_path / "j", budget_s=1e-9).run()
    assert finding.points == kept.points == 4
    assert any("stopped at the budget" in note for note in finding.notes)


async def test_a_budget_for_no_point_is_refused(tmp_path: Path) -> None:
    async with rig(true_cost()) as r:
        with pytest.raises(Refused, match="--minutes"):
            await r.session(tmp_path / "j", budget_s=1e-9).run()


async def test_a_smaller_batch_than_said_is_found_out(tmp_path: Path) -> None:
    """The engine runs 16 at once; the bounds say 32."""
    async with rig(true_cost(), bounds=BOUNDS.with_max_num_seqs(32)) as r:
        session = r.session(tmp_path / "j")
        await session._measure(Decode(32, 64))
    assert session.driver.bounds.max_num_seqs == 16
    assert session._notes == ["max_num_seqs: the engine runs 16 at once, taken as its limit"]


async def test_a_point_that_a_slow_host_misses_is_left_out_and_three_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def missed(_: object, __: object) -> None:
        raise PointMissed("a stream ended")

    async with rig(true_cost()) as r:
        session = r.session(tmp_path / "j")
        monkeypatch.setattr(Driver, "measure", missed)
        for tokens in (100, 200, 300):
            await session._measure(Prefill(tokens))
        with pytest.raises(EngineFailed):
            await session._measure(Prefill(400))
    assert len(session._notes) == 3
