"""Profile an engine from the first look to the fitted constants, within a budget of time.

Called by `whaleflux profile`. The loop: is the engine idle → which point teaches most for
its time → drive it → write it down → fit → again. It ends when the budget is spent, when
nothing worth its time is left, or with the engine; what is in the journal is taken up again
by the next call. Clock, counters, journal and progress come in as arguments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from profiler.architecture import Architecture
from profiler.calibrate import Calibration, predict_s
from profiler.errors import Refused
from profiler.estimate import Estimate
from profiler.measure.profiling.bounds import Bounds, candidates
from profiler.measure.profiling.design import next_point, point_cost_s
from profiler.measure.profiling.drive import BatchFull, Driver, PointMissed
from profiler.measure.profiling.fit import (
    GENERIC_BEND,
    KNOWN_BEND,
    Measured,
    fit,
    fit_estimate,
    generic_prior,
    suspicious,
)
from profiler.measure.profiling.journal import Journal
from profiler.measure.profiling.points import Decode, Mixed, Point, Prefill

MOST_POINTS = 40


@dataclass(frozen=True, slots=True)
class Progress:
    """What a person sees while it runs."""

    done: int
    """Points finished, those of an earlier run included."""
    now: str
    """The point under way."""
    spent_s: float
    budget_s: float


MOST_MISSED = 3
"""Points that a slow host may miss; more, and the engine does not do as it is told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a session came to."""

    calibration: Calibration
    points: int
    notes: tuple[str, ...]
    bounds: Bounds


@dataclass(slots=True)
class Session:
    """One profile under way."""

    driver: Driver
    journal: Journal
    prior: Estimate | None
    """None: nobody knows the GPU; the first measurements make the prior."""
    architecture: Architecture | None
    budget_s: float
    on_progress: Callable[[Progress], None]
    most_points: int = MOST_POINTS
    _measured: list[Measured] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)
    _missed: set[Point] = field(default_factory=set)
    _begun_s: float = 0.0
    _estimate: Estimate | None = None

    async def run(self) -> Finding:
        """Measure and fit; raises `EngineBusy`, `EngineFailed`, `Refused`."""
        self._begun_s = self.driver.now_s()
        self._resume()
        await self.driver.until_idle()
        await self._warm_up()
        if self.prior is None:
            await self._first_points()
        while (point := self._next()) is not None:
            await self._measure(point)
        await self._again()
        return self._finding()

    def _resume(self) -> None:
        """Take up what an earlier run finished."""
        kept, notes = self.journal.read()
        self._measured = list(kept)
        self._notes = list(notes)
        if kept:
            self._notes.append(f"{len(kept)} points from {self.journal.path.name}")

    async def _warm_up(self) -> None:
        """Let connections, compilation and caches settle on small points, not kept."""
        for point in (Prefill(min(64, self.driver.bounds.longest_prompt)), Decode(1, 32)):
            self._tell(f"warm-up: {point.name}")
            await self.driver.measure(point)

    async def _first_points(self) -> None:
        """A lone decode and two lone prefills: enough to draw a prior through."""
        longest = min(self.driver.bounds.chunk_tokens, self.driver.bounds.longest_prompt)
        first: list[Point] = [Decode(1, 32), Prefill(min(64, longest // 2)), Prefill(longest)]
        known = {m.point for m in self._measured}
        for point in first:
            if point not in known:
                await self._measure(point)
        kept = [m for m in self._measured if m.point in first]
        self.prior = generic_prior(kept, self.architecture)
        self._notes.append("prior: drawn through the first three points, with wide errors")

    def _next(self) -> Point | None:
        """The next point by design; None when it is time to stop."""
        prior = self._known_prior
        left_s = self.budget_s - self._spent_s
        if left_s <= 0:
            self._notes.append(f"stopped at the budget of {self.budget_s / 60:g} min")
            return None
        if len(self._measured) >= self.most_points:
            return None
        estimate = fit_estimate(prior, self._measured, self._bend) if self._measured else prior
        # sensitivities by what is known now, errors by what was known before
        known = replace(estimate, uncertainty=prior.uncertainty)
        measured = {m.point for m in self._measured} | self._missed
        points = [p for p in candidates(self.driver.bounds) if not _batch_of(p, self._full)]
        choice = next_point(known, self._bend, points, measured, float("inf"))
        if choice is not None and choice.cost_s > left_s:
            choice = next_point(known, self._bend, points, measured, left_s)
            if choice is None:
                self._notes.append(f"stopped at the budget of {self.budget_s / 60:g} min")
        return None if choice is None else choice.point

    async def _measure(self, point: Point) -> None:
        self._tell(point.name)
        try:
            measured = await self.driver.measure(point)
        except BatchFull as full:
            found = max(full.running, 1)
            self._notes.append(f"max_num_seqs: the engine runs {found} at once, taken as its limit")
            self.driver.bounds = self.driver.bounds.with_max_num_seqs(found)
            return
        except PointMissed:
            self._missed.add(point)
            if len(self._missed) > MOST_MISSED:
                raise
            self._notes.append(f"{point.name}: its batch ended too early, left out")
            return
        self.journal.append(measured)
        self._measured.append(measured)

    async def _again(self) -> None:
        """Measure once more what no fit of all others explains, as long as there is time.

        Of the two the faster is kept: a busy host only ever adds to a duration.
        """
        suspects = suspicious(self._known_prior, self._measured, self._bend)
        for before in suspects:
            cost_s = point_cost_s(self._known_prior.cost, before.point)
            if self._spent_s + cost_s > self.budget_s:
                return
            self._tell(f"again {before.point.name}")
            after = await self.driver.measure(before.point)
            if self._slowness(after) < self._slowness(before):
                self._measured[self._measured.index(before)] = after
                self.journal.append(after)
                self._notes.append(f"{before.point.name}: slower at first, measured again")

    def _slowness(self, measured: Measured) -> float:
        """Measured over the prior's prediction: batches differ in how many steps they took."""
        first = measured.measurements[0]
        return first.seconds / max(predict_s(self._known_prior.cost, first), 1e-12)

    @property
    def _full(self) -> int:
        return self.driver.bounds.max_num_seqs

    @property
    def _bend(self) -> float:
        return GENERIC_BEND if self._generic else KNOWN_BEND

    @property
    def _generic(self) -> bool:
        return self.prior is not None and "first measurements" in self.prior.origins

    @property
    def _known_prior(self) -> Estimate:
        if self.prior is None:
            raise Refused("no prior yet")
        return self.prior

    @property
    def _spent_s(self) -> float:
        return self.driver.now_s() - self._begun_s

    def _tell(self, now: str) -> None:
        self.on_progress(Progress(len(self._measured), now, self._spent_s, self.budget_s))

    def _finding(self) -> Finding:
        if not self._measured:
            raise Refused("--minutes: no point fits into the budget; give more time")
        self._tell("fit")
        calibration = fit(self._known_prior, self._measured, self._bend)
        notes = (*self._notes, *_missing(self._measured))
        return Finding(calibration, len(self._measured), notes, self.driver.bounds)


def _batch_of(point: Point, limit: int) -> bool:
    """Whether a point needs more sequences at once than the engine runs."""
    return not isinstance(point, Prefill) and point.sequences + isinstance(point, Mixed) > limit


def _missing(measured: Sequence[Measured]) -> tuple[str, ...]:
    """Notes on kinds of points that no measurement stands behind."""
    notes = []
    if not any(isinstance(m.point, Mixed) for m in measured):
        notes.append("mixed steps: not measured; the prior's surcharge is kept")
    if not any(isinstance(m.point, Prefill) and m.point.cached for m in measured):
        notes.append("prefill after a cached prefix: not measured")
    return tuple(notes)
