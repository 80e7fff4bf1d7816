"""The loop on a fake runtime, through whatever order of events hypothesis finds.

Time, load, readiness, deaths, silence and refusals come in any order; what must hold after
every tick holds after each of them.
"""

import asyncio
from dataclasses import replace
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controller.decide import Reason
from controller.kube.objects import Meta
from controller.loop import Outcome, ServiceLoop
from controller.observation import READY, Phase, Replica, ReplicaId
from controller.operator.events import decision_event
from controller.runtimes.fake import FakeRuntime
from controller.service import Bounds
from profiler.errors import Refused, RetryLater
from tests.controller.builders import a_reading, a_service

STANDBYS = 1
ERRORS = (
    RetryLater("the API server is busy"),
    Refused("the quota is used up"),
    aiohttp.ClientConnectionError("reset"),
    TimeoutError(),
)
NO_HTTP = cast("aiohttp.ClientSession", None)
"""Readings are fed; nothing is scraped."""


class LoopMachine(RuleBasedStateMachine):
    """One service of one to four replicas."""

    def __init__(self) -> None:
        super().__init__()
        self.events = asyncio.new_event_loop()
        self.runtime = FakeRuntime()
        self.service = a_service(bounds=Bounds(1, 4), standbys=STANDBYS)
        self.loop = ServiceLoop(self.service, self.runtime, NO_HTTP, lambda: self.runtime.now_s)
        self.rate_rps = 0.0
        self.silent = False
        self.finished: dict[ReplicaId, float] = {}
        self.outcome: Outcome | None = None

    def teardown(self) -> None:
        self.events.close()

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return self.runtime.replicas(self.service.id)

    def having(self, *phases: Phase) -> list[Replica]:
        return [replica for replica in self.replicas if replica.phase in phases]

    @initialize()
    def begins_with_nothing(self) -> None:
        self.tick(1.0)

    @rule(times=st.integers(1, 40), step_s=st.sampled_from((0.3, 1.0, 7.0)))
    def time_passes(self, times: int, step_s: float) -> None:
        for _ in range(times):
            self.tick(step_s)

    @rule(rate_rps=st.floats(0.0, 30.0))
    def the_load_changes(self, rate_rps: float) -> None:
        self.rate_rps = rate_rps

    @rule()
    def those_that_start_get_ready(self) -> None:
        self.runtime.make_ready(self.service.id)

    @rule()
    def those_that_drain_are_done(self) -> None:
        self.runtime.finish(self.service.id)

    @precondition(lambda self: self.having(Phase.STARTING, *READY))
    @rule(data=st.data())
    def one_dies(self, data: Any) -> None:
        dead = data.draw(st.sampled_from(self.having(Phase.STARTING, *READY)))
        self.runtime.fail(self.service.id, dead.id)

    @rule(silent=st.booleans())
    def readings_stop_or_come_back(self, silent: bool) -> None:
        self.silent = silent

    @rule(error=st.sampled_from(ERRORS))
    def the_runtime_refuses_once(self, error: Exception) -> None:
        self.runtime.next_error = error

    def tick(self, step_s: float) -> None:
        self.runtime.now_s += step_s
        self.read(step_s)
        before = self.replicas
        wanted = self.loop.state.serving
        self.outcome = self.events.run_until_complete(self.loop.tick())
        self.check(self.outcome, before, wanted)

    def read(self, step_s: float) -> None:
        if self.silent:
            return
        serving = self.having(Phase.SERVING)
        for replica in self.having(*READY, Phase.DRAINING):
            share = self.rate_rps / len(serving) if replica in serving else 0.0
            self.finished[replica.id] = self.finished.get(replica.id, 0.0) + share * step_s
        now_s = self.runtime.now_s
        readings = {
            replica.id: a_reading(
                now_s,
                requests_finished={"stop": self.finished[replica.id]},
                generation_tokens_total=self.finished[replica.id],
            )
            for replica in self.having(*READY, Phase.DRAINING)
        }
        self.loop.observer.read(readings, now_s)

    def check(self, outcome: Outcome, before: tuple[Replica, ...], wanted: int) -> None:
        """What holds after a tick, given what was there before it."""
        decision = outcome.decision
        if Reason.NO_DATA in decision.reasons:
            assert decision.serving >= wanted
        if outcome.fault is not None:
            return
        gone = {replica.id for replica in before if replica.phase is Phase.FAILED}
        assert not gone & {replica.id for replica in self.replicas}
        able = [replica for replica in before if replica.phase in READY]
        assert len(self.having(Phase.SERVING)) == min(decision.serving, len(able))
        if Reason.BACKING_OFF not in decision.reasons:
            assert len(self.alive()) == decision.serving + STANDBYS

    def alive(self) -> list[Replica]:
        return self.having(Phase.PENDING, Phase.STARTING, *READY)

    @invariant()
    def never_more_than_the_maximum_and_its_standbys(self) -> None:
        assert len(self.alive()) <= self.service.bounds.high + STANDBYS

    @invariant()
    def the_decision_is_within_bounds_and_says_why(self) -> None:
        if self.outcome is not None:
            assert 1 <= self.outcome.decision.serving <= 4
            assert self.outcome.decision.message


LoopMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True
)
TestLoop = LoopMachine.TestCase


class Loop:
    """A loop driven by hand, for what must happen in a given order."""

    def __init__(self, **changes: Any) -> None:
        self.runtime = FakeRuntime()
        self.service = a_service(**changes)
        self.loop = ServiceLoop(self.service, self.runtime, NO_HTTP, lambda: self.runtime.now_s)

    def verbs(self) -> list[str]:
        """What was asked of the runtime since last asked."""
        called = [verb for verb, _ in self.runtime.calls]
        self.runtime.calls.clear()
        return called

    async def running(self, serving: int = 1) -> None:
        """Bring it up: `serving` and the standbys."""
        await self.loop.tick()
        self.runtime.make_ready(self.service.id)
        await self.loop.tick()
        phases = [replica.phase for replica in self.runtime.replicas(self.service.id)]
        assert phases.count(Phase.SERVING) == serving
        self.verbs()

    def grow_old(self) -> None:
        """Every replica there is runs a former configuration from now on."""
        replicas = self.runtime._replicas[self.service.id]
        for name, replica in replicas.items():
            replicas[name] = replace(replica, stale=True)

    def of(self, phase: Phase) -> list[ReplicaId]:
        return [r.id for r in self.runtime.replicas(self.service.id) if r.phase is phase]


async def test_a_service_comes_up_from_nothing() -> None:
    one = Loop()
    await one.loop.tick()
    assert one.runtime.calls == [("start", "2")]
    await one.loop.tick()
    assert one.verbs() == ["start"]  # those that start are not started again
    one.runtime.make_ready(one.service.id)
    outcome = await one.loop.tick()
    assert one.verbs() == ["admit"]
    assert outcome.fault is None


async def test_failover_takes_one_tick() -> None:
    one = Loop()
    await one.running()
    (standby,) = one.of(Phase.STANDBY)
    one.runtime.fail(one.service.id, one.of(Phase.SERVING)[0])
    await one.loop.tick()
    assert one.verbs() == ["admit", "remove", "start"]
    assert one.of(Phase.SERVING) == [standby]


async def test_a_refused_start_blocks_nothing_else() -> None:
    """A used-up quota must not keep what would give room from going."""
    one = Loop()
    await one.running()
    one.runtime.fail(one.service.id, one.of(Phase.STANDBY)[0])
    one.runtime.next_error = Refused("pods: quota exceeded")
    outcome = await one.loop.tick()
    assert outcome.fault == "pods: quota exceeded"
    assert one.verbs() == ["remove", "start"]


async def test_nothing_that_serves_is_given_up_when_an_admission_was_refused() -> None:
    one = Loop(standbys=0, bounds=Bounds(2, 2))
    await one.running(serving=2)
    old = one.of(Phase.SERVING)
    one.grow_old()
    await one.loop.tick()
    one.runtime.make_ready(one.service.id)
    one.verbs()
    one.runtime.next_error = Refused("labels: forbidden")
    await one.loop.tick()
    assert one.verbs() == ["admit", "admit"]
    assert set(old) <= set(one.of(Phase.SERVING))
    await one.loop.tick()
    assert one.verbs() == ["admit", "drain", "drain"]
    assert len(one.of(Phase.SERVING)) == 2


async def test_a_runtime_that_is_not_ready_ends_the_tick_and_the_next_one_mends() -> None:
    one = Loop()
    await one.running()
    one.runtime.fail(one.service.id, one.of(Phase.SERVING)[0])
    one.runtime.next_error = RetryLater("busy")
    outcome = await one.loop.tick()
    assert (outcome.fault, one.verbs()) == ("busy", ["admit"])
    outcome = await one.loop.tick()
    assert (outcome.fault, one.verbs()) == (None, ["admit", "remove", "start"])


async def test_what_failed_of_a_decision_is_logged_with_the_id_that_its_event_carries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = Loop()
    await one.running()
    one.runtime.fail(one.service.id, one.of(Phase.SERVING)[0])
    one.runtime.next_error = RetryLater("busy")
    with caplog.at_level("INFO", "controller.loop"):
        await one.loop.tick()
    made = one.loop.decisions[-1]
    assert [(r.service, r.decision) for r in caplog.records] == [  # type: ignore[attr-defined]
        (one.service.id, made.id)
    ] * 2
    event = decision_event(Meta("chat", "default", "u1"), made, "2026-11-21T00:00:00Z")
    assert event["metadata"]["annotations"] == {"serving.whaleflux.io/decision": made.id}


async def test_what_changes_is_logged_once_and_what_stays_is_not() -> None:
    one = Loop()
    await one.running()
    logged = len(one.loop.decisions)
    for _ in range(5):
        one.runtime.now_s += 1.0
        await one.loop.tick()
    assert len(one.loop.decisions) == logged


async def test_signals_that_stay_away_are_logged_once() -> None:
    one = Loop()
    await one.running()
    logged = len(one.loop.decisions)
    for _ in range(60):
        one.runtime.now_s += 1.0
        await one.loop.tick()
    assert len(one.loop.decisions) == logged + 1
    assert one.loop.decisions[-1].decision.reason is Reason.NO_DATA
