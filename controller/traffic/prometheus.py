"""The workload that a Prometheus saw: of every replica of one model, over a window.

Called by `whaleflux plan`; `history` asks the same questions for a replay. What engines call their
metrics stands in `monitor.aliases`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from controller.traffic.counts import (
    LENGTHS,
    SMOOTHED,
    TARGET,
    Floats,
    Notes,
    arrivals_per_interval,
    hit_ratio_of,
    key_of,
    merged_lengths,
    notes_of,
    open_ended,
)
from monitor import Grid, Prometheus, Sample, duration, selector
from monitor.aliases import DIALECTS, Dialect
from profiler.errors import Refused
from recommender import LengthCounts, Workload, workload_from_counts

_RECENT_S = 3600.0
"""Time that tells a scrape's interval, where there were scrapes in it."""
SLACK = 0.1
"""Of an interval: how much older a sample may be and still stand for a moment."""


async def traffic_from_prometheus(
    prometheus: Prometheus,
    matchers: Mapping[str, str],
    window_s: float,
    now_s: float,
    step_s: float = 15.0,
) -> tuple[Workload, Notes]:
    """Read what one model's engines, however many, were asked in the last `window_s`.

    Arrivals are counted over intervals of `step_s`, made a multiple of the scrape's own
    interval. `matchers`: labels that choose the engines; they must leave one model. `now_s`:
    seconds since the epoch. Raises `Refused` and `RetryLater`.
    """
    engines = await engines_of(prometheus, matchers, window_s, now_s)
    asked = Asked(prometheus, engines, now_s, end_s=now_s)
    interval_s = await asked.interval_s(step_s)
    counts = await asked.arrivals(interval_s)
    prompts, answers = [await asked.lengths(name) for name in LENGTHS]
    hit_ratio = await asked.hit_ratio()
    notes = [*asked.notes, *notes_of(counts), *open_ended(prompts, answers)]
    workload = workload_from_counts(list(counts), interval_s, prompts, answers, hit_ratio)
    return workload, tuple(dict.fromkeys(notes))


@dataclass(frozen=True, slots=True)
class Engines:
    """Which series are asked for."""

    dialect: Dialect
    matchers: Mapping[str, str]
    window_s: float

    def by_engine(self, names: Sequence[str], over: str, width_s: float, label: str = "") -> str:
        """An expression with a value per engine; the newest name it knows counts.

        `over`: what is made of the samples of the last `width_s`; `label`: kept apart too.
        """
        kept = ",".join((*TARGET, label) if label else TARGET)
        return " or ".join(
            f"sum by ({kept}) ({over}({selector([name], self.matchers)}[{duration(width_s)}]))"
            for name in _spelled(names)
        )

    @property
    def ended(self) -> tuple[str, ...]:
        """Counters of ended requests, to be added up."""
        return tuple(ended.metric for ended in self.dialect.finished)


def _spelled(names: Iterable[str]) -> tuple[str, ...]:
    """Each name as the engine spells it, and as it may be stored.

    Where Prometheus asks for OpenMetrics, as it does by itself, Python's client (0.26 does)
    writes samples with `_` for `:` (prometheus/client_python, issue 1177).
    """
    return tuple(dict.fromkeys(way for name in names for way in (name, name.replace(":", "_"))))


async def engines_of(
    prometheus: Prometheus, matchers: Mapping[str, str], window_s: float, now_s: float
) -> Engines:
    """The one kind of engine and the one model that the matchers leave."""
    if not window_s > 0:
        raise Refused(f"window: must be positive, got {window_s} s")
    found = await _models(prometheus, matchers, window_s, now_s)
    if len(found) == 1:
        return Engines(found[0][0], matchers, window_s)
    if found:
        raise Refused(
            f"{prometheus.shown}: several models match: {_named(found)}: choose by "
            f"model_name=NAME, or by another label"
        )
    given = ", ".join(f"{label}={value}" for label, value in matchers.items())
    others = await _models(prometheus, {}, window_s, now_s) if matchers else []
    if others:
        raise Refused(f"{prometheus.shown}: no engine has {given}: there are {_named(others)}")
    known = ", ".join(dialect.engine for dialect in DIALECTS)
    raise Refused(
        f"{prometheus.shown}: holds no requests of {known} in the last {window_s:g} s: let it "
        f"scrape the engines' /metrics, or take a longer window"
    )


async def _models(
    prometheus: Prometheus, matchers: Mapping[str, str], window_s: float, now_s: float
) -> list[tuple[Dialect, str]]:
    found = []
    for dialect in DIALECTS:
        chosen = selector(_spelled(ended.metric for ended in dialect.finished), matchers)
        query = f"count by (model_name) (last_over_time({chosen}[{duration(window_s)}]))"
        answer = await prometheus.instant_query(query, now_s)
        names = sorted(sample.labels.get("model_name", "") for sample in answer.samples)
        found += [(dialect, name) for name in names]
    return found


def _named(found: Iterable[tuple[Dialect, str]]) -> str:
    return ", ".join(f"{name or 'one without a name'} ({d.engine})" for d, name in found)


@dataclass(slots=True)
class Asked:
    """The questions of one reading; what was missing gathers in `notes`."""

    prometheus: Prometheus
    engines: Engines
    now_s: float
    end_s: float
    """Where the last interval ends: now, or up to a scrape earlier."""
    notes: list[str] = field(default_factory=list)

    async def interval_s(self, step_s: float) -> float:
        """The least multiple of the scrape's interval that is not below `step_s`.

        Any other would hold now one scrape more and now one fewer, and look bursty.
        """
        scraped_s = await self._scrapes()
        scrape_s = max(round(float(np.median(np.diff(scraped_s))), 2), 0.01)
        # half-way between two scrapes, so that one that is late by a little is not missed
        self.end_s = self.now_s - (self.now_s - scraped_s[-1] - scrape_s / 2) % scrape_s
        interval_s = scrape_s * max(np.ceil(step_s / scrape_s - 1e-6), 1.0)
        if interval_s != step_s:
            self.notes.append(
                f"engines are scraped every {scrape_s:g} s: arrivals are counted over "
                f"{interval_s:g} s"
            )
        if self.engines.window_s < 2 * interval_s:
            raise Refused(
                f"window: {self.engines.window_s:g} s holds fewer than two intervals of "
                f"{interval_s:g} s: take a longer one"
            )
        return float(interval_s)

    async def _scrapes(self) -> Floats:
        """[scrapes] of the engine that has most of them, seconds since the epoch."""
        e = self.engines
        for reach_s in sorted({min(_RECENT_S, e.window_s), e.window_s}):
            counted = e.by_engine(e.ended[:1], "count_over_time", reach_s)
            found = await self._instant(f"topk(1, {counted})")
            if found:
                chosen = selector(_spelled(e.ended[:1]), {**e.matchers, **found[0].labels})
                query = f"{chosen}[{duration(reach_s)}]"
                stored = await self.prometheus.stored_samples(query, self.now_s)
                longest = max((series.at_s for series in stored), key=np.size)
                if longest.size >= 3:
                    return longest
        raise Refused(
            f"{self.prometheus.shown}: fewer than three scrapes in {e.window_s:g} s: take a longer "
            f"window"
        )

    async def arrivals(self, interval_s: float) -> Floats:
        """[intervals] requests that came to all engines; NaN: unknown."""
        finished, held = await self.requests(interval_s)
        return arrivals_per_interval(finished.values, held)

    async def requests(self, interval_s: float) -> tuple[Grid, Floats]:
        """Requests ended since each engine's start, and [engines, points] under way."""
        e = self.engines
        width_s = interval_s * (1 + SLACK)
        ended = selector(_spelled(e.ended), e.matchers)
        finished = await self.grid(
            f"sum by ({','.join(TARGET)}) (last_over_time({ended}[{duration(width_s)}]))",
            interval_s,
        )
        _refuse_twice_scraped(finished, self.prometheus.shown)
        gauges = [e.dialect.gauges.get(name, ()) for name in ("running", "waiting")]
        query = " + ".join(f"({e.by_engine(g, 'last_over_time', width_s)})" for g in gauges if g)
        held = await self.grid(query, interval_s) if all(gauges) else None
        pairs = zip(held.labels, held.values, strict=True) if held else ()
        rows = {key_of(at): row for at, row in pairs}
        without = [at for at in finished.labels if key_of(at) not in rows]
        if without:
            self.notes.append(SMOOTHED.format(count=len(without)))
        zeros = np.zeros(finished.at_s.size)
        return finished, np.array([rows.get(key_of(at), zeros) for at in finished.labels])

    async def lengths(self, name: str) -> LengthCounts:
        """A histogram of lengths over the window, of all engines together."""
        e = self.engines
        bases = e.dialect.histograms.get(name, ())
        kinds = {
            suffix: e.by_engine([base + suffix for base in bases], "increase", e.window_s, label)
            for suffix, label in (("_bucket", "le"), ("_sum", ""))
        }
        buckets = await self._instant(kinds["_bucket"]) if bases else ()
        total = sum(s.value for s in await self._instant(kinds["_sum"])) if bases else 0.0
        if not buckets:
            raise Refused(
                f"{self.prometheus.shown}: has no {LENGTHS[name]} of {e.dialect.engine}: keep "
                f"{bases[0] if bases else name}_bucket when it scrapes"
            )
        return merged_lengths(buckets, total)

    async def hit_ratio(self) -> float:
        """Prompt tokens found in the prefix cache, of those looked up; 0 when unknown."""
        e = self.engines
        amounts = []
        for name in ("prefix_cache_hits_total", "prefix_cache_queries_total"):
            names = e.dialect.counters.get(name, ())
            found = await self._instant(e.by_engine(names, "increase", e.window_s)) if names else ()
            amounts.append(sum(s.value for s in found) if found else None)
        ratio, notes = hit_ratio_of(*amounts)
        self.notes += notes
        return ratio

    async def _instant(self, query: str) -> tuple[Sample, ...]:
        answer = await self.prometheus.instant_query(query, self.now_s)
        self._warn(answer.warnings)
        return tuple(s for s in answer.samples if np.isfinite(s.value))

    async def grid(self, query: str, interval_s: float) -> Grid:
        """Moments an interval apart, as many as the window holds, up to now."""
        steps = int(self.engines.window_s / interval_s + 1e-6)
        start_s = self.end_s - steps * interval_s
        grid = await self.prometheus.range_query(query, start_s, self.end_s, interval_s)
        self._warn(grid.warnings)
        return grid

    def _warn(self, warnings: Iterable[str]) -> None:
        self.notes += [f"{self.prometheus.shown} warns: {text}" for text in warnings]


def _refuse_twice_scraped(finished: Grid, shown: str) -> None:
    """One engine under two jobs at once would count twice."""
    seen: dict[tuple[str, ...], tuple[str, Floats]] = {}
    for labels, row in zip(finished.labels, finished.values, strict=True):
        job, key = labels.get("job", ""), key_of({**labels, "job": "", "pod": ""})
        other, its_row = seen.setdefault(key, (job, row))
        if other != job and bool(np.isfinite(row + its_row).any()):
            raise Refused(
                f"{shown}: {labels.get('instance', 'an engine')} is scraped by the jobs {other} "
                f"and {job}, so that its requests would count twice: choose by job={job}"
            )
