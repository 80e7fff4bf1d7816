"""From counts to actions: fail over, admit, start, withdraw, drain, roll out.

Whatever the reason, there is one mechanism: change who is admitted. A failed replica is
removed and a standby admitted in the same decision; what was used up is started anew.
Replicas of an older configuration serve until those of the new one are ready.
"""

from dataclasses import dataclass, replace

from controller.decide.types import Action, Admit, Drain, Reason, Remove, Start, State, Withdraw
from controller.observation import COMING, READY, Observation, Phase, ReplicaId

REPLACE_EVERY_S = 600.0
"""Between two replicas that are replaced because the detector says so."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions towards the counts, and the reasons that protection adds."""

    actions: tuple[Action, ...]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class _Fleet:
    """Sound replicas by role after admissions, oldest first."""

    serving: tuple[ReplicaId, ...]
    spare: tuple[ReplicaId, ...]
    coming: tuple[ReplicaId, ...]

    @property
    def size(self) -> int:
        return len(self.serving) + len(self.spare) + len(self.coming)


def plan(seen: Observation, serving: int, standby: int) -> Plan:
    """Actions that bring the replicas there are to `serving` + `standby`."""
    failed = seen.ids(Phase.FAILED)
    wedged = tuple(s.replica.id for s in seen.sightings if s.wedged)
    reasons: list[Reason] = []
    if failed:
        reasons.append(Reason.REPLICA_FAILED)
    if wedged:
        reasons.append(Reason.REPLICA_WEDGED)
    now_serving = tuple(r for r in seen.ids(Phase.SERVING, stale=False) if r not in wedged)
    ready = tuple(r for r in seen.ids(Phase.STANDBY, stale=False) if r not in wedged)
    admitted = ready[: max(serving - len(now_serving), 0)]
    if admitted and reasons:
        reasons.append(Reason.STANDBY_ADMITTED)
    fleet = _Fleet(now_serving + admitted, ready[len(admitted) :], seen.ids(*COMING, stale=False))
    old = _retire(seen, serving - len(fleet.serving), wedged)
    if old:
        reasons += _why_retired(seen)
    missing = serving + standby - fleet.size
    if missing > 0 and len(fleet.serving) >= serving > 0:
        reasons.append(Reason.STANDBY_RESTORED)
    actions: tuple[Action, ...] = (
        *(Admit(replica) for replica in admitted),
        *(Remove(replica) for replica in (*failed, *wedged)),
        *((Start(missing),) if missing > 0 else ()),
        *_shrink(fleet, serving, -missing),
        *old,
    )
    return Plan(actions, tuple(reasons))


def choose_unfit(seen: Observation, state: State, now_s: float) -> State:
    """One unfit replica at a time is replaced, and not the next one at once: it may be the node."""
    unfit = [s.replica.id for s in seen.sightings if s.unfit and s.replica.phase in READY]
    if state.replacing in seen.ids(*READY):
        return state
    if unfit and now_s - state.replaced_s >= REPLACE_EVERY_S:
        return replace(state, replacing=unfit[0], replaced_s=now_s)
    return replace(state, replacing=None)


def with_stale(seen: Observation, replica: ReplicaId | None) -> Observation:
    """Show a replica as one to be replaced as in a rollout: a new one first, then it drains."""
    if replica is None:
        return seen
    sightings = tuple(
        replace(s, replica=replace(s.replica, stale=True)) if s.replica.id == replica else s
        for s in seen.sightings
    )
    return replace(seen, sightings=sightings)


def _why_retired(seen: Observation) -> list[Reason]:
    stale = [s for s in seen.sightings if s.replica.stale]
    unfit = [Reason.REPLICA_UNFIT] if any(s.unfit for s in stale) else []
    return unfit + ([Reason.ROLLING_OUT] if not all(s.unfit for s in stale) else [])


def _retire(
    seen: Observation, still_needed: int, wedged: tuple[ReplicaId, ...]
) -> tuple[Action, ...]:
    """End stale replicas, but for the youngest `still_needed` that serve or can at once."""
    serving = [r for r in seen.ids(Phase.SERVING, stale=True) if r not in wedged]
    ready = [r for r in seen.ids(Phase.STANDBY, stale=True) if r not in wedged]
    kept = max(still_needed, 0)
    helping = ready[: max(kept - len(serving), 0)]
    return (
        *(Remove(replica) for replica in seen.ids(*COMING, stale=True)),
        *(Admit(replica) for replica in helping),
        *(Drain(replica) for replica in ready[len(helping) :]),
        *(Drain(replica) for replica in serving[: max(len(serving) - kept, 0)]),
    )


def _shrink(fleet: _Fleet, serving: int, surplus: int) -> tuple[Action, ...]:
    """Give up `surplus` replicas, the youngest first: starting, standing by, then serving.

    A serving replica too many that is no surplus becomes the standby that is missing.
    """
    given_up: list[ReplicaId] = []
    for group in (fleet.coming, fleet.spare):
        given_up += group[::-1][: max(surplus - len(given_up), 0)]
    excess = fleet.serving[serving:][::-1]
    drained = excess[: max(surplus - len(given_up), 0)]
    return (
        *(Remove(replica) for replica in given_up),
        *(Withdraw(replica) for replica in excess[len(drained) :]),
        *(Drain(replica) for replica in drained),
    )
