"""What scrapes show of a fleet, and what goes wrong with them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from controller.replay.ledger import Ledger
from controller.replay.policy import ReplicaSample, Scrape
from controller.replay.replica import Replica
from controller.replay.terms import Faults

_COUNTED = (
    "since_s", "arrivals", "finished", "prompt_tokens", "generation_tokens", "ttft_s", "itl_s",
    "e2e_s", "input_tokens", "output_tokens",
)  # fmt: skip


class Scraper:
    """Scrapes one fleet; counts are those since the last scrape that went well."""

    def __init__(self, faults: Faults, began_s: float, seed: int) -> None:
        self.latest: Scrape | None = None
        """None: the last one failed, or none was made."""
        self._faults = faults
        self._told_s = began_s
        self._told_arrivals = 0
        self._unread: Scrape | None = None
        """What was shown as nonsense: counters go on, and tell it once they are sound."""
        self._chance = np.random.default_rng((seed, 1))

    def scrape(
        self, replicas: Sequence[Replica], ledger: Ledger, came: int, queued: int, now_s: float
    ) -> None:
        """Look at those that serve; `came`: arrivals so far, `queued`: held by the router."""
        missed = self._chance.random() < self._faults.missed_ratio
        silent = [r for r in replicas if self._chance.random() < self._faults.silent_ratio]
        if missed or any(span.holds(now_s) for span in self._faults.missed_scrapes):
            self.latest = None
            return
        told = ledger.tell(np.array([r.number for r in silent], np.int64), now_s)
        self.latest = self._shown(
            Scrape(
                at_s=now_s,
                since_s=now_s - self._told_s,
                replicas=tuple(_sample(r) for r in replicas if r not in silent),
                arrivals=came - self._told_arrivals,
                finished=told.finished,
                prompt_tokens=told.prompt_tokens,
                generation_tokens=told.tokens,
                ttft_s=tuple(told.ttft_s.tolist()),
                itl_s=tuple(told.itl_s.tolist()),
                e2e_s=tuple(told.e2e_s.tolist()),
                input_tokens=tuple(told.input_tokens.tolist()),
                output_tokens=tuple(told.output_tokens.tolist()),
                gateway_waiting=queued,
            )
        )
        self._told_s, self._told_arrivals = now_s, came

    def _shown(self, scrape: Scrape) -> Scrape:
        """Put nonsense in place of what is measured, where that is asked for."""
        if self._unread is not None:
            sums = {name: getattr(self._unread, name) + getattr(scrape, name) for name in _COUNTED}
            scrape = replace(scrape, **sums)
        fault = next((f for f in self._faults.garbled if f.span.holds(scrape.at_s)), None)
        self._unread = None if fault is None else scrape
        if fault is None:
            return scrape
        bad = fault.value
        return replace(
            scrape,
            replicas=tuple(ReplicaSample(r.name, bad, bad, bad) for r in scrape.replicas),
            ttft_s=(bad,) * len(scrape.ttft_s),
            itl_s=(bad,) * len(scrape.itl_s),
            e2e_s=(bad,) * len(scrape.e2e_s),
            input_tokens=(),
            output_tokens=(),
        )


def _sample(replica: Replica) -> ReplicaSample:
    return ReplicaSample(
        replica.name,
        float(replica.running),
        float(replica.waiting),
        replica.kv_usage_ratio,
        replica.counts,
    )
