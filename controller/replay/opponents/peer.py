"""What surrounds every peer's rule: a workload that keeps its count, and scrapes that parse.

The modules beside it derive from `Peer` and give `begin` and `rule`. Two things are the same for
all, and none of them the rule's business:

- The count asked for stands until it is changed. A Deployment (or Ray's, or Dynamo's controller)
  replaces a replica that dies by itself; the replay does not. So a rule sees, as `starting`, what
  is missing of what it asked for.
- A value that is no number, or below zero, is no value: its replica has not answered.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite
from typing import Generic, TypeVar

from controller.replay.policy import Fleet, Known, ReplicaSample, Scrape, Wish

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Kept(Generic[S]):
    """A rule's state, and the count that stands."""

    inner: S
    asked: int | None = None


class Peer(ABC, Generic[S]):
    """A policy made of one peer's rule."""

    name = ""
    interval_s = 0.0

    @abstractmethod
    def begin(self, known: Known) -> S:
        """Give the rule's state to begin with."""

    @abstractmethod
    def rule(self, scrape: Scrape | None, fleet: Fleet, state: S, now_s: float) -> tuple[Wish, S]:
        """Decide as the peer does."""

    def start(self, known: Known) -> Kept[S]:
        """Give the state to begin with."""
        return Kept(self.begin(known))

    def decide(
        self, scrape: Scrape | None, fleet: Fleet, state: Kept[S], now_s: float
    ) -> tuple[Wish, Kept[S]]:
        """Say how many replicas are wanted; None: the scrape failed or has not come yet."""
        readable = None if scrape is None else parsed(scrape)
        wish, inner = self.rule(readable, standing(fleet, state.asked), state.inner, now_s)
        return wish, Kept(inner, wish.replicas)


def standing(fleet: Fleet, asked: int | None) -> Fleet:
    """Count what is missing of the count that stands as starting."""
    if asked is None:
        return fleet
    return replace(fleet, starting=max(asked - fleet.serving, 0))


def parsed(scrape: Scrape) -> Scrape:
    """Leave out what is no number."""
    return replace(
        scrape,
        replicas=tuple(replica for replica in scrape.replicas if _parses(replica)),
        ttft_s=_numbers(scrape.ttft_s),
        itl_s=_numbers(scrape.itl_s),
        e2e_s=_numbers(scrape.e2e_s),
    )


def _parses(replica: ReplicaSample) -> bool:
    return all(
        isfinite(value) and value >= 0.0
        for value in (replica.running, replica.waiting, replica.kv_usage_ratio)
    )


def _numbers(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(value for value in values if isfinite(value) and value >= 0.0)
