"""Place a service's replicas on GPU types: by cost, within what is granted and paid for.

The service's own type is the one that the search found cheapest; its fallbacks follow in order of
what they carry for their price. Each is filled as far as it has room, and what a replica carries
there is counted in replicas of the first type. A replica that no machine has taken for as long as
a start takes is asked for still, and carried elsewhere meanwhile.

What neighbours cost is seen, not predicted: replicas that turn out slow, or on a failing GPU, are
replaced, and their successors keep away from that machine for a while.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from controller.decide.types import Shunned, State
from controller.observation import READY, Observation, Phase

UNPLACED_S = 60.0
"""No machine took a replica for so long, or for a start if that is longer: there is no room."""
SHUN_S = 3600.0
"""How long new replicas keep away from a machine where one turned out unfit."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One GPU type that a service may run on."""

    gpu: str
    """Empty: the service's own."""
    worth: float = 1.0
    """What a replica carries, in replicas of the service's own type."""
    gpus: int = 1
    """Of a replica."""
    granted: int | None = None
    """Replicas that a shared pool grants; None: as many as are wanted."""
    ready: int = 0
    """Replicas that serve or could at once."""
    unplaced: int = 0
    """Replicas that wait for a machine and should have one by now."""


@dataclass(frozen=True, slots=True)
class Place:
    """Serving replicas on one GPU type."""

    gpu: str
    wanted: int
    serving: int
    """Those to serve now: more than wanted while others are not ready."""


def kinds_of(seen: Observation, now_s: float) -> tuple[Kind, ...]:
    """Look at every GPU type that the service may use, in the order they are filled."""
    granted, worths = dict(seen.service.bounds.granted), dict(seen.worths)
    late_s = max(UNPLACED_S, seen.start_up_s)
    made = []
    for kind in seen.service.kinds:
        gpu = "" if kind is seen.service else kind.gpu
        here = [s.replica for s in seen.on(gpu).sightings if not s.replica.stale and not s.wedged]
        made.append(
            Kind(
                gpu=gpu,
                worth=worths.get(gpu, 1.0),
                gpus=kind.configuration.layout.gpus,
                granted=granted.get(kind.gpu),
                ready=sum(replica.phase in READY for replica in here),
                unplaced=sum(
                    replica.phase is Phase.PENDING and now_s - replica.created_s > late_s
                    for replica in here
                ),
            )
        )
    return tuple(made)


def place(
    units: int, kinds: Sequence[Kind], *, least: int, most: int, budget_gpus: int | None = None
) -> tuple[Place, ...]:
    """Say how many replicas on each type carry what `units` of the first would.

    `least` and `most`: replicas in all, where there is room.
    """
    wanted: list[int] = []
    left, taken = float(units), 0
    paid = math.inf if budget_gpus is None else float(budget_gpus)
    for kind in kinds:
        asked = max(math.ceil(left / kind.worth - 1e-9), min(least, units) - taken)
        room = min(most - taken, paid // kind.gpus)
        if kind.granted is not None:
            room = min(room, kind.granted)
        count = max(int(min(asked, room)), 0)
        there = max(count - kind.unplaced, 0)
        wanted.append(count)
        left, taken, paid = left - there * kind.worth, taken + there, paid - there * kind.gpus
    return _with_what_is_ready(units, kinds, wanted)


def _with_what_is_ready(
    units: int, kinds: Sequence[Kind], wanted: Sequence[int]
) -> tuple[Place, ...]:
    """Until what is wanted is ready, what is ready serves."""
    ready = [min(kind.ready, count) for kind, count in zip(kinds, wanted, strict=True)]
    wanting = sum(count * kind.worth for kind, count in zip(kinds, wanted, strict=True))
    short = min(wanting, units) - sum(n * k.worth for n, k in zip(ready, kinds, strict=True))
    made = []
    for kind, count in zip(kinds, wanted, strict=True):
        spare = max(kind.ready - count, 0)
        helping = min(spare, max(math.ceil(short / kind.worth - 1e-9), 0))
        short -= helping * kind.worth
        made.append(Place(kind.gpu, count, count + helping))
    return tuple(made)


def carries(places: Sequence[Place], kinds: Sequence[Kind]) -> float:
    """What is wanted carries, in replicas of the first type."""
    return sum(p.wanted * kind.worth for p, kind in zip(places, kinds, strict=True))


def shun(state: State, seen: Observation, now_s: float) -> tuple[Shunned, ...]:
    """Machines to keep away from: where a replica was found unfit lately, or is being replaced."""
    kept = {each.node: each.at_s for each in state.shunned if 0 <= now_s - each.at_s < SHUN_S}
    for sighting in seen.sightings:
        if sighting.unfit and sighting.replica.node:
            kept[sighting.replica.node] = now_s
    return tuple(Shunned(node, at_s) for node, at_s in sorted(kept.items()))
