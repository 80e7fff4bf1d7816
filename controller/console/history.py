"""The last ten minutes of every service, so that a page opened late shows the past.

Filled by `controller.console.feed` once a second. Bounded: a ring per service, forgotten
with its service. What was not known stays None: a gap in the chart, never a zero.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

from controller.observation import COMING, Phase
from controller.view import ServiceView

SAMPLES_KEPT = 600
"""Ten minutes at one a second."""
_DIGITS = 4
"""A tenth of a millisecond: finer than any latency bucket, and a third of the bytes."""

Columns = dict[str, list[float | None]]
"""Samples by field, oldest first: names are sent once, not six hundred times."""


class ServiceKey(NamedTuple):
    """What tells services apart."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One second of one service; None: not known."""

    at_s: float
    """On the clock of the feed; only differences mean something."""
    arrival_rps: float | None
    forecast_rps: float | None
    capacity_rps: float | None
    attained_ratio: float | None
    ttft_s: float | None
    itl_s: float | None
    serving: int
    standby: int
    coming: int
    """Pending and starting."""
    draining: int
    failed: int


_NAMES = tuple(field.name for field in fields(Sample))


class History:
    """Rings of samples by service."""

    def __init__(self) -> None:
        self._rings: dict[ServiceKey, deque[Sample]] = {}

    def record(self, views: Iterable[ServiceView], now_s: float) -> None:
        """Add a sample of each service; forget those that are gone."""
        rings = {}
        for view in views:
            key = key_of(view)
            rings[key] = self._rings.get(key) or deque(maxlen=SAMPLES_KEPT)
            rings[key].append(_sample(view, now_s))
        self._rings = rings

    def columns(self, key: ServiceKey) -> Columns:
        """Give all that is kept of a service."""
        return _columns(self._rings.get(key, ()))

    def newest(self, key: ServiceKey) -> Columns:
        """Give the last sample alone, in the same shape."""
        return _columns(tuple(self._rings.get(key, ()))[-1:])


def key_of(view: ServiceView) -> ServiceKey:
    """Name the service of a view."""
    return ServiceKey(view.namespace, view.name)


def _columns(samples: Iterable[Sample]) -> Columns:
    kept = tuple(samples)
    return {name: [getattr(sample, name) for sample in kept] for name in _NAMES}


def _sample(view: ServiceView, now_s: float) -> Sample:
    phases = [replica.phase for replica in view.replicas]
    return Sample(
        at_s=round(now_s, 2),
        arrival_rps=_short(view.arrival_rps),
        forecast_rps=_short(view.forecast_rps),
        capacity_rps=_short(view.capacity_rps),
        attained_ratio=_short(view.attained_ratio),
        ttft_s=_short(view.ttft_s),
        itl_s=_short(view.itl_s),
        serving=phases.count(Phase.SERVING),
        standby=phases.count(Phase.STANDBY),
        coming=sum(phase in COMING for phase in phases),
        draining=phases.count(Phase.DRAINING),
        failed=phases.count(Phase.FAILED),
    )


def _short(value: float | None) -> float | None:
    """Cut digits nobody sees; what is not finite is not known."""
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), _DIGITS)
