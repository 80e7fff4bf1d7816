"""Scrapes and fleets for the opponents' tests, and what drives a policy over them."""

from collections.abc import Sequence
from typing import Any

from controller.replay.policy import Fleet, Known, Policy, ReplicaSample, Scrape, Wish


def known(**overrides: Any) -> Known:
    """A replica that carries 4 requests/s with 50 in flight."""
    fields: dict[str, Any] = {
        "capacity_rps": 4.0,
        "max_num_seqs": 256,
        "kv_capacity_tokens": 100_000,
        "ttft_s": 1.0,
        "itl_s": 0.05,
        "percentile": 0.99,
        "start_up_s": 120.0,
        "min_replicas": 1,
        "max_replicas": 100,
        "prefill_tokens_s": 20_000.0,
        "decode_tokens_s": 1_000.0,
    }
    return Known(**(fields | overrides))


def sample(
    name: str = "r0", running: float = 0.0, waiting: float = 0.0, kv: float = 0.0
) -> ReplicaSample:
    return ReplicaSample(name, running, waiting, kv)


def each(loads: Sequence[float]) -> tuple[ReplicaSample, ...]:
    """One replica per number of running requests."""
    return tuple(sample(f"r{place}", running=load) for place, load in enumerate(loads))


def filled(uses: Sequence[float], waiting: float = 0.0) -> tuple[ReplicaSample, ...]:
    """One replica per cache use."""
    return tuple(sample(f"r{place}", waiting=waiting, kv=use) for place, use in enumerate(uses))


def scrape(at_s: float = 0.0, replicas: tuple[ReplicaSample, ...] = (), **counts: Any) -> Scrape:
    fields: dict[str, Any] = {
        "since_s": 15.0,
        "arrivals": 0,
        "finished": 0,
        "prompt_tokens": 0,
        "generation_tokens": 0,
        "ttft_s": (),
        "itl_s": (),
        "e2e_s": (),
        "input_tokens": (),
        "output_tokens": (),
    }
    return Scrape(at_s=at_s, replicas=replicas, **(fields | counts))


def fleet(serving: int, starting: int = 0) -> Fleet:
    return Fleet(serving, starting)


class Driver:
    """A policy, its state, and a fleet that has at once what it wishes, unless told otherwise."""

    def __init__(self, policy: Policy, told: Known, serving: int) -> None:
        self.policy = policy
        self.state = policy.start(told)
        self.serving, self.starting = serving, 0
        self.now_s = 0.0
        self.reasons: list[str] = []

    def tick(self, seen: Scrape | None, *, ready: bool = True) -> Wish:
        """Show a scrape, follow the wish, go on one interval."""
        there = fleet(self.serving, self.starting)
        wish, self.state = self.policy.decide(seen, there, self.state, self.now_s)
        self.now_s += self.policy.interval_s
        self.reasons.append(wish.reason)
        if ready or wish.replicas <= self.serving:
            self.serving, self.starting = wish.replicas, 0
        else:
            self.starting = wish.replicas - self.serving
        return wish
