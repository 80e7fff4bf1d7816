"""ENOVA as it is open: constant rules on minutes of metrics, and its faults.

Two calls a tick. `anomaly_detect`: an anomaly is 50 pending requests, summed over the replicas, in
three minutes running, or, with two replicas or more, mean cache use ≤ 10 % and mean running
requests ≤ a tenth of `max_num_seqs` in all three. `anomaly_recover`: the new count, if every
replica of the specification has a series. Kept faults:

- a minute without a sample reads as zero, in the middle of a series as well as before it;
- a series that ends early turns the sums of the later minutes into nothing;
- a replica counts only with five regular samples, so nothing moves for five minutes after a start;
- the series of a removed replica stay in the three hours that are asked for: until they are gone
  the counts differ and nothing moves;
- up needs cache use ≥ 90 % or nine tenths of `max_num_seqs` running, else the metrics "may be
  made-up"; the factor is requests that came over requests that succeeded, an overflow with none;
- down halves whatever the load is.

Changes of tensor parallelism, memory share and `max_num_seqs` are outside the replay, so that the
memory factor of a scale-up is one. The VAE detector of the paper is in no public code. Another
commit of the same file has 10 pending requests and a regularity of 0.4; the grid tries 10.

Source: Emerging-AI/ENOVA `enova/algo/service.py` (`llm_performance_ad`, `llm_config_recovery`,
`metric_norm`), `escaler/pkg/detector/performance.go` (queries), `detector.go`.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import ceil, isnan, nan

from controller.replay.opponents.common import Timed, bounded, current, hold, quantile, remember
from controller.replay.opponents.peer import Peer
from controller.replay.policy import Fleet, Known, ReplicaSample, Scrape, Wish

STEP_S = 60.0
"""Of the range queries."""
LEAST_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class EnovaSettings:
    """Keyword arguments of the rules, and the detector's interval and range."""

    detect_window: int = 3
    """Minutes."""
    pending_threshold: float = 50.0
    """Requests, summed over the replicas."""
    gpu_kv_cache_threshold: float = 10.0
    """Per cent."""
    running_threshold: float = 0.1
    """Of `max_num_seqs`."""
    regularity: float = 0.8
    """Share of equal gaps that a series must exceed to count."""
    detect_interval_s: float = 30.0
    query_range_s: float = 10_800.0


@dataclass(frozen=True, slots=True)
class Minute:
    """One scrape as Prometheus keeps it."""

    replicas: tuple[ReplicaSample, ...]
    arrivals: int
    finished: int


@dataclass(frozen=True, slots=True)
class EnovaState:
    """What Prometheus remembers; ENOVA itself remembers nothing."""

    known: Known
    scrapes: Timed[Minute] = ()


Series = dict[int, ReplicaSample]
"""One replica's samples by minutes from now, zero and below, oldest first."""

DEFAULTS = EnovaSettings()


class Enova(Peer[EnovaState]):
    """The detector's tick: an anomaly, then a recovery."""

    name = "enova"

    def __init__(self, settings: EnovaSettings = DEFAULTS) -> None:
        self.settings = settings
        self.interval_s = settings.detect_interval_s

    @staticmethod
    def grid() -> tuple[EnovaSettings, ...]:
        """Thresholds, windows, and a range that forgets removed replicas."""
        return tuple(
            EnovaSettings(pending_threshold=pending, detect_window=window, query_range_s=range_s)
            for pending, window, range_s in product(
                (50.0, 10.0, 3.0), (3, 2), (10_800.0, 1800.0, 420.0)
            )
        )

    def begin(self, known: Known) -> EnovaState:
        """Remember nothing."""
        return EnovaState(known)

    def rule(
        self, scrape: Scrape | None, fleet: Fleet, state: EnovaState, now_s: float
    ) -> tuple[Wish, EnovaState]:
        """Detect, then recover; a failed scrape leaves a hole in the series."""
        if scrape is not None:
            minute = Minute(scrape.replicas, scrape.arrivals, scrape.finished)
            kept = remember(state.scrapes, now_s, minute, self.settings.query_range_s)
            state = replace(state, scrapes=kept)
        series = self._series(state, now_s)
        replicas = current(fleet)
        if not self._anomaly(series, replicas, state.known):
            return hold(fleet, state.known, "no anomaly"), state
        if len(series) != replicas:
            return hold(fleet, state.known, "collected series are not the replicas"), state
        count, reason = self._recover(series, replicas, state, now_s)
        return Wish(bounded(count, state.known), reason), state

    def _series(self, state: EnovaState, now_s: float) -> list[Series]:
        """Answer the range query: a sample a minute back from now, and what counts as a series."""
        found: dict[str, Series] = {}
        half_s = self.settings.detect_interval_s / 2
        for at_s, minute in state.scrapes:
            steps = round((now_s - at_s) / STEP_S)
            inside = now_s - at_s < self.settings.query_range_s
            if inside and abs(now_s - at_s - steps * STEP_S) < half_s:
                for sample in minute.replicas:
                    found.setdefault(sample.name, {})[-steps] = sample
        # In Go the order is a map's, that is, random; by name it is the same every time.
        return [found[name] for name in sorted(found) if self._regular(found[name])]

    def _regular(self, series: Series) -> bool:
        if len(series) < LEAST_SAMPLES:
            return False
        gaps = Counter(later - earlier for earlier, later in pairwise(series))
        return gaps.most_common(1)[0][1] / gaps.total() > self.settings.regularity

    def _anomaly(self, series: list[Series], replicas: int, known: Known) -> bool:
        if not series:
            return False
        rules, window = self.settings, self.settings.detect_window
        if _all_over(_summed(series, _pending, window), rules.pending_threshold):
            return True
        if replicas == 1:
            return False
        use = _averaged(series, _cache_use, window)
        running = _averaged(series, _running, window)
        batch = rules.running_threshold * known.max_num_seqs
        return all(value <= rules.gpu_kv_cache_threshold for value in use) and all(
            value <= batch for value in running
        )

    def _recover(
        self, series: list[Series], replicas: int, state: EnovaState, now_s: float
    ) -> tuple[int, str]:
        """Give the recommended replicas."""
        rules, window = self.settings, self.settings.detect_window
        batch = _p90(_averaged(series, _running, window)) / state.known.max_num_seqs
        use = _p90(_averaged(series, _cache_use, window))
        if _all_over(_summed(series, _pending, window), rules.pending_threshold):
            if use < 90.0 and batch < 0.9:
                return replicas, "the collected metrics may be made-up"
            return self._scaled_up(replicas, state, now_s)
        if batch < rules.running_threshold and use < rules.gpu_kv_cache_threshold:
            return ceil(replicas / 2), "scale down"
        return replicas, "no recovery"

    def _scaled_up(self, replicas: int, state: EnovaState, now_s: float) -> tuple[int, str]:
        """Ask for new requests over successful requests times the replicas."""
        minutes = [now_s - step * STEP_S for step in range(self.settings.detect_window)]
        new = _p90(_increases(state.scrapes, minutes, lambda minute: minute.arrivals))
        success = _p90(_increases(state.scrapes, minutes, lambda minute: minute.finished))
        if success == 0.0:
            return replicas, "OverflowError: no request succeeded"
        return max(ceil(new / success * replicas), replicas), "scale up"


def _pending(sample: ReplicaSample) -> float:
    return sample.waiting


def _running(sample: ReplicaSample) -> float:
    return sample.running


def _cache_use(sample: ReplicaSample) -> float:
    return sample.kv_usage_ratio * 100.0


def _aligned(
    series: list[Series], value: Callable[[ReplicaSample], float], window: int
) -> list[float]:
    """Sum the replicas over the last minutes OF THE FIRST; NaN where another has ended by then."""
    end = max(series[0])
    minutes = range(end - window + 1, end + 1)
    return [sum(_at(one, minute, value) for one in series) for minute in minutes]


def _at(series: Series, minute: int, value: Callable[[ReplicaSample], float]) -> float:
    """A hole is filled with zero; after its end a series has nothing."""
    if minute > max(series):
        return nan
    sample = series.get(minute)
    return 0.0 if sample is None else value(sample)


def _summed(
    series: list[Series], value: Callable[[ReplicaSample], float], window: int
) -> list[float]:
    """`resample.sum()`: nothing sums to zero."""
    return [0.0 if isnan(total) else total for total in _aligned(series, value, window)]


def _averaged(
    series: list[Series], value: Callable[[ReplicaSample], float], window: int
) -> list[float]:
    """`resample.mean() / replicas`: nothing stays nothing, and no comparison with it holds."""
    return [total / len(series) for total in _aligned(series, value, window)]


def _all_over(values: Iterable[float], threshold: float) -> bool:
    return all(value >= threshold for value in values)


def _p90(values: list[float]) -> float:
    return nan if any(isnan(value) for value in values) else quantile(values, 0.9) or 0.0


def _increases(
    scrapes: Timed[Minute], minutes: list[float], count: Callable[[Minute], int]
) -> list[float]:
    """Counts of the minute before each moment; a hole counts nothing."""
    return [
        float(sum(count(minute) for at_s, minute in scrapes if end_s - STEP_S < at_s <= end_s))
        for end_s in minutes
    ]
