"""Where replicas stand: on nodes without end, or on the GPUs of a pool that others use too.

A world asks for a place when it starts a replica and gives it back when the replica is gone.
The place says how long the start takes: a standby that sleeps on a GPU wakes there, and nowhere
else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import NamedTuple, Protocol

from controller.replay.terms import Terms
from profiler.errors import Refused


class Spot(NamedTuple):
    """A replica's place."""

    node: int
    start_up_s: float
    """From taking the place until the replica serves."""
    cards: tuple[int, ...] = ()
    """The pool's GPUs that it takes."""


class Ground(Protocol):
    """What a world asks for places."""

    def take(self, now_s: float) -> Spot | None:
        """Take a place for one replica; None: there is none now."""

    def leave(self, spot: Spot, at_s: float) -> None:
        """Give a place back, of a replica that was gone at a moment."""

    def lose(self, node: int) -> None:
        """Never give a place on this node again."""


class Nodes:
    """Nodes without end, filled one after the other."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._taken: list[int] = []
        self._lost: set[int] = set()

    def take(self, now_s: float) -> Spot | None:
        """Give the first node that lives and has room."""
        node = 0
        while node in self._lost or self._taken.count(node) >= self._terms.replicas_per_node:
            node += 1
        self._taken.append(node)
        return Spot(node, self._terms.start_up_s)

    def leave(self, spot: Spot, at_s: float) -> None:
        """Make room on its node."""
        self._taken.remove(spot.node)

    def lose(self, node: int) -> None:
        """Pass it over from now on."""
        self._lost.add(node)


@dataclass(frozen=True, slots=True)
class Asleep:
    """Standbys that sleep on the pool's GPUs, one process each, their weights in host memory."""

    wake_s: float = 3.0
    sleep_s: float = 1.0
    """After its last token, until the weights of a replica are off the GPU."""
    host_copies: int | None = None
    """Sleepers that the host memory of a node holds, one per GPU and service; dealt to the
    services in turn. None: every service sleeps on every GPU."""

    def __post_init__(self) -> None:
        """Refuse what takes no time one could wait for."""
        for name in ("wake_s", "sleep_s"):
            if not 0 <= getattr(self, name) < inf:
                raise Refused(f"{name} must be a number of 0 or more, got {getattr(self, name)}")
        if self.host_copies is not None and self.host_copies < 0:
            raise Refused(f"host_copies must be 0 or more, got {self.host_copies}")

    def beds(self, services: int, cards: int, per_node: int) -> Iterator[tuple[int, int]]:
        """Who sleeps where: pairs of service and GPU."""
        for first in range(0, cards, per_node):
            node = range(first, min(first + per_node, cards))
            for i, (turn, card) in enumerate(product(range(services), node)):
                if self.host_copies is None or i < self.host_copies:
                    yield (card + turn) % services, card


class Cards:
    """The GPUs of a pool, by number; nodes are filled one after the other."""

    def __init__(self, gpus: int, per_node: int, asleep: Asleep | None, services: int) -> None:
        self._per_node, self._asleep = per_node, asleep
        self._free_s = [0.0] * gpus
        """From when each is free; infinite while it is taken, or once it is lost."""
        self._beds = set() if asleep is None else set(asleep.beds(services, gpus, per_node))
        self._lost: set[int] = set()

    @property
    def left(self) -> int:
        """GPUs that are not lost."""
        return sum(card // self._per_node not in self._lost for card in range(len(self._free_s)))

    def take(self, service: int, gpus: int, cold_s: float, now_s: float) -> Spot | None:
        """Take GPUs that lie side by side, first where the service sleeps."""
        free = [cards for cards in self._groups(gpus) if self._are_free(cards, now_s)]
        if not free:
            return None
        cards = min(free, key=lambda each: (not self._sleeps(service, each), each))
        for card in cards:
            self._free_s[card] = inf
        wakes = self._asleep is not None and self._sleeps(service, cards)
        start_up_s = self._asleep.wake_s if self._asleep is not None and wakes else cold_s
        return Spot(cards[0] // self._per_node, start_up_s, cards)

    def leave(self, service: int, spot: Spot, at_s: float) -> None:
        """Free GPUs, once a replica that goes to sleep there is asleep."""
        if self._asleep is not None and self._sleeps(service, spot.cards):
            at_s += self._asleep.sleep_s
        for card in spot.cards:
            self._free_s[card] = at_s

    def lose(self, node: int) -> None:
        """Take a node's GPUs away for good."""
        self._lost.add(node)

    def _groups(self, gpus: int) -> Iterator[tuple[int, ...]]:
        total = len(self._free_s)
        for node in range(0, total, self._per_node):
            end = min(node + self._per_node, total)
            for first in range(node, end - gpus + 1, gpus):
                yield tuple(range(first, first + gpus))

    def _are_free(self, cards: tuple[int, ...], now_s: float) -> bool:
        lives = cards[0] // self._per_node not in self._lost
        return lives and all(self._free_s[card] <= now_s for card in cards)

    def _sleeps(self, service: int, cards: tuple[int, ...]) -> bool:
        return all((service, card) in self._beds for card in cards)


@dataclass(frozen=True, slots=True)
class Lot:
    """A pool's GPUs as one service asks for them."""

    cards: Cards
    service: int
    gpus: int
    """Of one replica."""
    cold_s: float
    """Start-up time where no standby sleeps."""

    def take(self, now_s: float) -> Spot | None:
        """Take a place, if there is one."""
        return self.cards.take(self.service, self.gpus, self.cold_s, now_s)

    def leave(self, spot: Spot, at_s: float) -> None:
        """Give it back."""
        self.cards.leave(self.service, spot, at_s)

    def lose(self, node: int) -> None:
        """Lose it for everybody."""
        self.cards.lose(node)
