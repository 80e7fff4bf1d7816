"""Find an engine that makes no tokens, whatever its `/health` says.

Tokens that stop while requests are held are a suspicion; a canary (a completion of one token)
decides it. Without one, tokens that stand still for `WEDGED_AFTER_S` decide. An idle engine is
decided by two unanswered canaries in a row. A replica whose pages stay away is never wedged: it
is unreachable, perhaps with all others, and a canary could not tell the difference.
"""

import math
from dataclasses import dataclass

from monitor.detectors.gate import Suspicion
from monitor.detectors.pulse import known
from monitor.detectors.reading import Canary, ReplicaReading
from monitor.findings import Evidence, Finding, Kind, Severity
from monitor.signals import EngineSignals

WEDGED_AFTER_S = 10.0
"""Far longer than any step; a prefill of 100,000 tokens takes seconds."""
SUSPECT_AFTER_S = 4.0
"""Short enough that a probe can decide before the next page of an engine read every 5 s."""
CERTAIN_AFTER_S = 8.0
"""How long tokens must have stood still for an unanswered canary to count: behind the prefill of
a very long prompt, which takes seconds and all of a step's tokens, a canary waits too."""
PROBE_IDLE_S = 30.0
"""How often one is probed that requests are sent to and that has none: probes stand in its own
histograms among the users', and the first request it holds tells within `WEDGED_AFTER_S`."""
PROBE_STANDBY_S = 4.0
"""How often a standby is: it must be fit on the day, and nobody reads its histograms."""
CLEARED_S = 20.0
"""How long a canary's answer speaks against tokens that stand still since before it."""
_SILENT = 2


@dataclass(frozen=True, slots=True)
class TokenProgress:
    """When tokens of one replica were last seen to move."""

    tokens: float | None = None
    moved_s: float | None = None
    holding: bool = False
    """Whether it holds requests."""

    def seen(self, signals: EngineSignals, at_s: float) -> tuple["TokenProgress", bool]:
        """Take in a reading: the progress so far, and whether the engine is wedged.

        Tokens are prompt and generated ones; idle engines and missing counters are never
        wedged.
        """
        prompt, generated = (
            known(signals.prompt_tokens_total),
            known(signals.generation_tokens_total),
        )
        running = known(signals.running)
        if prompt is None or generated is None or running is None:
            return self, False
        tokens = prompt + generated
        idle = running == 0 and not known(signals.waiting)
        if tokens != self.tokens or self.moved_s is None or idle:
            return TokenProgress(tokens, at_s, not idle), False
        return TokenProgress(tokens, self.moved_s, True), at_s - self.moved_s > WEDGED_AFTER_S


@dataclass(frozen=True, slots=True)
class Vitals:
    """Whether one replica's engine lives."""

    progress: TokenProgress = TokenProgress()
    at_s: float = -math.inf
    """Of the latest page."""
    stuck: bool = False
    """Tokens alone say that it is wedged."""
    canary: Canary | None = None
    silent: int = 0
    """Canaries in a row without an answer."""

    def seen(self, signals: EngineSignals, at_s: float) -> "Vitals":
        """Take in a page that is new."""
        progress, stuck = self.progress.seen(signals, at_s)
        moved = progress.tokens != self.progress.tokens
        return Vitals(progress, at_s, stuck, self.canary, 0 if moved else self.silent)

    def probed(self, canary: Canary | None) -> "Vitals":
        """Take in the latest probe, which may be known already."""
        if canary is None or canary == self.canary:
            return self
        silent = 0 if canary.answered else self.silent + 1
        return Vitals(self.progress, self.at_s, self.stuck, canary, silent)

    @property
    def still_s(self) -> float:
        """How long it has held requests and made no token, by its latest page."""
        moved_s = self.progress.moved_s
        return self.at_s - moved_s if self.progress.holding and moved_s is not None else 0.0

    def _told_s(self) -> float | None:
        """When the canary ended that was sent since tokens stopped; None: there was none."""
        probe, moved_s = self.canary, self.progress.moved_s
        if probe is None or moved_s is None or probe.at_s - probe.took_s < moved_s:
            return None
        return probe.at_s

    def wedged(self, now_s: float, stale_s: float) -> float | None:
        """How sure it is that the engine is wedged, 0 to 1; None: it is not, or nobody knows."""
        if now_s - self.at_s > stale_s:
            return None
        if not self.progress.holding:
            return 0.99 if self.silent >= _SILENT else None
        told_s = self._told_s()
        if told_s is not None and self.canary is not None:
            if not self.canary.answered:
                return 0.99 if self.still_s >= CERTAIN_AFTER_S else None
            if now_s - told_s < CLEARED_S:
                return None
        return 0.9 if self.stuck else None

    def wants_canary(self, admitted: bool, now_s: float, stale_s: float) -> bool:
        """Whether a probe would tell something new."""
        if now_s - self.at_s > stale_s:
            return False
        if 0 < self.silent < _SILENT:
            return True
        probed_s = -math.inf if self.canary is None else self.canary.at_s
        if self.progress.holding:
            return self.still_s >= SUSPECT_AFTER_S and now_s - probed_s > SUSPECT_AFTER_S
        return now_s - probed_s > (PROBE_IDLE_S if admitted else PROBE_STANDBY_S)


def wedged(
    replica: ReplicaReading, vitals: Vitals, now_s: float, stale_s: float
) -> Suspicion | None:
    """Suspect an engine that makes no tokens, or says itself that it is dead."""
    confidence = 0.99 if replica.healthy is False else vitals.wedged(now_s, stale_s)
    if confidence is None:
        return None
    cause, said = _told(replica, vitals)
    moved_s = vitals.progress.moved_s
    return Suspicion(
        Finding(
            kind=Kind.WEDGED_ENGINE,
            cause=cause,
            subject=replica.id,
            severity=Severity.CRITICAL,
            confidence_ratio=confidence,
            since_s=now_s if moved_s is None or not vitals.progress.holding else moved_s,
            evidence=(
                Evidence("tokens_still_s", vitals.still_s, 0.0, "s"),
                Evidence("canaries_unanswered", float(vitals.silent), 0.0, ""),
            ),
            message=f"{replica.id} {said}",
            mend="replace the replica",
        ),
        0.0,
    )


def _told(replica: ReplicaReading, vitals: Vitals) -> tuple[str, str]:
    """What gave it away, in a word and in a sentence."""
    if replica.healthy is False:
        return "Unhealthy", "says of itself that its engine is dead"
    still = f"holds requests and has made no token for {vitals.still_s:.0f} s"
    if not vitals.silent:
        return "NoTokens", still
    if vitals.still_s > 0:
        return "CanaryUnanswered", f"{still}, nor for a probe"
    return "CanaryUnanswered", f"made no token for {vitals.silent} probes in a row"
