"""From counts by pool to nodes: keep what runs, spread what must be spread, fill the rest.

Largest replicas first, into the fullest link domain that has room; where sizes divide each
other that never fails for counts that `pools` allows, whatever is chosen among domains with
room. Choice is therefore free for spread: a demand that wants nodes and zones takes new ones.
Replicas that run stay where they are, unless a larger one needs their domain.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf

from recommender.allocation.model import Count, Model, Running
from recommender.allocation.solver import Floats
from recommender.allocation.values import Node

_TOLERANCE = 1e-6
"""HiGHS' own, in shares of a demand's rate."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One replica."""

    demand: int
    variant: int
    pool: int
    gpus: int
    share: float
    """Of its demand's rate."""


@dataclass(slots=True)
class Bin:
    """A link domain, or a slot of one, and the replicas in it."""

    node: Node
    room: int
    pieces: list[Piece] = field(default_factory=list)

    @property
    def free(self) -> int:
        """GPUs not taken."""
        return self.room - sum(piece.gpus for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a demand wants of the nodes it gets."""

    nodes: int
    zones: int
    share_a_node: float
    """It loses its rate when more than this lies on one node."""


@dataclass(slots=True)
class Packing:
    """Where every replica lies."""

    bins: dict[int, list[Bin]]
    """By pool."""
    goals: dict[int, Goal]
    """By demand; absent where nothing is wanted."""
    unplaced: list[Piece] = field(default_factory=list)
    on: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Share by node name, in billionths, by demand."""
    zone_of: dict[str, str] = field(default_factory=dict)

    def put(self, piece: Piece, into: Bin) -> None:
        """Place a replica."""
        into.pieces.append(piece)
        self.on[piece.demand][into.node.name] += _billionths(piece)

    def take(self, piece: Piece, out_of: Bin) -> None:
        """Lift a replica."""
        out_of.pieces.remove(piece)
        on = self.on[piece.demand]
        on[out_of.node.name] -= _billionths(piece)
        if on[out_of.node.name] <= 0:
            del on[out_of.node.name]

    def lack(self, demand: int) -> float:
        """Nodes, zones and share a node that a demand lacks; 0 when it has its goal."""
        goal = self.goals.get(demand)
        if goal is None:
            return 0.0
        on = self.on[demand]
        zones = len({self.zone_of[name] for name in on})
        over = sum(max(0.0, share / 1e9 - goal.share_a_node - _TOLERANCE) for share in on.values())
        return max(0, goal.nodes - len(on)) + max(0, goal.zones - zones) + over

    def troubled(self) -> set[int]:
        """Pools whose counts did not find nodes as wanted."""
        lacking = {demand for demand in self.goals if self.lack(demand) > 0}
        pools = {
            pool
            for pool, bins in self.bins.items()
            for bin_ in bins
            if any(piece.demand in lacking for piece in bin_.pieces)
        }
        return pools | {piece.pool for piece in self.unplaced}

    def placed(self) -> dict[int, Counter[tuple[int, str]]]:
        """Replicas by variant and node, by demand."""
        found: dict[int, Counter[tuple[int, str]]] = defaultdict(Counter)
        for bins in self.bins.values():
            for bin_ in bins:
                for piece in bin_.pieces:
                    found[piece.demand][piece.variant, bin_.node.name] += 1
        return found


def pack(model: Model, x: Floats, running: Running) -> Packing:
    """Place a solution's counts; what finds no room is listed as unplaced, never lost."""
    counts = model.counts(x)
    goals = _goals(model, x)
    packing = Packing({}, goals, zone_of={n.name: n.zone for p in model.pools for n in p.nodes})
    for pool in range(len(model.pools)):
        mine = {count: n for count, n in counts.items() if count[2] == pool}
        _pack_pool(packing, model, (pool, mine), running, _domains(model, pool))
        if model.patterns[pool] and any(p.pool == pool for p in packing.unplaced):
            _clear(packing, pool)
            _pack_pool(packing, model, (pool, mine), running, _slots(model, pool, x))
    for demand in goals:
        repair(packing, demand)
    return packing


def _domains(model: Model, pool: int) -> list[Bin]:
    return [Bin(node, room) for node in model.pools[pool].nodes for room in node.domains]


def _slots(model: Model, pool: int, x: Floats) -> list[Bin]:
    """Domains cut into the slots that the solution counted."""
    ways: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for column, domain, slots in model.patterns[pool]:
        ways[domain] += [slots] * round(float(x[column]))
    bins = []
    for node in model.pools[pool].nodes:
        for room in node.domains:
            slots = ways[room].pop() if ways[room] else (room,)
            bins += [Bin(node, slot) for slot in slots]
    return bins


def _clear(packing: Packing, pool: int) -> None:
    for bin_ in packing.bins[pool]:
        for piece in list(bin_.pieces):
            packing.take(piece, bin_)
    packing.unplaced = [piece for piece in packing.unplaced if piece.pool != pool]


def _goals(model: Model, x: Floats) -> dict[int, Goal]:
    """What the solution promises: what it counts as missing already is not asked for."""
    carried: Counter[int] = Counter()
    for (demand, variant, _), n in model.counts(x).items():
        carried[demand] += n * _billionths_of(model, demand, variant)
    goals = {}
    for index, block in enumerate(model.blocks):
        lacking = {name: float(x[column]) for name, column in block.lacking.items()}
        if not carried[index] or not lacking:
            continue
        lost = lacking.get("survives_node_loss")
        surplus = carried[index] / 1e9 - 1.0
        goals[index] = Goal(
            nodes=block.demand.min_nodes - ceil(lacking.get("min_nodes", 0.0) - 1e-6),
            zones=block.demand.min_zones - ceil(lacking.get("min_zones", 0.0) - 1e-6),
            share_a_node=inf if lost is None else max(surplus + lost, 0.0),
        )
    return goals


def _pack_pool(
    packing: Packing,
    model: Model,
    wanted: tuple[int, Mapping[Count, int]],
    running: Running,
    bins: list[Bin],
) -> None:
    pool, counts = wanted
    packing.bins[pool] = bins
    queues: dict[int, list[Piece]] = defaultdict(list)
    kept: list[tuple[Piece, Node]] = []
    for (demand, variant, _), n in sorted(counts.items()):
        piece = _piece(model, demand, variant, pool)
        stay = _stay(model, piece, n, running)
        kept += [(piece, node) for node in stay]
        queues[piece.gpus] += [piece] * (n - len(stay))
    for piece, node in sorted(kept, key=lambda k: -k[0].gpus):
        home = [b for b in bins if b.node is node and b.free >= piece.gpus]
        if home:
            packing.put(piece, min(home, key=lambda b: b.free))
        else:
            queues[piece.gpus].append(piece)
    for wanting in (True, False):
        _place_all(packing, queues, wanting=wanting)


def _place_all(packing: Packing, queues: dict[int, list[Piece]], *, wanting: bool) -> None:
    """Largest first; those that want spread before the rest, while nodes are free for it."""
    later: dict[int, list[Piece]] = defaultdict(list)
    while queues:
        size = max(queues)
        for piece in queues.pop(size):
            if wanting and piece.demand not in packing.goals:
                later[size].append(piece)
                continue
            for evicted in _place(packing, piece):
                queues[evicted.gpus].append(evicted)
    queues.update(later)


def _stay(model: Model, piece: Piece, most: int, running: Running) -> list[Node]:
    """Nodes on which replicas stay, each node's first before any node's second."""
    demand = model.demands[piece.demand]
    name = demand.variants[piece.variant].name
    homes = [
        (turn, place, node)
        for place, node in enumerate(model.pools[piece.pool].nodes)
        for turn in range(running.get((demand.service, name, node.name), 0))
    ]
    return [node for *_, node in sorted(homes, key=lambda h: h[:2])[:most]]


def _place(packing: Packing, piece: Piece) -> list[Piece]:
    """Place one replica; the smaller ones that had to go for it."""
    bins = packing.bins[piece.pool]
    fits = [b for b in bins if b.free >= piece.gpus]
    if fits:
        packing.put(piece, min(fits, key=lambda b: (*_worse(packing, piece, b), b.free)))
        return []
    best: list[Piece] | None = None
    home = None
    for bin_ in bins:
        out = _in_the_way(bin_, piece.gpus, piece.gpus - bin_.free)
        if out is not None and (best is None or len(out) < len(best)):
            best, home = out, bin_
    if best is None or home is None:
        packing.unplaced.append(piece)
        return []
    for evicted in best:
        packing.take(evicted, home)
    packing.put(piece, home)
    return best


def _worse(packing: Packing, piece: Piece, bin_: Bin) -> tuple[int, int, int]:
    """How badly a domain suits a demand that wants spread; all zero where none is wanted."""
    goal = packing.goals.get(piece.demand)
    if goal is None:
        return (0, 0, 0)
    on = packing.on[piece.demand]
    zones = {packing.zone_of[name] for name in on}
    old_zone = len(zones) < goal.zones and bin_.node.zone in zones
    return (int(old_zone), int(bin_.node.name in on), on.get(bin_.node.name, 0))


def _in_the_way(bin_: Bin, below: int, wanted: int) -> list[Piece] | None:
    """Few replicas smaller than `below` whose going frees `wanted` GPUs; None if too few."""
    out: list[Piece] = []
    for piece in sorted(bin_.pieces, key=lambda p: -p.gpus):
        if wanted <= 0:
            break
        if piece.gpus < below:
            out.append(piece)
            wanted -= piece.gpus
    return out if wanted <= 0 else None


def repair(packing: Packing, demand: int) -> None:
    """Move or exchange replicas within a pool while that brings a demand nearer its goal."""
    while packing.lack(demand) > 0 and _better(packing, demand):
        pass


def _better(packing: Packing, demand: int) -> bool:
    """Make one improving exchange; whether there was one."""
    for bins in packing.bins.values():
        for home in bins:
            for piece in dict.fromkeys(p for p in home.pieces if p.demand == demand):
                for other in bins:
                    if other.node is not home.node and _exchange(packing, piece, home, other):
                        return True
    return False


def _exchange(packing: Packing, piece: Piece, home: Bin, other: Bin) -> bool:
    for out, back in _exchanges(piece, home, other):
        demands = {p.demand for p in (*out, *back)}
        before = sum(packing.lack(d) for d in demands)
        _swap(packing, (out, home), (back, other))
        if sum(packing.lack(d) for d in demands) < before - _TOLERANCE:
            return True
        _swap(packing, (out, other), (back, home))
    return False


def _exchanges(piece: Piece, home: Bin, other: Bin) -> Iterator[tuple[list[Piece], list[Piece]]]:
    """What may leave with the piece, and what comes back for it, so that both domains hold."""
    if other.free >= piece.gpus:
        yield [piece], []
    back = _in_the_way(other, piece.gpus + 1, piece.gpus - other.free)
    if back and sum(p.gpus for p in back) <= home.free + piece.gpus:
        yield [piece], back
    for partner in dict.fromkeys(other.pieces):
        if partner.demand == piece.demand or partner.gpus < piece.gpus:
            continue
        rest = Bin(home.node, home.room, [p for p in home.pieces if p.demand != piece.demand])
        with_it = _in_the_way(rest, partner.gpus, partner.gpus - piece.gpus - home.free)
        if with_it is None:
            continue
        if piece.gpus + sum(p.gpus for p in with_it) <= other.free + partner.gpus:
            yield [piece, *with_it], [partner]


def _swap(
    packing: Packing, one: tuple[Sequence[Piece], Bin], two: tuple[Sequence[Piece], Bin]
) -> None:
    (out, home), (back, other) = one, two
    for piece in out:
        packing.take(piece, home)
    for piece in back:
        packing.take(piece, other)
        packing.put(piece, home)
    for piece in out:
        packing.put(piece, other)


def _piece(model: Model, demand: int, variant: int, pool: int) -> Piece:
    gpus = model.demands[demand].variants[variant].gpus
    return Piece(demand, variant, pool, gpus, _billionths_of(model, demand, variant) / 1e9)


def _billionths_of(model: Model, demand: int, variant: int) -> int:
    asked = model.demands[demand]
    unit_rps = asked.rate_rps or max(v.rate_rps for v in asked.variants)
    return max(round(1e9 * asked.variants[variant].rate_rps / unit_rps), 1)


def _billionths(piece: Piece) -> int:
    return max(round(1e9 * piece.share), 1)
