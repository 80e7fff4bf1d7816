"""Policies by name, and their replays one after the other."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from controller.replay.opponents import ALL
from controller.replay.ours import ours
from controller.replay.outcome import Outcome
from controller.replay.run import replay
from controller.replay.served import Served
from controller.replay.static import smallest
from controller.replay.terms import Terms
from profiler.errors import Refused
from profiler.trace import Trace

Run = Callable[[], Outcome]

OURS, STATIC, EVERYONE = "whaleflux", "static", "all"
USUAL = (OURS, STATIC, "hpa")


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Names of the policies asked for, each once; `Refused` names those that there are."""
    known = (OURS, STATIC, *(factory().name for factory in ALL))
    asked = dict.fromkeys(names or USUAL)
    for name in asked:
        if name not in (*known, EVERYONE):
            raise Refused(f"--policy {name}: is none of {', '.join(known)}, {EVERYONE}")
    return known if EVERYONE in asked else tuple(asked)


def runs(
    names: Sequence[str], trace: Trace, served: Served, terms: Terms
) -> Iterator[tuple[str, Run]]:
    """Each policy's name and its replay; `static`: the smallest constant fleet that attains."""
    factories = {factory().name: factory for factory in ALL}
    for name in names:
        if name == STATIC:
            yield name, partial(smallest, trace, served, terms, served.slo.percentile)
        else:
            ourselves = name == OURS
            policy = ours(served, terms, terms.scrape_s) if ourselves else factories[name]()
            yield name, partial(replay, trace, served, policy, terms)
