"""The decision, stage by stage; see the package for the order."""

from dataclasses import replace

from controller.decide.forecast import forecast_rps, remember
from controller.decide.protect import plan
from controller.decide.size import backlog, misses_slo, size
from controller.decide.stabilise import (
    Wanted,
    back_off,
    bounded,
    remember_wish,
    slow_in,
    without_starts,
)
from controller.decide.types import Decision, Numbers, Reason, State, explain
from controller.observation import Observation, Phase


def decide(seen: Observation, state: State, now_s: float) -> tuple[Decision, State]:
    """Decide for one service at one moment; twice with the same values is the same."""
    samples = remember(state.samples, seen.demand.arrival_rps, now_s)
    state = replace(state, samples=samples)
    numbers = _numbers(seen, state, now_s)
    wanted, state = _wanted(seen, state, numbers, now_s)
    serving, reasons = bounded(wanted, seen.service.bounds)
    standby = seen.service.standbys if serving > 0 else 0
    protection = plan(seen, serving, standby)
    reasons = (*reasons, *protection.reasons)
    actions, state = protection.actions, back_off(seen, state, now_s)
    if now_s < state.start_after_s and without_starts(actions) != actions:
        actions, reasons = without_starts(actions), (*reasons, Reason.BACKING_OFF)
    decision = Decision(
        serving=serving,
        standby=standby,
        actions=actions,
        reasons=reasons,
        numbers=numbers,
        message=explain(serving, standby, reasons, numbers),
    )
    raised_s = now_s if serving > state.serving else state.raised_s
    return decision, replace(state, serving=serving, raised_s=raised_s)


def _numbers(seen: Observation, state: State, now_s: float) -> Numbers:
    serving = max(seen.count(Phase.SERVING), 1)
    known = seen.demand.waiting is not None
    return Numbers(
        arrival_rps=seen.demand.arrival_rps,
        forecast_rps=forecast_rps(state.samples, seen.start_up_s, now_s),
        backlog_requests=backlog(seen.demand, serving) if known else None,
        capacity_rps=seen.capacity_rps,
        lead_s=seen.start_up_s,
        attained_ratio=seen.demand.attained_ratio,
    )


def _wanted(
    seen: Observation, state: State, numbers: Numbers, now_s: float
) -> tuple[Wanted, State]:
    """Serving replicas before bounds; holds when nothing fresh is known."""
    bounds = seen.service.bounds
    if not bounds.automatic:
        return (bounds.low, (Reason.FIXED_REPLICAS,)), state
    current = state.serving or max(seen.count(Phase.SERVING), bounds.low)
    if numbers.forecast_rps is None or numbers.backlog_requests is None:
        blind = seen.count(Phase.SERVING) > 0
        return (current, (Reason.NO_DATA if blind else Reason.STARTING_UP,)), state
    count, reason = size(
        numbers.forecast_rps,
        numbers.backlog_requests,
        numbers.capacity_rps,
        current,
        numbers.lead_s,
    )
    if count <= current and misses_slo(seen, numbers.forecast_rps, now_s - state.raised_s):
        count, reason = current + 1, Reason.SLO_MISSED
    wishes = remember_wish(state.wishes, count, current=current, lead_s=numbers.lead_s, now_s=now_s)
    wanted = slow_in((count, (reason,)), current, wishes)
    return wanted, replace(state, wishes=wishes)
