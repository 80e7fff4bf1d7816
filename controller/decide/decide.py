"""The decision, stage by stage; see the package for the order."""

import math
from dataclasses import replace

from controller.api.llmservice import ScalingMode
from controller.decide.carried import Judged, learn
from controller.decide.forecast import Forecast, forecast
from controller.decide.place import Place, carries, kinds_of, place, shun
from controller.decide.protect import choose_unfit, plan, with_stale
from controller.decide.size import Need, backlog, in_room, size, work_off
from controller.decide.stabilise import (
    Wanted,
    back_off,
    bounded,
    remember_wish,
    scale_in_window_s,
    slow_in,
    without_starts,
)
from controller.decide.types import (
    Action,
    Decision,
    Drain,
    Numbers,
    Reason,
    Start,
    State,
    Wish,
    Withdraw,
    explain,
)
from controller.decide.zero import is_idle, is_woken, remember_busy
from controller.observation import Observation, Phase

LEARNS_AFTER_S = 120.0
"""Before, only short requests have ended, and lengths and misses tell of them alone."""
_CAUSE_S, _CAUSE_SCRAPES = 30.0, 2.0
"""Window of the load that requests ended under."""
_QUEUE_S = 900.0
"""The highest of the last two windows counts, and of those since a queue began, so long at most:
it outlasts its cause, and those that waited in it end when more replicas serve."""
_LINGERS_S = 60.0
"""So long after no queue is seen any more some still wait: more replicas serve, and their engines
have room, while those that were there first still work theirs off."""


def decide(seen: Observation, state: State, now_s: float) -> tuple[Decision, State]:
    """Decide for one service at one moment; twice with the same values is the same."""
    before = state
    state = _remembered(seen, state, now_s)
    usual_ratio = state.season.rise_ratio(seen.start_up_s, now_s)
    expected = forecast(state.history, seen.start_up_s, now_s, usual_ratio)
    numbers = _numbers(seen, state, expected)
    wanted, state = _wanted(seen, state, before, expected, now_s)
    serving, reasons = bounded(wanted, seen.service.bounds)
    advised = None
    if seen.service.bounds.mode is ScalingMode.ADVISE and seen.service.bounds.automatic:
        advised, (serving, reasons) = serving, _as_it_is(seen, state, (*reasons, Reason.ADVISED))
    places, standing, why = _placed(seen, serving, now_s)
    serving, reasons = sum(each.wanted for each in places), (*reasons, *why)
    standby = _standbys(seen, places[0].wanted)
    state = choose_unfit(seen, replace(state, shunned=shun(state, seen, now_s)), now_s)
    actions, why = _protected(with_stale(seen, state.replacing), places, standby, state)
    reasons, state = (*reasons, *why), back_off(seen, state, now_s)
    if now_s < state.start_after_s and without_starts(actions) != actions:
        actions, reasons = without_starts(actions), (*reasons, Reason.BACKING_OFF)
    decision = Decision(
        serving=serving,
        standby=standby,
        actions=actions,
        reasons=reasons,
        numbers=numbers,
        message=explain(serving, standby, reasons, numbers, advised),
        advised=advised,
        on_fallbacks=tuple((each.gpu, each.wanted) for each in places[1:] if each.wanted),
    )
    return decision, replace(state, serving=standing)


def _placed(
    seen: Observation, units: int, now_s: float
) -> tuple[tuple[Place, ...], int, tuple[Reason, ...]]:
    """Where replicas shall serve, what those are worth, and what stood in the way."""
    kinds, bounds = kinds_of(seen, now_s), seen.service.bounds
    places = place(units, kinds, least=bounds.low, most=bounds.high, budget_gpus=bounds.budget_gpus)
    worth = carries(places, kinds)
    why = (Reason.FALLBACK_USED,) if any(each.wanted for each in places[1:]) else ()
    if worth < units - 1e-9:
        paid = bounds.budget_gpus is None or sum(each.wanted for each in places) >= bounds.high
        limit = Reason.AT_MAXIMUM if paid else Reason.AT_BUDGET
        why = (*why, Reason.POOL_SHORT if bounds.granted else limit)
    return places, min(units, math.ceil(worth - 1e-9)), why


def _protected(
    seen: Observation, places: tuple[Place, ...], standby: int, state: State
) -> tuple[tuple[Action, ...], tuple[Reason, ...]]:
    """Actions on every GPU type; standbys are of the service's own."""
    avoid = tuple(each.node for each in state.shunned)
    actions: list[Action] = []
    reasons: list[Reason] = []
    for each in places:
        standbys = 0 if each.gpu else standby
        protection = plan(seen.on(each.gpu) if len(places) > 1 else seen, each.serving, standbys)
        reasons += [reason for reason in protection.reasons if reason not in reasons]
        actions += [
            replace(action, gpu=each.gpu, avoid=avoid) if isinstance(action, Start) else action
            for action in protection.actions
        ]
    if len(places) > 1:  # nothing that serves is given up before everything else is done
        actions.sort(key=lambda action: isinstance(action, Drain | Withdraw))
    return tuple(actions), tuple(reasons)


def _remembered(seen: Observation, state: State, now_s: float) -> State:
    """Take in what arrived, and learn from what ended."""
    demand = seen.demand
    state = replace(
        state,
        busy_s=remember_busy(seen, state.busy_s, now_s),
        queued_s=_queued_since(seen, state, now_s),
        queue_seen_s=now_s if _queued(seen) else state.queue_seen_s,
    )
    if demand.arrival_rps is not None:
        load, serving = demand.arrival_rps / seen.capacity_rps, seen.worth(Phase.SERVING)
        state = replace(
            state,
            history=state.history.seen(load, demand.over_s, serving, now_s),
            season=state.season.seen(load, demand.over_s, now_s),
        )
    sound = 0 <= demand.missed <= demand.ended < math.inf and demand.ended > 0
    if not sound or state.history.spans_s < LEARNS_AFTER_S:
        return state
    return _learnt(seen, state, now_s)


def _queued(seen: Observation) -> bool:
    """Whether more wait than in any busy engine."""
    return backlog(seen.demand, max(seen.count(Phase.SERVING), 1)) > 0


def _queued_since(seen: Observation, state: State, now_s: float) -> float | None:
    """Since when there has been a queue; None: there is none."""
    before_s = state.queued_s
    if _queued(seen):
        return now_s if before_s is None else min(before_s, now_s)
    lingers = 0.0 <= now_s - state.queue_seen_s <= _LINGERS_S
    return before_s if lingers or seen.demand.waiting is None else None


def _learnt(seen: Observation, state: State, now_s: float) -> State:
    """Hold what ended against the load it ended under."""
    demand, load = seen.demand, _cause(state, now_s)
    if load is None:
        return state
    octave = math.floor(math.log2(1.0 / seen.capacity_rps))
    judged = Judged(load, octave, demand.ended, demand.missed)
    allowed = 1.0 - seen.service.slo.percentile
    return replace(state, carried=learn(state.carried, judged, allowed, now_s))


def _cause(state: State, now_s: float) -> float | None:
    """Highest load of a replica in any window since what ends now may have come."""
    window_s = max(_CAUSE_S, _CAUSE_SCRAPES * state.history.cadence_s)
    stood_s = 0.0 if state.queued_s is None else min(now_s - state.queued_s, _QUEUE_S)
    half_s = window_s / 2
    ends = (now_s - half_s * step for step in range(3 + math.ceil(stood_s / half_s)))
    loads = (state.history.each(end_s - window_s, end_s) for end_s in ends)
    return max((load for load in loads if load is not None), default=None)


def _numbers(seen: Observation, state: State, expected: Forecast | None) -> Numbers:
    serving = max(seen.count(Phase.SERVING), 1)
    known = seen.demand.waiting is not None
    return Numbers(
        arrival_rps=seen.demand.arrival_rps,
        forecast_rps=None if expected is None else expected.load * seen.capacity_rps,
        backlog_requests=backlog(seen.demand, serving) if known else None,
        capacity_rps=seen.capacity_rps * state.carried.ratio,
        lead_s=seen.start_up_s,
        attained_ratio=seen.demand.attained_ratio,
        prediction_error_ratio=None if expected is None else expected.error_ratio,
        carried_ratio=state.carried.ratio,
    )


def _standbys(seen: Observation, serving: int) -> int:
    """Standbys beside those that serve on the service's own GPUs, as far as their pool has room."""
    wanted = seen.service.standbys if serving > 0 else 0
    granted = dict(seen.service.bounds.granted).get(seen.service.gpu)
    return wanted if granted is None else min(wanted, max(granted - serving, 0))


def _current(seen: Observation, state: State) -> int:
    """The count that stands."""
    return state.serving or max(math.ceil(seen.worth(Phase.SERVING)), seen.service.bounds.low)


def _as_it_is(seen: Observation, state: State, reasons: tuple[Reason, ...]) -> Wanted:
    """Leave the count alone."""
    held, _ = bounded((_current(seen, state), ()), seen.service.bounds)
    return held, reasons


def _wanted(
    seen: Observation, state: State, before: State, expected: Forecast | None, now_s: float
) -> tuple[Wanted, State]:
    """Serving replicas before bounds; holds when nothing fresh is known."""
    bounds = seen.service.bounds
    if not bounds.automatic:
        return (bounds.low, (Reason.FIXED_REPLICAS,)), state
    if bounds.mode is ScalingMode.MANUAL:
        return _as_it_is(seen, state, (Reason.MANUAL,)), state
    if is_woken(seen):
        return (max(bounds.low, 1), (Reason.WOKEN,)), state
    if is_idle(seen, state.busy_s, now_s):
        return (0, (Reason.IDLE,)), state
    current = _current(seen, state)
    if expected is None or seen.demand.waiting is None:
        blind = seen.count(Phase.SERVING) > 0
        return (current, (Reason.NO_DATA if blind else Reason.STARTING_UP,)), state
    queued = backlog(seen.demand, max(seen.count(Phase.SERVING), 1))
    allowed = 1.0 - seen.service.slo.percentile
    need = Need(
        loads=expected.loads,
        sure=expected.sure,
        queue=work_off(queued, seen.capacity_rps, seen.start_up_s),
        carried=state.carried,
        allowed=allowed,
        before=before.carried.ratio,
        room=in_room(state.carried.spent_ratio(allowed)),
    )
    roomy = need.replicas(need.room)
    count, reason = size(need, current, roomy)
    window_s = scale_in_window_s(seen.start_up_s, state.history.cadence_s)
    wish = Wish(now_s, roomy)
    wishes = remember_wish(state.wishes, wish, current=current, window_s=window_s)
    reasons = (reason, Reason.OUT_OF_REACH) if state.carried.out_of_reach else (reason,)
    known_ratio = state.history.known_s(now_s - window_s) / window_s
    return slow_in((count, reasons), current, wishes, known_ratio), replace(state, wishes=wishes)
