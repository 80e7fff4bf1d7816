"""The loop of one service: observe → detect → decide → act, at every tick and every change.

It alone reads the clock it was given. What an action cannot do now it does at the next tick:
decisions are made anew from what is there, never from what was meant.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from controller.decide import (
    Action,
    Admit,
    Decision,
    Drain,
    Reason,
    Remove,
    Start,
    State,
    Withdraw,
    decide,
    needed,
)
from controller.held import Held
from controller.observation import READY, Observation, Phase, ReplicaId
from controller.observe import Observer
from controller.pools import Pools
from controller.runtimes.protocol import Runtime
from controller.service import Service
from monitor.detectors.reading import GpuReading
from monitor.sources.canary import probe
from monitor.sources.scrape import scrape_all
from profiler.errors import RetryLater, WhaleFluxError

TICK_S = 1.0
SCRAPE_TIMEOUT_S = 2.0
LONGEST_PAUSE_S = 15.0
"""Between ticks while the runtime keeps refusing."""
PROBES_AT_ONCE = 8
DECISIONS_KEPT = 50
BLIND_AFTER_S = 10.0
"""A replica just admitted has no second reading yet; that is no news."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Logged:
    """A decision that changed something, and when."""

    at_s: float
    decision: Decision
    id: str
    """By which log lines and the event of one decision are found together."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One tick: what was seen, what was decided, what could not be done."""

    at_s: float
    seen: Observation
    decision: Decision
    fault: str | None = None


Publish = Callable[[Outcome], None]


def publish_to_nobody(outcome: Outcome) -> None:
    """Publish to nobody."""


Gpus = Callable[[ReplicaId], tuple[GpuReading, ...]]
"""The health of a replica's GPUs."""


def no_gpus(replica: ReplicaId) -> tuple[GpuReading, ...]:
    """Nobody tells of GPUs."""
    return ()


class ServiceLoop:
    """Runs one service on a runtime."""

    def __init__(
        self,
        service: Service,
        runtime: Runtime,
        http: aiohttp.ClientSession,
        now_s: Callable[[], float],
        publish: Publish = publish_to_nobody,
        state: State | None = None,
    ) -> None:
        self.observer = Observer(service)
        self.state = state or State()
        self.decisions: deque[Logged] = deque(maxlen=DECISIONS_KEPT)
        self.outcome: Outcome | None = None
        self._runtime = runtime
        self._http = http
        self._held = Held(http)
        self.gpus: Gpus = no_gpus
        self.pools = Pools()
        self.pace: Callable[[], float] = lambda: TICK_S
        """How often it looks, s: fewer looks where there is a lot to see."""
        self._now_s = now_s
        self._publish = publish
        self._informed_s = now_s()
        self._told_blind = False
        self._probes: dict[ReplicaId, asyncio.Task[None]] = {}

    @property
    def service(self) -> Service:
        """The service it runs."""
        return self.observer.service

    async def run(self) -> None:
        """Tick until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._scrape_forever())
                group.create_task(self._tick_forever())
        finally:
            for task in self._probes.values():
                task.cancel()

    async def _scrape_forever(self) -> None:
        while True:
            await self.scrape()
            period_s = self._period_s()
            self.observer.every(period_s)
            await asyncio.sleep(period_s)

    def _period_s(self) -> float:
        """Between looks; where there is nothing to read, who waits at the router matters."""
        return self.pace() if self._runtime.replicas(self.service.id) else TICK_S

    async def _tick_forever(self) -> None:
        pause_s = TICK_S
        while True:
            outcome = await self.tick()
            if outcome.fault is None:
                pause_s = TICK_S
                # not wait_for: it can swallow a cancellation when its future is done already
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._period_s()):
                        await self._runtime.changed(self.service.id)
            else:  # what the runtime refused now it will refuse in a moment, too
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def scrape(self) -> None:
        """Read every replica that can answer."""
        urls = {
            f"{replica.url}/metrics": replica.id
            for replica in self._runtime.replicas(self.service.id)
            if replica.url is not None and replica.phase in (*READY, Phase.DRAINING)
        }
        readings = await scrape_all(self._http, urls, now_s=self._now_s, timeout_s=SCRAPE_TIMEOUT_S)
        by_replica = {urls[url]: reading for url, reading in readings.items()}
        self.observer.read(by_replica, self._now_s())
        if self.service.bounds.zero_after_s is not None:
            self.observer.held_at_router(await self._held.read(self._runtime, self.service.id))

    def _probe(self) -> None:
        """Ask those for a token that the detector wants asked, one probe each at a time."""
        self._probes = {name: task for name, task in self._probes.items() if not task.done()}
        urls = {replica.id: replica.url for replica in self._runtime.replicas(self.service.id)}
        for name in self.observer.wants_canary:
            url = urls.get(name)
            if url is not None and name not in self._probes and len(self._probes) < PROBES_AT_ONCE:
                self._probes[name] = asyncio.create_task(self._probe_one(name, url))

    async def _probe_one(self, replica: ReplicaId, url: str) -> None:
        self.observer.probing(replica, self._now_s())
        canary = await probe(self._http, url, self.service.served_name, now_s=self._now_s)
        self.observer.probed(replica, canary, self._now_s())

    async def tick(self) -> Outcome:
        """Decide once and act on it."""
        now_s = self._now_s()
        replicas = self._runtime.replicas(self.service.id)
        self.observer.see_gpus({replica.id: self.gpus(replica.id) for replica in replicas})
        seen = self.observer.observe(replicas, now_s)
        self._probe()
        before = self.state
        decision, self.state = decide(seen, before, now_s)
        for _ in self.service.kinds:
            wanted = needed(decision, self.state)
            limited = self.pools.limited(seen, decision, wanted, now_s)
            if limited is None:
                break
            seen = limited
            decision, self.state = decide(seen, before, now_s)
        decision_id = secrets.token_hex(4)
        fault = await self._act(decision, decision_id)
        self._remember(before, Logged(now_s, decision, decision_id))
        self.outcome = Outcome(now_s, seen, decision, fault)
        self._publish(self.outcome)
        return self.outcome

    async def _act(self, decision: Decision, decision_id: str) -> str | None:
        """Carry the actions out in order; the first fault, None without any.

        Where the world is not ready the rest waits for the next tick. What is refused (a
        quota, say) leaves the rest to be done, lest it block what would make room; but once
        an admission failed nothing that serves is given up.
        """
        fault, short = None, False
        for action in decision.actions:
            if short and isinstance(action, Drain | Withdraw):
                continue
            try:
                await self._carry_out(action)
            except (WhaleFluxError, aiohttp.ClientError, OSError) as error:
                about = {"service": self.service.id, "decision": decision_id}
                log.warning("service %s: %s", self.service.id, error, extra=about)
                fault = fault or str(error) or repr(error)
                if not isinstance(error, WhaleFluxError) or isinstance(error, RetryLater):
                    break
                short = short or isinstance(action, Admit)
        return fault

    async def _carry_out(self, action: Action) -> None:
        match action:
            case Start(count, gpu, avoid):
                await self._runtime.start(self.service.on(gpu), count, avoid)
            case Admit(replica):
                await self._runtime.admit(self.service, replica)
            case Withdraw(replica):
                await self._runtime.withdraw(self.service, replica)
            case Drain(replica):
                await self._runtime.drain(self.service, replica)
            case Remove(replica):
                await self._runtime.remove(self.service, replica)

    def _remember(self, before: State, made: Logged) -> None:
        """Log what changed: the count, the actions, or that signals stay away."""
        decision, now_s = made.decision, made.at_s
        if Reason.NO_DATA not in decision.reasons:
            self._informed_s, self._told_blind = now_s, False
        newly_blind = now_s - self._informed_s > BLIND_AFTER_S and not self._told_blind
        self._told_blind = self._told_blind or newly_blind
        if decision.serving == before.serving and not decision.actions and not newly_blind:
            return
        self.decisions.append(made)
        log.info(
            "service %s: %s",
            self.service.id,
            decision.message,
            extra={
                "service": self.service.id,
                "decision": made.id,
                "reasons": [str(reason) for reason in decision.reasons],
                "serving": decision.serving,
                "actions": [repr(action) for action in decision.actions],
            },
        )
