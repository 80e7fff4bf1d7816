"""What a Prometheus counted interval by interval, for a trace to be rebuilt from.

Called by `whaleflux replay --prometheus`; `controller.replay.history` makes a trace of it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from controller.replay.counted import Buckets, Counted
from controller.traffic.counts import (
    LENGTHS,
    Floats,
    Notes,
    arrivals_per_interval,
    key_of,
    notes_of,
)
from controller.traffic.prometheus import SLACK, Asked, engines_of
from monitor import Grid, Prometheus
from profiler.errors import Refused


async def history_from_prometheus(
    prometheus: Prometheus,
    matchers: Mapping[str, str],
    since_s: float,
    until_s: float,
    step_s: float = 15.0,
) -> tuple[Counted, Notes]:
    """Read what one model's engines, however many, counted between two moments.

    Moments are seconds since the epoch. Intervals of `step_s` are made a multiple of the
    scrape's own. `matchers`: labels that choose the engines; they must leave one model. Raises
    `Refused` and `RetryLater`.
    """
    if not since_s < until_s:
        raise Refused(f"history: begins at {since_s:g} and ends at {until_s:g}: let it last")
    engines = await engines_of(prometheus, matchers, until_s - since_s, until_s)
    asked = Asked(prometheus, engines, until_s, end_s=until_s)
    interval_s = await asked.interval_s(step_s)
    finished, held = await asked.requests(interval_s)
    came = arrivals_per_interval(finished.values, held)
    prompts, answers = [await _buckets(asked, name, interval_s) for name in LENGTHS]
    if prompts is None or answers is None:
        missing = LENGTHS["prompt_length" if prompts is None else "generation_length"]
        raise Refused(f"{prometheus.shown}: has no {missing}: keep them when it scrapes")
    counted = Counted(
        begin_s=float(finished.at_s[0]),
        interval_s=interval_s,
        came=came,
        held=np.nansum(held, axis=0)[:-1],
        engines=np.isfinite(finished.values).sum(axis=0)[:-1].astype(np.float64),
        prompts=prompts,
        answers=answers,
        ttft_s=await _buckets(asked, "ttft", interval_s),
        hit_ratio=await asked.hit_ratio(),
    )
    return counted, tuple(dict.fromkeys([*asked.notes, *notes_of(came)]))


async def _buckets(asked: Asked, name: str, interval_s: float) -> Buckets | None:
    """A histogram's growth in each interval; None: nobody publishes it."""
    e = asked.engines
    bases = e.dialect.histograms.get(name, ())
    if not bases:
        return None
    grids = [
        await asked.grid(
            e.by_engine(
                [base + suffix for base in bases], "last_over_time", interval_s * (1 + SLACK), label
            ),
            interval_s,
        )
        for suffix, label in (("_bucket", "le"), ("_sum", ""))
    ]
    cumulative, sums = grids
    return _counted(cumulative, _grown(sums.values).sum(axis=0)) if cumulative.labels else None


class _Bound(NamedTuple):
    """A bucket's upper bound, and what was counted up to it."""

    upper: float
    counts: Floats
    """[intervals]."""


def _counted(cumulative: Grid, total: Floats) -> Buckets:
    """Counts of each bucket, those of all engines that have it together."""
    engines: dict[tuple[str, ...], list[_Bound]] = {}
    for labels, row in zip(cumulative.labels, _grown(cumulative.values), strict=True):
        engines.setdefault(key_of(labels), []).append(_Bound(float(labels["le"]), row))
    found: dict[tuple[float, float], Floats] = {}
    for bounds in engines.values():
        below = _Bound(0.0, np.zeros(total.size))
        for bound in sorted(bounds, key=lambda bound: bound.upper):
            inside = np.maximum(bound.counts - below.counts, 0.0)
            key = (below.upper, bound.upper)
            found[key] = found.get(key, np.zeros(total.size)) + inside
            below = bound
    lower, upper = np.array(list(found)).T
    return Buckets(lower, upper, np.stack([*found.values()], axis=1), total)


def _grown(values: Floats) -> Floats:
    """[series, intervals] what counters grew by; nothing where that is not known.

    There it is not known either what came, and the interval is cut out.
    """
    return np.maximum(np.nan_to_num(np.diff(values, axis=1)), 0.0)
