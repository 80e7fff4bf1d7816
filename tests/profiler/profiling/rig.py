"""An emulated engine whose constants are known, and sessions that profile it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from controller.cli.profile.engine_metrics import EngineMetrics
from profiler.calibrate import predict_s
from profiler.emulator import RealClock
from profiler.estimate import Estimate, scaled
from profiler.measure import Target, open_session
from profiler.measure.profiling import (
    Bounds,
    Driver,
    Finding,
    Journal,
    Progress,
    ReadPhases,
    Session,
    candidates,
)
from profiler.measure.profiling.points import expected
from profiler.profile import resolve_profile
from profiler.step_cost import StepCost
from tests.profiler.emulator.emulated import Emulated, emulated, some_limits

SPEED = 10.0
PRIOR = resolve_profile("meta-llama/Llama-3.1-8B-Instruct", "L4").estimate
BOUNDS = Bounds(max_model_len=2048, capacity_tokens=1024 * 16, max_num_seqs=16)


def true_cost(seed: int = 1) -> StepCost:
    """The prior's card, as far from its data sheet as cards are."""
    errors = np.random.default_rng(seed).normal(size=9) * PRIOR.uncertainty.array()
    return scaled(PRIOR.cost, 0.7 * errors)


@dataclass
class Rig:
    """One emulated engine and what is needed to profile it."""

    engine: Emulated
    driver: Driver
    metrics: EngineMetrics
    seen: list[Progress] = field(default_factory=list)

    def session(self, journal: Path, **changes: Any) -> Session:
        """A session of few points; `changes` are its fields."""
        fields: dict[str, Any] = {
            "driver": self.driver,
            "journal": Journal(journal, "key"),
            "prior": PRIOR,
            "architecture": None,
            "budget_s": 1e6,
            "on_progress": self.seen.append,
            "most_points": 12,
        }
        return Session(**{**fields, **changes})


@asynccontextmanager
async def rig(
    cost: StepCost, read_phases: ReadPhases | None = None, **driver: Any
) -> AsyncIterator[Rig]:
    """Serve the engine `SPEED` times as fast as it says; the driver's clock runs with it."""
    limits = some_limits(max_num_seqs=16, max_num_batched_tokens=2048, num_blocks=1024)
    async with (
        emulated(
            cost=cost, limits=limits, clock=RealClock(SPEED), max_model_len=2048, faults=True
        ) as engine,
        open_session() as http,
    ):
        url = str(engine.session._base_url).rstrip("/")
        metrics = EngineMetrics(http, f"{url}/metrics")
        loop = asyncio.get_running_loop()
        fields: dict[str, Any] = {
            "session": http,
            "target": Target(url, "org/tiny"),
            "now_s": lambda: loop.time() * SPEED,
            "read_phases": read_phases or metrics.phases,
            "bounds": BOUNDS,
            "window_tokens": cost.window_tokens,
        }
        yield Rig(engine, Driver(**{**fields, **driver}), metrics)


def step_errors(found: StepCost, true: StepCost) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Relative errors of the steps of every point there is, most of them not measured."""
    errors = []
    for point in candidates(BOUNDS):
        steps = replace(expected(point, true.window_tokens), requests=0.0)
        errors.append(predict_s(found, steps) / predict_s(true, steps) - 1.0)
    return np.array([abs(error) for error in errors])


def estimate_of(finding: Finding) -> Estimate:
    return finding.calibration.estimate


def raising(session: Session, after: int, error: BaseException) -> Callable[[Progress], None]:
    """A progress callback that raises once so many points are done: a kill."""
    before = session.on_progress

    def tell(step: Progress) -> None:
        before(step)
        if step.done >= after:
            raise error

    return tell
