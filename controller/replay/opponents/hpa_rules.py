"""The rules of the Kubernetes HorizontalPodAutoscaler: from metrics to a count, and its brakes.

Called by `hpa`, and by the llm-d policies, whose wishes an HPA carries out. Pure; the memory
that the controller keeps per object travels in `Memory`.

Source: kubernetes/kubernetes `pkg/controller/podautoscaler/replica_calculator.go`
(`calcPlainMetricReplicas`, `GetExternalPerPodMetricReplicas`) and `horizontal.go`
(`stabilizeRecommendationWithBehaviors`, `convertDesiredReplicasWithBehaviorRate`); the page
"Horizontal Pod Autoscaling", algorithm details.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from controller.replay.opponents.common import Timed, bounded, recent, remember
from controller.replay.policy import Known, Wish


@dataclass(frozen=True, slots=True)
class Limit:
    """One scaling policy: at most so much change in a period."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Rules:
    """One direction: `selectPolicy: Max` over the limits, after a window."""

    stabilization_window_s: float
    policies: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Behavior:
    """The `behavior` block and the controller's tolerance."""

    up: Rules
    down: Rules
    tolerance: float = 0.1
    """Of the ratio of usage to target, within which nothing is done."""


DEFAULT = Behavior(
    up=Rules(0.0, (Limit("Pods", 4, 15.0), Limit("Percent", 100, 15.0))),
    down=Rules(300.0, (Limit("Percent", 100, 15.0),)),
)
"""What an HPA has that says nothing about its behaviour."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the controller remembers of one HPA."""

    recommendations: Timed[int] = ()
    added: Timed[int] = ()
    removed: Timed[int] = ()


def within(ratio: float, tolerance: float) -> bool:
    """Whether a ratio of usage to target is too near to one to act."""
    return 1.0 - tolerance <= ratio <= 1.0 + tolerance


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of a Pods metric, grouped as the controller does."""

    usage: tuple[float, ...]
    """Of those that gave the metric."""
    missing: int = 0
    """Run, and gave none."""
    unready: int = 0
    """Pending."""
    spec_replicas: int = 0


def pods_replicas(pods: Pods, target: float, tolerance: float) -> int | None:
    """Replicas for an average per pod; None where no pod gave the metric.

    On the way down a missing pod counts as at the target, on the way up as idle; a pending one
    counts on the way up alone, as idle. Where that turns the direction round, nothing is done.
    """
    if not pods.usage:
        return None
    ratio = _ratio(pods.usage, target)
    waits = pods.unready if ratio > 1.0 else 0
    if not waits and not pods.missing:
        settled = within(ratio, tolerance)
        return pods.spec_replicas if settled else ceil(ratio * len(pods.usage))
    assumed = target if ratio < 1.0 else 0.0
    usage = (*pods.usage, *(assumed,) * pods.missing, *(0.0,) * waits)
    return _rebalanced(ratio, usage, target, tolerance, pods.spec_replicas)


def _ratio(usage: Sequence[float], target: float) -> float:
    return sum(usage) / len(usage) / target


def _rebalanced(
    ratio: float, usage: Sequence[float], target: float, tolerance: float, spec_replicas: int
) -> int:
    new = _ratio(usage, target)
    turned = (ratio < 1.0 < new) or (new < 1.0 < ratio)
    if within(new, tolerance) or turned:
        return spec_replicas
    count = ceil(new * len(usage))
    against = (new < 1.0 and count > spec_replicas) or (new > 1.0 and count < spec_replicas)
    return spec_replicas if against else count


def external_replicas(value: float, target: float, replicas: int, tolerance: float) -> int:
    """Replicas for an external metric of type AverageValue, over `replicas` pods."""
    if replicas and within(value / (target * replicas), tolerance):
        return replicas
    return ceil(value / target)


def behave(
    desired: int,
    replicas: int,
    memory: Memory,
    *,
    behavior: Behavior,
    known: Known,
    now_s: float,
) -> tuple[Wish, Memory]:
    """Bring a recommendation through windows, rates and bounds."""
    # The first recommendation of an object is what it has: a restart gives up nothing at once.
    memory = memory if memory.recommendations else _recommended(memory, replicas, behavior, now_s)
    stable = _stabilized(desired, replicas, memory.recommendations, behavior, now_s)
    count, reason = _limited(stable, replicas, memory, behavior, known, now_s)
    if stable != desired and count == stable:
        reason = "ScaleDownStabilized" if stable > desired else "ScaleUpStabilized"
    memory = _recommended(memory, desired, behavior, now_s)
    return Wish(count, reason), _changed(memory, count - replicas, behavior, now_s)


def _stabilized(
    desired: int, replicas: int, wishes: Timed[int], behavior: Behavior, now_s: float
) -> int:
    """Go up to the least, down to the highest of the recommendations in the windows."""
    ups = recent(wishes, now_s, behavior.up.stabilization_window_s)
    downs = recent(wishes, now_s, behavior.down.stabilization_window_s)
    least = min((desired, *(wish for _, wish in ups)))
    highest = max((desired, *(wish for _, wish in downs)))
    return min(max(replicas, least), highest)


def _limited(
    desired: int,
    replicas: int,
    memory: Memory,
    behavior: Behavior,
    known: Known,
    now_s: float,
) -> tuple[int, str]:
    if desired > replicas:
        limit = max(_limits(replicas, memory, behavior.up, now_s, sign=1), replicas)
        if min(limit, known.max_replicas) < desired:
            rate = limit < known.max_replicas
            return min(limit, known.max_replicas), "ScaleUpLimit" if rate else "TooManyReplicas"
    elif desired < replicas:
        limit = min(_limits(replicas, memory, behavior.down, now_s, sign=-1), replicas)
        if max(limit, known.min_replicas) > desired:
            rate = limit > known.min_replicas
            return max(limit, known.min_replicas), "ScaleDownLimit" if rate else "TooFewReplicas"
    return bounded(desired, known), "DesiredWithinRange"


def _limits(replicas: int, memory: Memory, rules: Rules, now_s: float, *, sign: int) -> int:
    """How far the most generous of the limits lets the count go."""
    reach = [_reach(replicas, memory, limit, now_s, sign) for limit in rules.policies]
    if not reach:
        return replicas
    return max(reach) if sign > 0 else min(reach)


def _reach(replicas: int, memory: Memory, limit: Limit, now_s: float, sign: int) -> int:
    added = sum(count for _, count in recent(memory.added, now_s, limit.period_s))
    removed = sum(count for _, count in recent(memory.removed, now_s, limit.period_s))
    begun = replicas - added + removed
    if limit.kind == "Pods":
        return begun + sign * limit.value
    share = begun * (100 + sign * limit.value) / 100
    return ceil(share) if sign > 0 else int(share)


def _recommended(memory: Memory, count: int, behavior: Behavior, now_s: float) -> Memory:
    window_s = max(behavior.up.stabilization_window_s, behavior.down.stabilization_window_s)
    # The first moment has two: what it had, and what was recommended. Both count.
    kept = recent(memory.recommendations, now_s, max(window_s, 1.0))
    return replace(memory, recommendations=(*kept, (now_s, count)))


def _changed(memory: Memory, change: int, behavior: Behavior, now_s: float) -> Memory:
    limits = (*behavior.up.policies, *behavior.down.policies)
    longest_s = max((limit.period_s for limit in limits), default=0.0)
    if change > 0:
        return replace(memory, added=remember(memory.added, now_s, change, longest_s))
    if change < 0:
        return replace(memory, removed=remember(memory.removed, now_s, -change, longest_s))
    return memory
