"""The values that travel through a decision, and the sentence that explains it."""

from dataclasses import dataclass, field
from enum import StrEnum

from controller.decide.carried import Carried
from controller.decide.history import History
from controller.decide.season import Season
from controller.observation import ReplicaId


class Reason(StrEnum):
    """Why a decision came out as it did; append-only."""

    STEADY = "Steady"
    FIXED_REPLICAS = "FixedReplicas"
    DEMAND_RISING = "DemandRising"
    DEMAND_FALLING = "DemandFalling"
    BACKLOG = "Backlog"
    SLO_MISSED = "SloMissed"
    NO_DATA = "NoData"
    AT_MINIMUM = "AtMinimum"
    AT_MAXIMUM = "AtMaximum"
    COOLING_DOWN = "CoolingDown"
    REPLICA_FAILED = "ReplicaFailed"
    REPLICA_WEDGED = "ReplicaWedged"
    STANDBY_ADMITTED = "StandbyAdmitted"
    STANDBY_RESTORED = "StandbyRestored"
    ROLLING_OUT = "RollingOut"
    BACKING_OFF = "BackingOff"
    STARTING_UP = "StartingUp"
    OUT_OF_REACH = "OutOfReach"
    ADVISED = "Advised"
    MANUAL = "Manual"
    POOL_SHORT = "PoolShort"
    REPLICA_UNFIT = "ReplicaUnfit"
    FALLBACK_USED = "FallbackUsed"
    AT_BUDGET = "AtBudget"
    IDLE = "Idle"
    WOKEN = "Woken"


_UPKEEP = (
    Reason.STANDBY_RESTORED, Reason.ROLLING_OUT, Reason.BACKING_OFF, Reason.REPLICA_UNFIT,
    Reason.FALLBACK_USED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Start:
    """Start so many replicas; each is born a standby."""

    count: int
    gpu: str = ""
    """On a fallback's GPU type; empty: the service's own."""
    avoid: tuple[str, ...] = ()
    """Machines to keep away from, if there are others."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Put a standby behind the router."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take a serving replica out of the router; it becomes a standby."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class Drain:
    """Take a replica out of the router, let it finish, and end it."""

    replica: ReplicaId


@dataclass(frozen=True, slots=True)
class Remove:
    """End a replica that serves nobody."""

    replica: ReplicaId


Action = Start | Admit | Withdraw | Drain | Remove


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a decision was made from; None: not known."""

    arrival_rps: float | None
    forecast_rps: float | None
    backlog_requests: float | None
    capacity_rps: float
    """What one replica carries within the objective: as the twin says, mended by what came."""
    lead_s: float
    attained_ratio: float | None
    prediction_error_ratio: float | None = None
    """Mean error of the load's forecasts over the last hour; the headroom widens with it."""
    carried_ratio: float = 1.0
    """What a replica carries over what the twin says."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas, why, and the actions towards it."""

    serving: int
    standby: int
    actions: tuple[Action, ...]
    reasons: tuple[Reason, ...]
    """In the order they acted."""
    numbers: Numbers
    message: str
    """The reason as a sentence."""
    advised: int | None = None
    """Serving replicas that there should be, where the service asks for advice only."""
    on_fallbacks: tuple[tuple[str, int], ...] = ()
    """Those of `serving` that are on other GPU types than the service's own."""

    @property
    def reason(self) -> Reason:
        """The most telling one: failover first, then what moved the count, then upkeep."""
        failover = (Reason.STANDBY_ADMITTED, Reason.REPLICA_WEDGED, Reason.REPLICA_FAILED)
        urgent = next((reason for reason in failover if reason in self.reasons), None)
        sizing = [reason for reason in self.reasons if reason not in _UPKEEP]
        if urgent is not None or not sizing:
            return urgent or self.reasons[-1]
        return self.reasons[-1] if sizing == [Reason.STEADY] else sizing[-1]


@dataclass(frozen=True, slots=True)
class Wish:
    """What sizing alone would have wanted at one moment."""

    at_s: float
    serving: int


@dataclass(frozen=True, slots=True)
class Shunned:
    """A machine where a replica turned out slow, or its GPU failing, and when that was last so."""

    node: str
    at_s: float


@dataclass(frozen=True, slots=True)
class State:
    """What a decision remembers of earlier ones; after a restart `serving` is in the status."""

    serving: int = 0
    """Serving replicas last decided, in replicas on the service's own GPU type; 0: none yet."""
    history: History = field(default_factory=History)
    season: Season = field(default_factory=Season)
    carried: Carried = field(default_factory=Carried)
    wishes: tuple[Wish, ...] = ()
    """Within the scale-in window."""
    busy_s: float | None = None
    """When a request was last known to be under way; None: not yet."""
    queued_s: float | None = None
    """Since when more wait than in any busy engine; None: no more do."""
    queue_seen_s: float = float("-inf")
    """When more did for the last time."""
    failed_starts: int = 0
    """Replicas in a row that failed before they were ready."""
    fallen: frozenset[ReplicaId] = frozenset()
    """Those counted that are still seen."""
    failed_s: float = float("-inf")
    """When the last of them failed."""
    start_after_s: float = float("-inf")
    """No start before this moment."""
    replacing: ReplicaId | None = None
    """An unfit replica that is on its way out."""
    replaced_s: float = float("-inf")
    """When the last one was found."""
    shunned: tuple[Shunned, ...] = ()


def needed(decision: Decision, state: State) -> int:
    """Serving replicas that the load needs now: fewer than decided while scale-in waits."""
    if Reason.COOLING_DOWN in decision.reasons and state.wishes:
        return min(state.wishes[-1].serving, decision.serving)
    return decision.serving


_SENTENCES: dict[Reason, str] = {
    Reason.STEADY: "the serving replicas carry the demand",
    Reason.FIXED_REPLICAS: "the number of replicas is fixed",
    Reason.DEMAND_RISING: "demand rises above what the serving replicas carry",
    Reason.DEMAND_FALLING: "fewer replicas carry the demand with room to spare",
    Reason.BACKLOG: "a queue must be worked off",
    Reason.SLO_MISSED: "requests miss the latency objective",
    Reason.NO_DATA: "no fresh signals: holding",
    Reason.AT_MINIMUM: "held at the minimum",
    Reason.AT_MAXIMUM: "held at the maximum",
    Reason.AT_BUDGET: "held at the budget",
    Reason.COOLING_DOWN: "fewer would do now, but more were needed a short while ago: waiting",
    Reason.REPLICA_FAILED: "a replica failed",
    Reason.REPLICA_WEDGED: "a replica holds requests and makes no tokens",
    Reason.STANDBY_ADMITTED: "a standby takes its place",
    Reason.STANDBY_RESTORED: "a new standby is started",
    Reason.STARTING_UP: "no replica serves yet",
    Reason.BACKING_OFF: "replicas fail before they are ready: the next start waits",
    Reason.OUT_OF_REACH: "requests miss the latency objective even when replicas are idle: more "
    "would not mend it",
    Reason.POOL_SHORT: "the pool has no GPUs left for it: none is free that others need less",
    Reason.FALLBACK_USED: "what the first GPU type has no room for runs on another",
    Reason.MANUAL: "the number of replicas is left as it is",
    Reason.REPLICA_UNFIT: "a replica that is slow, or whose GPU fails, is replaced",
    Reason.ADVISED: "advice only: nothing is scaled",
    Reason.IDLE: "nobody has asked for a while",
    Reason.WOKEN: "a request waits for the first replica",
    Reason.ROLLING_OUT: "replicas of the former configuration are replaced",
}


def explain(
    serving: int,
    standby: int,
    reasons: tuple[Reason, ...],
    numbers: Numbers,
    advised: int | None = None,
) -> str:
    """Write the sentence a person reads in status, events, log and console."""
    replicas = f"{serving} serving" + (f" + {standby} standby" if standby else "")
    replicas += "" if advised is None else f", {advised} advised"
    told = [reason for reason in reasons if reason is not Reason.STEADY] or reasons
    story = "; ".join(dict.fromkeys(_SENTENCES[reason] for reason in told))
    if numbers.forecast_rps is None:
        return f"{replicas}: {story}"
    figures = (
        f"{numbers.forecast_rps:.2f} req/s forecast over {numbers.lead_s:.0f} s, "
        f"{numbers.capacity_rps:.2f} req/s a replica"
    )
    if numbers.backlog_requests:
        figures += f", {numbers.backlog_requests:.0f} waiting"
    return f"{replicas}: {story} ({figures})"
