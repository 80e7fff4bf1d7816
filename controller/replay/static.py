"""A constant number of replicas, and the smallest that serves a trace well."""

from dataclasses import dataclass, replace

from controller.replay.outcome import Outcome
from controller.replay.policy import Fleet, Known, Scrape, Wish
from controller.replay.run import replay
from controller.replay.served import Served
from controller.replay.terms import Terms
from profiler.trace import Trace

SHARE = 0.99
"""Of the requests that must attain the SLO."""


@dataclass(slots=True)
class Static:
    """So many replicas, always; what dies is replaced."""

    replicas: int
    interval_s: float = 15.0
    name: str = ""
    """As reports call it."""

    def __post_init__(self) -> None:
        """Name it by its count."""
        self.name = self.name or f"static-{self.replicas}"

    def start(self, known: Known) -> None:
        """Remember nothing."""

    def decide(
        self, scrape: Scrape | None, fleet: Fleet, state: None, now_s: float
    ) -> tuple[Wish, None]:
        """Want the same whatever is seen."""
        return Wish(self.replicas, "fixed"), None


def constant(trace: Trace, served: Served, replicas: int, terms: Terms) -> Outcome:
    """Replay a constant fleet that is there from the first moment."""
    terms = replace(
        terms, initial=replicas, min_replicas=min(terms.min_replicas, replicas),
        max_replicas=max(terms.max_replicas, replicas),
    )  # fmt: skip
    return replay(trace, served, Static(replicas), terms)


def smallest(trace: Trace, served: Served, terms: Terms, share: float = SHARE) -> Outcome:
    """Find the smallest constant fleet at which `share` of the requests attain the SLO.

    Where not even the most replicas reach that, the smallest that does as well as they do.
    """
    tried: dict[int, Outcome] = {}

    def reaches(replicas: int, target: float) -> bool:
        if replicas not in tried:
            tried[replicas] = constant(trace, served, replicas, terms)
        return tried[replicas].attained_ratio >= target

    low, high = 0, max(terms.min_replicas, 1)  # low fails
    while high < terms.max_replicas and not reaches(high, share):
        low, high = high, min(2 * high, terms.max_replicas)
    if not reaches(high, share):
        low, share = 0, tried[high].attained_ratio
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle, share) else (middle, high)
    return tried[high]
