"""The detector in a replay: what scrapes show, as the live loop would read it.

Our policy keeps a `Watch` and the last `FleetReading` in its state, and is as wise as the live
loop; so what the detector would have done to a trace is told before it is trusted.
"""

from dataclasses import replace
from math import inf

from controller.replay.policy import Fleet, ReplicaSample, Scrape
from monitor import EngineSignals, Histogram
from monitor.detectors.reading import FleetReading, ReplicaReading
from profiler.scheduler import Limits


def fleet_reading(
    scrape: Scrape | None, fleet: Fleet, limits: Limits, before: FleetReading | None
) -> FleetReading:
    """Show the latest scrape as readings; None: it failed, or none was made.

    Who answered `before` and does not now is kept with its old page, as long as more replicas
    serve than answered: it is silent, not gone.
    """
    told = () if scrape is None else scrape.replicas
    at_s = 0.0 if scrape is None else scrape.at_s
    now = tuple(_reading(sample, at_s, limits) for sample in told)
    names = {replica.id for replica in now}
    old = () if before is None else before.replicas
    silent = [replica for replica in old if replica.id not in names]
    return FleetReading((*now, *silent[: max(fleet.serving - len(now), 0)]))


def _reading(sample: ReplicaSample, at_s: float, limits: Limits) -> ReplicaReading:
    return ReplicaReading(
        id=sample.name,
        admitted=True,
        ready_s=None,
        signals=_signals(sample, limits),
        at_s=at_s,
    )


def _signals(sample: ReplicaSample, limits: Limits) -> EngineSignals:
    """A page with what a replay counts; histograms know their count and sum alone."""
    page = EngineSignals(
        engine="replay",
        running=sample.running,
        waiting=sample.waiting,
        kv_usage_ratio=sample.kv_usage_ratio,
        kv_capacity_tokens=float(limits.num_blocks * limits.block_size),
        max_num_seqs=float(limits.max_num_seqs),
    )
    counts = sample.counts
    if counts is None:
        return page
    return replace(
        page,
        preemptions_total=counts.preemptions,
        prompt_tokens_total=counts.prompt_tokens,
        generation_tokens_total=counts.generation_tokens,
        requests_finished={"stop": counts.finished},
        itl=_sums(counts.gaps, counts.gaps_s),
        prompt_length=_sums(counts.finished, counts.input_tokens),
        generation_length=_sums(counts.finished, counts.output_tokens),
    )


def _sums(count: float, total: float) -> Histogram:
    return Histogram((inf,), (count,), total)
