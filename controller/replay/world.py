"""One service's fleet in simulated time: replicas, their router, their lives, their scrapes.

Moments that matter stand on an agenda; `run.py` takes them off in order and tells the world
to route what came before. A world knows nothing of policies: it is told how many replicas
there should be. Several may share a pool, each with an agenda of its own: `next_turn` says whose
turn it is, and the `Ground` where a replica stands, if there is room for it.
"""

import heapq
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.replay.ground import Ground, Nodes, Spot
from controller.replay.ledger import Fate, Ledger
from controller.replay.policy import Fleet
from controller.replay.replica import Phase, Replica
from controller.replay.router import Router
from controller.replay.scrapes import Scraper
from controller.replay.served import Served
from controller.replay.terms import Routing, SlowReplica, Terms
from profiler.trace import Trace

Ints = NDArray[np.int64]


class Turn(IntEnum):
    """Who comes first of what happens at one moment; requests of that moment come last."""

    LIFE = 0
    """The service appears or vanishes."""
    FAULT = 1
    READY = 2
    LOOK = 3
    SCRAPE = 4
    TICK = 5
    SHARE = 6
    """Of a pool: what all have asked for is granted."""


class Moment(NamedTuple):
    """What happens when."""

    at_s: float
    turn: Turn
    sequence: int
    """In order of having been planned."""
    act: Callable[[float], None]


class Queued(NamedTuple):
    """How many requests waited, in engines and at the gateway, at one moment."""

    at_s: float
    requests: int


class World:
    """A fleet that serves one trace."""

    def __init__(
        self, trace: Trace, served: Served, terms: Terms, ground: Ground | None = None
    ) -> None:
        self.ledger = Ledger(trace)
        self.replicas: list[Replica] = []
        """All but those that are gone, in order of asking."""
        self.gone: list[Replica] = []
        self.unplaced: list[float] = []
        """When those that wait for room were asked for, oldest first."""
        self.queued: list[Queued] = []
        self._served, self._terms = served, terms
        self._router = Router(terms.routing)
        self._agenda: list[Moment] = []
        self._planned = self._started = self._came = self._next = 0
        self._gateway = np.zeros(0, np.int64)
        """Rows that wait until somebody serves."""
        self._ground = ground or Nodes(terms)
        self._follows: dict[int, Replica] = {}
        """Whose place a replica that starts shall take, by its number."""
        self._spots: dict[int, Spot] = {}
        """Where each stands, by number."""
        self._chance = np.random.default_rng((terms.seed, 2))
        self.scraper = Scraper(terms.faults, terms.appears_s, terms.seed)
        self._turn_away()
        self._plan_all()

    # --- the agenda ---

    @property
    def next_s(self) -> float:
        """When something happens next."""
        return self.next_turn[0]

    @property
    def next_turn(self) -> tuple[float, int]:
        """When something happens next, and its place among what happens at that moment."""
        return self._agenda[0][:2] if self._agenda else (np.inf, 0)

    def plan(self, at_s: float, turn: Turn, act: Callable[[float], None]) -> None:
        """Put something on the agenda."""
        self._planned += 1
        heapq.heappush(self._agenda, Moment(at_s, turn, self._planned, act))

    def every(self, interval_s: float, turn: Turn, act: Callable[[float], None]) -> None:
        """Do something again and again; at multiples of the interval, so that none drifts."""
        first_s = self._terms.appears_s

        def again(count: int) -> Callable[[float], None]:
            def tick(now_s: float) -> None:
                act(now_s)
                self.plan(first_s + (count + 1) * interval_s, turn, again(count + 1))

            return tick

        at_once = 0 if turn is Turn.TICK else 1
        self.plan(first_s + at_once * interval_s, turn, again(at_once))

    def step(self) -> None:
        """Go on to the next moment: route who came before it, and let it happen."""
        moment = heapq.heappop(self._agenda)
        self.route(moment.at_s)
        moment.act(moment.at_s)

    def _plan_all(self) -> None:
        terms, faults = self._terms, self._terms.faults
        self.plan(terms.appears_s, Turn.LIFE, self._appear)
        if terms.vanishes_s < np.inf:
            self.plan(terms.vanishes_s, Turn.LIFE, self._vanish)
        for loss in faults.node_losses:
            self.plan(loss.at_s, Turn.FAULT, partial(self._lose_node, loss.node))
        for slow in faults.slow_replicas:
            for at_s in (slow.span.from_s, slow.span.to_s):
                self.plan(at_s, Turn.FAULT, partial(self._slow, slow))
        self.every(terms.scrape_s, Turn.SCRAPE, self._scrape)
        if terms.routing is Routing.LEAST_LOADED:
            self.every(terms.look_s, Turn.LOOK, self.sync)

    # --- requests ---

    def _turn_away(self) -> None:
        """Requests outside the service's life are nobody's."""
        at_s = self.ledger.trace.arrival_s
        outside = (at_s < self._terms.appears_s) | (at_s >= self._terms.vanishes_s)
        self.ledger.fate[outside] = Fate.TURNED_AWAY

    def route(self, until_s: float) -> None:
        """Send the requests that come before a moment."""
        arrival_s = self.ledger.trace.arrival_s
        end = int(np.searchsorted(arrival_s, until_s))
        if end <= self._next:
            return
        rows = np.arange(self._next, end)
        self._next = end
        rows = rows[self.ledger.fate[rows] == Fate.OPEN]
        self._came += rows.size
        serving = self.serving
        if serving and rows.size:
            self._router.send(rows, arrival_s[rows], serving, self.ledger)
        else:
            self._gateway = np.concatenate([self._gateway, rows])

    def _resend(self, rows: Ints, now_s: float) -> None:
        """Send requests now that came earlier; they wait where nobody serves."""
        serving = self.serving
        if serving and rows.size:
            self._router.send(rows, np.full(rows.size, now_s), serving, self.ledger)
        else:
            self._gateway = np.concatenate([self._gateway, rows])

    @property
    def waiting_at_gateway(self) -> int:
        """Requests that no replica has."""
        return int(self._gateway.size)

    # --- replicas ---

    @property
    def serving(self) -> list[Replica]:
        """Those that the router sends to, oldest first."""
        return [replica for replica in self.replicas if replica.phase is Phase.SERVING]

    @property
    def starting(self) -> list[Replica]:
        """Those asked for and not ready, oldest first; no successors of others."""
        return [
            replica
            for replica in self.replicas
            if replica.phase is Phase.STARTING and replica.number not in self._follows
        ]

    def fleet(self, now_s: float) -> Fleet:
        """What the runtime knows; who waits for room is starting, as a pending Pod is."""
        self.bury(now_s)
        left = sum(replica.phase is Phase.DRAINING for replica in self.replicas)
        return Fleet(len(self.serving), len(self.starting) + len(self.unplaced), left)

    def scale_to(self, count: int, now_s: float) -> None:
        """Start what is missing; give up who is too many, the youngest first, starts before."""
        serving, starting = self.serving, self.starting
        more = count - len(serving) - len(starting) - len(self.unplaced)
        given_up = max(-more, 0)
        kept = max(len(self.unplaced) - given_up, 0)
        given_up -= len(self.unplaced) - kept
        self.unplaced = self.unplaced[:kept] + [now_s] * max(more, 0)
        for replica in [*serving, *starting][::-1][:given_up]:
            self._give_up(replica, now_s)
        while self.place(now_s):
            pass

    def replace(self, name: str, now_s: float) -> bool:
        """Start a successor of one that serves, which is given up once that is ready."""
        followed = [replica.number for replica in self._follows.values()]
        old = next((r for r in self.serving if r.name == name and r.number not in followed), None)
        spot = self._ground.take(now_s) if old is not None else None
        if old is None or spot is None:
            return False
        self._follows[self._start(spot, now_s).number] = old
        return True

    def place(self, now_s: float) -> bool:
        """Start who has waited longest for room, if there is some."""
        spot = self._ground.take(now_s) if self.unplaced else None
        if spot is None:
            return False
        self.unplaced.pop(0)
        self._start(spot, now_s)
        return True

    def _new(self, spot: Spot, now_s: float) -> Replica:
        replica = Replica(self._started, spot.node, self._served.cost, self._served.limits)
        replica.asked_s = now_s
        self._spots[replica.number] = spot
        self._started += 1
        self.replicas.append(replica)
        for slow in self._terms.faults.slow_replicas:
            if slow.replica == replica.number and slow.span.holds(now_s):
                replica.slow_down(slow.factor)
        return replica

    def _start(self, spot: Spot, now_s: float) -> Replica:
        faults, replica = self._terms.faults, self._new(spot, now_s)
        lasts_s = spot.start_up_s
        for long in faults.long_starts:
            lasts_s *= long.factor if long.span.holds(now_s) else 1.0
        lot = self._chance.random()
        fails = any(f.span.holds(now_s) and lot < f.ratio for f in faults.failed_starts)
        act = self._fall if fails else self._ready
        self.plan(now_s + lasts_s, Turn.READY, partial(act, replica))
        return replica

    def _ready(self, replica: Replica, now_s: float) -> None:
        if replica.phase is not Phase.STARTING:
            return
        old = self._follows.pop(replica.number, None)
        if old is not None and old.phase is not Phase.SERVING:
            self._end(replica, now_s)  # whom it was to follow is not needed any more
            return
        replica.phase, replica.ready_s = Phase.SERVING, now_s
        if old is not None:
            self._give_up(old, now_s)
        rows, self._gateway = self._gateway, self._gateway[:0]
        self._resend(rows, now_s)

    def _fall(self, replica: Replica, now_s: float) -> None:
        if replica.phase is Phase.STARTING:
            self._end(replica, now_s)

    def _give_up(self, replica: Replica, now_s: float) -> None:
        if replica.phase is Phase.STARTING:
            self._end(replica, now_s)
            return
        replica.phase, replica.drained_s = Phase.DRAINING, now_s

    def _end(self, replica: Replica, at_s: float) -> None:
        self._follows.pop(replica.number, None)
        replica.phase, replica.gone_s = Phase.GONE, at_s
        self.replicas.remove(replica)
        self.gone.append(replica)
        self._ground.leave(self._spots.pop(replica.number), at_s)

    def bury(self, now_s: float) -> None:
        """Run those that drain, and end who has nothing left."""
        for replica in [r for r in self.replicas if r.phase is Phase.DRAINING]:
            replica.run_to(now_s, self.ledger)
            end_s = max(replica.drained_s, replica.last_token_s)
            if replica.outstanding == 0 and end_s <= now_s:
                self._end(replica, end_s)

    # --- what happens ---

    def _appear(self, now_s: float) -> None:
        """Replicas serve from the first moment of the trace, or start with the service."""
        count = self._terms.bounded(self._terms.initial)
        if now_s > 0:
            self.scale_to(count, now_s)
            return
        spots = [self._ground.take(now_s) for _ in range(count)]
        for spot in spots:
            if spot is None:
                self.unplaced.append(now_s)
            else:
                self._ready(self._new(spot, now_s), now_s)

    def _vanish(self, now_s: float) -> None:
        self._end_all(now_s)
        self._gateway = self._gateway[:0]

    def _lose_node(self, node: int, now_s: float) -> None:
        self._ground.lose(node)
        dead = [replica for replica in self.replicas if replica.node == node]
        again = [np.zeros(0, np.int64)]
        for replica in dead:
            replica.run_to(now_s, self.ledger)
            again.append(self.ledger.lose(replica.held(), now_s))
            self._end(replica, now_s)
        self._resend(np.sort(np.concatenate(again)), now_s)

    def _slow(self, fault: SlowReplica, now_s: float) -> None:
        for replica in self.replicas:
            if replica.number == fault.replica:
                replica.run_to(now_s, self.ledger)
                replica.slow_down(fault.factor if fault.span.holds(now_s) else 1.0)

    def _scrape(self, now_s: float) -> None:
        self.sync(now_s)
        waiting = sum(replica.waiting for replica in self.replicas)
        self.queued.append(Queued(now_s, waiting + self.waiting_at_gateway))
        self.scraper.scrape(self.serving, self.ledger, self._came, self.waiting_at_gateway, now_s)

    def sync(self, now_s: float) -> None:
        """Run all engines up to a moment."""
        for replica in self.replicas:
            replica.run_to(now_s, self.ledger)
        self.bury(now_s)

    def close(self, now_s: float) -> None:
        """End everything: starts are given up, what serves finishes what it has."""
        self._end_all(now_s)
        self.sync(np.inf)

    def _end_all(self, now_s: float) -> None:
        successors = [replica for replica in self.replicas if replica.number in self._follows]
        for replica in successors:
            self._end(replica, now_s)
        self.scale_to(0, now_s)
