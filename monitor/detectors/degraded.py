"""Find a replica whose steps take longer than its load explains.

The residual of a window is log(measured mean gap / what the step cost says at its own batch).
It is held against the residuals of its peers, for a profile that is wrong is wrong everywhere;
with one peer against that one and the twin; alone against its own past. Past and spread are
learned in quiet times only. Excess over an allowance adds up (one-sided CUSUM, Page 1954, steps
bounded so that one odd window cannot alarm), and alarms at a height. Spread widens the allowance,
but never so far that a replica may miss the objective's ITL that its peers keep.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from monitor.detectors.gate import Suspicion
from monitor.findings import Evidence, Finding, Kind, Severity

ALLOWED = math.log(1.12)
ALLOWED_ALONE = math.log(1.2)
"""Its own past was at another load, where the profile may be off by another few per cent."""
HEIGHT = 0.6
"""At 1.3 times its peers' step time a replica takes about 20 s to get there."""
WRONG_PROFILE = math.log(1.25)
WRONG_HOLD_S = 300.0
_BOUND = 0.2
_PER_S = 1 / 5
"""A window of 5 s counts once; longer ones at most twice."""
_SIGMAS = 3.0
_TO_SIGMA = 1.25
"""A normal spread's standard deviation, in mean absolute deviations."""
_LEARN = 12
"""Windows until its own past is known."""
_SHARE = 0.3
LEAST_GAPS = 20.0
"""Fewer say nothing."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Residuals of one replica."""

    at_s: float = -math.inf
    residual: float = 0.0
    """Smoothed."""
    windows: int = 0
    learned: int = 0
    """Windows in quiet times."""
    past: float = 0.0
    """Its own residual in those."""
    spread: float = 0.0
    """Mean absolute deviation of a window from those before it."""
    excess: float = 0.0
    """What has added up."""
    usual: float = 0.0
    """What it was held against last."""
    gap_s: float = 0.0
    """The latest window's mean."""

    @property
    def alarmed(self) -> bool:
        """Whether the excess reached the height."""
        return self.excess >= HEIGHT

    @property
    def known(self) -> float:
        """Its own past where it was learned, else what the profile says."""
        return self.past if self.learned >= _LEARN else 0.0

    def seen(self, window: "Window", usual: float | None, itl_s: float | None, quiet: bool
             ) -> "Chart":  # fmt: skip
        """Take in a window; `usual`: what peers show, None without any."""
        fresh, value = self.windows == 0, window.residual
        smooth = value if fresh else self.residual + _SHARE * (value - self.residual)
        held, least = (self.past, ALLOWED_ALONE) if usual is None else (usual, ALLOWED)
        deviation, scatter = value - held, abs(value - smooth) / (1 - _SHARE)
        allowed = max(least, self._widened(window, held, itl_s))
        weight = min(window.window_s * _PER_S, 2.0)
        step = min(max(deviation - allowed, -_BOUND), _BOUND) * weight
        knows = usual is not None or self.learned >= _LEARN
        excess = min(max(self.excess + step, 0.0), 2 * HEIGHT) if knows else 0.0
        learns = quiet and excess == 0.0
        share = 1 / (self.learned + 1) if self.learned < _LEARN else 0.01
        return Chart(
            at_s=window.at_s,
            residual=smooth,
            windows=self.windows + 1,
            learned=self.learned + learns,
            past=self.past + share * (value - self.past) if learns else self.past,
            spread=self.spread + 0.05 * (scatter - self.spread) if learns else self.spread,
            excess=excess,
            usual=held,
            gap_s=window.gap_s,
        )

    def _widened(self, window: "Window", held: float, itl_s: float | None) -> float:
        """The allowance that its scatter asks for, within what the objective's ITL leaves."""
        widened = _SIGMAS * _TO_SIGMA * self.spread
        if itl_s is None:
            return widened
        usual_gap_s = window.gap_s * math.exp(held - window.residual)
        return min(widened, math.log(itl_s / usual_gap_s))


class Window(NamedTuple):
    """One replica's gaps between two pages."""

    at_s: float
    window_s: float
    gap_s: float
    """Measured mean."""
    residual: float


def usual_of_peers(chart: Chart, residuals: Sequence[float]) -> float | None:
    """Median of the others' residuals; `residuals` ascend and hold the chart's own, if any.

    None without peers. A single peer may be wrong itself: a replica must be slower than the peer
    and than the twin says, or than its own past where that was faster.
    """
    others = list(residuals)
    if chart.windows and others:
        others.pop(min(bisect_left(others, chart.residual), len(others) - 1))
    if not others:
        return None
    if len(others) == 1:
        return max(others[0], min(chart.known, 0.0))
    middle = len(others) // 2
    return others[middle] if len(others) % 2 else (others[middle - 1] + others[middle]) / 2


def degraded(replica: str, chart: Chart) -> Suspicion | None:
    """Suspect one replica."""
    if not chart.alarmed:
        return None
    factor = math.exp(chart.residual - chart.usual)
    usual_s = chart.gap_s / factor
    harmful = factor >= 1.5
    finding = Finding(
        kind=Kind.DEGRADED_REPLICA,
        cause="SlowSteps",
        subject=replica,
        severity=Severity.CRITICAL if harmful else Severity.WARNING,
        confidence_ratio=min(0.5 + chart.excess / (4 * HEIGHT), 0.95),
        since_s=chart.at_s,
        evidence=(
            Evidence("mean_itl_s", chart.gap_s, usual_s, "s"),
            Evidence("slow_factor", factor, 1.0, ""),
        ),
        message=f"{replica}: steps take {factor:.2f} times as long as its load and peers explain",
        mend="replace the replica, elsewhere if its GPU is at fault",
    )
    return Suspicion(finding, 0.0)


def wrong_profile(charts: Sequence[Chart], now_s: float) -> Suspicion | None:
    """Suspect the profile where sound replicas agree that it is wrong."""
    told = sorted(c.residual for c in charts if c.windows >= _LEARN and not c.alarmed)
    if not told:
        return None
    middle = told[len(told) // 2]
    if abs(middle) < WRONG_PROFILE:
        return None
    factor = math.exp(middle)
    finding = Finding(
        kind=Kind.DEGRADED_REPLICA,
        cause="ProfileResidual",
        subject="",
        severity=Severity.WARNING if middle > 0 else Severity.INFO,
        confidence_ratio=0.8,
        since_s=now_s,
        evidence=(
            Evidence("profile_factor", factor, 1.0, ""),
            Evidence("replicas", float(len(told)), None, ""),
        ),
        message=f"steps of all replicas take {factor:.2f} times what the profile says",
        mend="recalibrate the profile from what was measured",
    )
    return Suspicion(finding, WRONG_HOLD_S)
