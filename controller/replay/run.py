"""The loop of a replay: moments in order, a policy asked at its ticks, and what came of it.

A policy is shown the latest scrape and the fleet and answers with a count; it never sees the
trace. Deterministic: the same trace, terms and policy give the same outcome, bit for bit.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from controller.replay.ground import Ground
from controller.replay.outcome import Account, Change, Outcome, judge
from controller.replay.policy import Fleet, Policy, Wish
from controller.replay.served import Served
from controller.replay.terms import Terms
from controller.replay.world import Turn, World
from profiler.errors import Refused
from profiler.trace import Trace
from profiler.twin import Simulation


def replay(trace: Trace, served: Served, policy: Policy, terms: Terms) -> Outcome:
    """Run a trace through a fleet that the policy scales.

    The policy is asked until the last request came (and until `terms.until_s`), and on while
    requests wait at the gateway; then what is under way is finished, whatever faults were to
    come. Raises `Refused` for a request
    that the KV cache could never hold.
    """
    asked = Asked(trace, served, policy, terms)
    return asked.outcome(through([asked.world], asked.end_s, terms.patience_s))


def through(worlds: Sequence[World], end_s: float, patience_s: float) -> float:
    """Let everything happen in all worlds, in order; when policies were last asked."""

    def first() -> World:
        return min(worlds, key=lambda world: world.next_turn)

    last_s = end_s + patience_s
    while first().next_s <= end_s:
        first().step()
    for world in worlds:
        world.route(np.inf)
    while any(world.waiting_at_gateway for world in worlds) and first().next_s <= last_s:
        end_s = first().next_s
        first().step()
    for world in worlds:
        world.close(end_s)
    return end_s


class Asked:
    """A policy, its state, and the world that it scales."""

    def __init__(
        self,
        trace: Trace,
        served: Served,
        policy: Policy,
        terms: Terms,
        ground: Ground | None = None,
    ) -> None:
        if not 0 < policy.interval_s < math.inf:
            raise Refused(f"policy {policy.name}: interval_s must be a positive number")
        Simulation(served.cost, served.limits).feed(trace)  # refuses what would wait for ever
        self.served, self.policy, self.terms = served, policy, terms
        self.end_s = _end_s(trace, terms)
        """Until when the policy is asked at least."""
        self.world = World(trace, served, terms, ground)
        self.state: Any = policy.start(served.known(terms))
        self._changes: list[Change] = []
        self.world.every(policy.interval_s, Turn.TICK, self.tick)

    def tick(self, now_s: float) -> None:
        """Ask the policy and do as it wants."""
        if now_s >= self.terms.vanishes_s:
            return
        fleet = self.world.fleet(now_s)
        wish, self.state = self.decided(self.policy, fleet, now_s)
        self.carry_out(self.bounded(wish, fleet), wish.reason, now_s)
        if wish.replace and self.world.replace(wish.replace, now_s):
            count = fleet.serving + fleet.starting
            self._changes.append(Change(now_s, count, count, f"{wish.replace} is replaced"))

    def decided(self, policy: Policy, fleet: Fleet, now_s: float) -> tuple[Wish, Any]:
        """What a policy wants, shown the last scrape, and its state after."""
        return policy.decide(self.world.scraper.latest, fleet, self.state, now_s)

    def bounded(self, wish: Wish, fleet: Fleet) -> int:
        """Take a wish into the bounds; what is no number changes nothing."""
        before = fleet.serving + fleet.starting
        return self.terms.bounded(wish.replicas if math.isfinite(wish.replicas) else before)

    def carry_out(self, after: int, reason: str, now_s: float) -> None:
        """Bring the fleet to a count."""
        fleet = self.world.fleet(now_s)
        before = fleet.serving + fleet.starting
        if after != before:
            self.world.scale_to(after, now_s)
            self._changes.append(Change(now_s, before, after, reason))

    def outcome(self, end_s: float) -> Outcome:
        """Judge what came of it, once everything has happened."""
        lives = sorted((replica.number, replica.life) for replica in self.world.gone)
        account = Account(
            ledger=self.world.ledger,
            lives=tuple(life for _, life in lives),
            queued=self.world.queued,
            changes=tuple(self._changes),
            end_s=end_s,
        )
        served = self.served
        return judge(self.policy.name, account, served.slo, served.gpus, served.meets_slo)


def _end_s(trace: Trace, terms: Terms) -> float:
    end_s = max(trace.duration_s, terms.until_s or 0.0)
    if not end_s < math.inf:
        raise Refused(f"until_s must be a number, got {terms.until_s}")
    return max(min(end_s, terms.vanishes_s), terms.appears_s)
