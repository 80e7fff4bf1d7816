"""Several services on a shared pool of GPUs, each with its trace, its policy and its world.

A replica takes the GPUs it needs, from the asking until it has drained. What finds no room waits,
as a pending Pod does, and starts within a second of when there is some. With `asleep`, standbys
sleep on the pool's GPUs, and a start there is a wake-up. Who may have how much when the pool is
short is for the `Rule` to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf

import numpy as np

from controller.decide.share import Claim, Grant, share
from controller.decide.size import WORK_OFF_S, backlog
from controller.observation import Demand
from controller.replay.ground import Asleep, Cards, Lot
from controller.replay.ours import Memory, Ours
from controller.replay.outcome import Outcome
from controller.replay.policy import Fleet, Policy
from controller.replay.run import Asked, through
from controller.replay.served import Served
from controller.replay.terms import Terms
from controller.replay.world import Turn
from controller.service import Bounds
from profiler.errors import Refused
from profiler.trace import Trace

_LOOK_S = 1.0
"""How often who waits for room looks for some."""


class Rule(StrEnum):
    """Who gets the GPUs of a pool that is short."""

    SHARE = "share"
    """Whom `decide.share` grants them: it sees everybody's claims at each tick."""
    SPREAD = "spread"
    """The same, and it grants what nobody wants as well: a fixed pool is paid for anyway."""
    FIRST_COME = "first_come"
    """Who has asked first, the higher priority before the lower; nobody gives way. As Kubernetes
    does with Pods whose priority class never preempts, the default class's among them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One service of a pool."""

    name: str
    trace: Trace
    served: Served
    policy: Policy
    terms: Terms
    """Its `start_up_s` is a cold start's; a node that any service's faults lose is lost for all."""
    priority: int = 0
    budget_gpus: int | None = None
    """GPUs that it may have at most, where `decide.share` rules."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The GPUs that services share, all of one type."""

    gpus: int
    asleep: Asleep | None = None
    """Standbys that sleep on them; None: every start is a cold one."""
    rule: Rule = Rule.SHARE
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        """Refuse what is no pool."""
        for name in ("gpus", "gpus_per_node"):
            if getattr(self, name) < 1:
                raise Refused(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Pooled:
    """What came of a pool."""

    services: tuple[Outcome, ...]
    """In the order of the entries."""
    gpus: int
    end_s: float
    peak_gpus: int
    """Most GPUs that replicas had at once."""
    used_gpu_hours: float
    """That replicas had; the pool costs `gpus` all the time, used or not."""

    @property
    def attained_ratio(self) -> float:
        """Of the service that attains least; NaN where no service had a request."""
        return min((o.attained_ratio for o in self.services if o.requests), default=float("nan"))

    @property
    def gpu_hours(self) -> float:
        """What the pool costs."""
        return self.gpus * self.end_s / 3600.0


def replay_pool(entries: Sequence[Entry], pool: Pool) -> Pooled:
    """Run every service's trace on one pool, all to the end of the longest.

    Policies are told, as their start-up time, a wake-up's where standbys sleep. Raises `Refused`
    for services that cannot share: names given twice, unlike GPUs, replicas larger than a node.
    """
    _check(entries, pool)
    ground = Cards(pool.gpus, pool.gpus_per_node, pool.asleep, len(entries))
    group = _Group(pool.rule, ground)
    losses = tuple(
        dict.fromkeys(loss for entry in entries for loss in entry.terms.faults.node_losses)
    )
    for entry in entries:
        terms = replace(entry.terms, faults=replace(entry.terms.faults, node_losses=losses))
        if pool.asleep is not None:
            terms = replace(terms, start_up_s=pool.asleep.wake_s)
        lot = Lot(ground, len(group.tenants), entry.served.gpus, entry.terms.start_up_s)
        group.tenants.append(_Tenant(entry, terms, lot, group))
    tenants = group.tenants
    end_s = through(
        [tenant.world for tenant in tenants],
        max(tenant.end_s for tenant in tenants),
        max(tenant.terms.patience_s for tenant in tenants),
    )
    outcomes = tuple(tenant.outcome(end_s) for tenant in tenants)
    return _pooled(outcomes, entries, pool, end_s)


def _check(entries: Sequence[Entry], pool: Pool) -> None:
    names = [entry.name for entry in entries]
    if not entries or len(set(names)) < len(names):
        raise Refused(f"services {names}: give one at least, each under a name of its own")
    if len({entry.served.profile.gpu for entry in entries}) > 1:
        raise Refused("services have profiles of different GPUs: a pool's are of one type")
    for entry in entries:
        if entry.served.gpus > pool.gpus_per_node:
            raise Refused(
                f"{entry.name}: a replica takes {entry.served.gpus} GPUs, a node of the pool has "
                f"{pool.gpus_per_node}: raise gpus_per_node"
            )


class _Tenant(Asked):
    """A service whose wishes are granted by the pool, once all of a moment are known."""

    def __init__(self, entry: Entry, terms: Terms, lot: Lot, group: "_Group") -> None:
        super().__init__(entry.trace, entry.served, entry.policy, terms, lot)
        self.entry, self._group = entry, group
        self.wanted = terms.bounded(terms.initial)
        """Before it was granted."""
        self.needed = self.wanted
        """Those of them that the load needs now."""

    def tick(self, now_s: float) -> None:
        """Ask the policy, and leave it to the pool what comes of it."""
        if now_s >= self.terms.vanishes_s:
            return
        self.fleet = self.world.fleet(now_s)
        self.wish, self.after = self.decided(self.policy, self.fleet, now_s)
        self.wanted = self.bounded(self.wish, self.fleet)
        self.needed = self.wanted if self.wish.needed is None else self.wish.needed
        self._group.spoke(self, now_s)

    def grant(self, grant: Grant | None, now_s: float) -> None:
        """Do as was granted, or as was wanted; our own policy decides again, knowing it."""
        count, reason = self.wanted, self.wish.reason
        if grant is not None and grant.replicas != self.wanted:
            count, reason = grant.replicas, f"{reason}; granted {grant.replicas}: {grant.reason}"
            if isinstance(self.policy, Ours):
                self.after = self._decided_again(self.policy, count, now_s)
        self.state = self.after
        self.carry_out(count, reason, now_s)

    def _decided_again(self, policy: Ours, count: int, now_s: float) -> Memory:
        """What our policy remembers once a grant was its bounds, and what it would have wanted."""
        granted = Ours(replace(policy.service, bounds=Bounds(count, count)), policy.interval_s)
        _, after = self.decided(granted, self.fleet, now_s)
        memory: Memory = replace(after, state=replace(after.state, wishes=self.after.state.wishes))
        return memory

    def claim(self, spread: bool, now_s: float) -> Claim:
        """What it wants of the pool."""
        fleet = self.world.fleet(now_s)
        held = fleet.serving + fleet.starting
        lives = self.terms.appears_s <= now_s < self.terms.vanishes_s
        return Claim(
            service=self.entry.name,
            wanted=min(self.wanted, self.needed) if lives else 0,
            held=held,
            demand=self._demand(fleet),
            least=self.terms.min_replicas if lives else 0,
            most=self.terms.max_replicas if spread else self.wanted,
            gpus_per_replica=self.served.gpus,
            priority=self.entry.priority,
            budget_gpus=self.entry.budget_gpus,
        )

    def _demand(self, fleet: Fleet) -> float | None:
        """Load of the last scrape with its queue to work off, in replicas."""
        scrape = self.world.scraper.latest
        if scrape is None:
            return None
        arrival_rps = scrape.arrivals / scrape.since_s
        waiting = scrape.waiting + scrape.gateway_waiting
        queued = backlog(Demand(arrival_rps, waiting, None), fleet.serving)
        return (arrival_rps + queued / WORK_OFF_S) / self.served.capacity.rate_rps


class _Group:
    """All services of a pool; grants what they ask for and places who waits."""

    def __init__(self, rule: Rule, ground: Cards) -> None:
        self.tenants: list[_Tenant] = []
        self._rule, self._ground = rule, ground
        self._spoke: list[_Tenant] = []
        self._looks_s = -inf
        """When who waits looks next."""

    def spoke(self, tenant: _Tenant, now_s: float) -> None:
        """Note that a service has asked; all are granted once nobody else asks at this moment."""
        if not self._spoke:
            tenant.world.plan(now_s, Turn.SHARE, self._settle)
        self._spoke.append(tenant)

    def _settle(self, now_s: float) -> None:
        self._place(now_s)
        grants = self._grants(now_s)
        spoke, self._spoke = self._spoke, []
        for tenant in spoke:
            tenant.grant(grants.get(tenant.entry.name), now_s)
        self._place(now_s)
        if now_s >= self._looks_s:
            self._look_again(now_s)

    def _grants(self, now_s: float) -> dict[str, Grant]:
        """What each may have; nothing is said where whoever asks first gets it."""
        if self._rule is Rule.FIRST_COME:
            return {}
        spread = self._rule is Rule.SPREAD
        claims = [tenant.claim(spread, now_s) for tenant in self.tenants]
        return {grant.service: grant for grant in share(claims, self._ground.left)}

    def _place(self, now_s: float) -> None:
        """Start who waits for room, in turn, as far as there is some."""
        for tenant in self.tenants:
            tenant.world.bury(now_s)
        while any(tenant.world.place(now_s) for tenant in self._waiting()):
            pass

    def _waiting(self) -> list[_Tenant]:
        waiting = [tenant for tenant in self.tenants if tenant.world.unplaced]
        return sorted(waiting, key=lambda each: (-each.entry.priority, each.world.unplaced[0]))

    def _look(self, now_s: float) -> None:
        self._place(now_s)
        self._look_again(now_s)

    def _look_again(self, now_s: float) -> None:
        """Come back while somebody waits."""
        waiting = self._waiting()
        if waiting:
            self._looks_s = now_s + _LOOK_S
            waiting[0].world.plan(self._looks_s, Turn.LOOK, self._look)


def _pooled(
    outcomes: tuple[Outcome, ...], entries: Sequence[Entry], pool: Pool, end_s: float
) -> Pooled:
    steps = sorted(
        step
        for outcome, entry in zip(outcomes, entries, strict=True)
        for life in outcome.lives
        for step in ((life.asked_s, entry.served.gpus), (life.gone_s, -entry.served.gpus))
    )
    in_use = np.cumsum([gpus for _, gpus in steps])
    return Pooled(
        services=outcomes,
        gpus=pool.gpus,
        end_s=end_s,
        peak_gpus=int(np.max(in_use, initial=0)),
        used_gpu_hours=sum(outcome.gpu_hours for outcome in outcomes),
    )
