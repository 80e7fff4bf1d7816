"""The loop of a replay: moments in order, a policy asked at its ticks, and what came of it.

A policy is shown the latest scrape and the fleet and answers with a count; it never sees the
trace. Deterministic: the same trace, terms and policy give the same outcome, bit for bit.
"""

import math

import numpy as np

from controller.replay.outcome import Account, Change, Outcome, judge
from controller.replay.policy import Policy, Wish
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
    Simulation(served.cost, served.limits).feed(trace)  # refuses what would wait for ever
    world = World(trace, served, terms)
    asked = _Asked(world, served, policy, terms)
    end_s = asked.through(_end_s(trace, terms))
    lives = sorted((r.number, r.life) for r in world.gone)
    account = Account(
        ledger=world.ledger,
        lives=tuple(life for _, life in lives),
        queued=world.queued,
        changes=tuple(asked.changes),
        end_s=end_s,
    )
    return judge(policy.name, account, served.slo, served.gpus, served.meets_slo)


def _end_s(trace: Trace, terms: Terms) -> float:
    end_s = max(trace.duration_s, terms.until_s or 0.0)
    if not end_s < math.inf:
        raise Refused(f"until_s must be a number, got {terms.until_s}")
    return max(min(end_s, terms.vanishes_s), terms.appears_s)


class _Asked:
    """A policy and its state."""

    def __init__(self, world: World, served: Served, policy: Policy, terms: Terms) -> None:
        if not 0 < policy.interval_s < math.inf:
            raise Refused(f"policy {policy.name}: interval_s must be a positive number")
        self.changes: list[Change] = []
        self._world, self._policy, self._terms = world, policy, terms
        self._state = policy.start(served.known(terms))
        world.every(policy.interval_s, Turn.TICK, self._tick)

    def through(self, end_s: float) -> float:
        """Let everything happen; when the policy was last asked."""
        world, last_s = self._world, end_s + self._terms.patience_s
        while world.next_s <= end_s:
            world.step()
        world.route(np.inf)
        while world.waiting_at_gateway and world.next_s <= last_s:
            end_s = world.next_s
            world.step()
        world.close(end_s)
        return end_s

    def _tick(self, now_s: float) -> None:
        if now_s >= self._terms.vanishes_s:
            return
        fleet = self._world.fleet(now_s)
        scrape = self._world.scraper.latest
        wish, self._state = self._policy.decide(scrape, fleet, self._state, now_s)
        before = fleet.serving + fleet.starting
        after = self._bounded(wish, before)
        if after != before:
            self._world.scale_to(after, now_s)
            self.changes.append(Change(now_s, before, after, wish.reason))

    def _bounded(self, wish: Wish, before: int) -> int:
        """Take a wish into the bounds; what is no number changes nothing."""
        return self._terms.bounded(wish.replicas if math.isfinite(wish.replicas) else before)
