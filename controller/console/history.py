"""The last ten minutes of every service, so that a page opened late shows the past.

Filled by `controller.console.feed` once a second. Bounded: a ring per service, forgotten
with its service. What was not known stays None: a gap in the chart, never a zero.
"""

import math
from array import array
from collections.abc import Iterable
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


_NAMES = (
    "arrival_rps", "forecast_rps", "capacity_rps", "attained_ratio", "ttft_s", "itl_s",
    "serving", "standby", "coming", "draining", "failed",
)  # fmt: skip
"""Beside `at_s`, on the clock of the feed, of which only differences mean something. `coming`:
pending and starting."""


class _Ring:
    """One service's samples: packed numbers, for a thousand services have half a million."""

    def __init__(self) -> None:
        self._at_s = array("d")
        self._columns = tuple(array("f") for _ in _NAMES)
        """NaN: not known."""

    def add(self, at_s: float, sample: Iterable[float]) -> None:
        self._at_s.append(at_s)
        for column, value in zip(self._columns, sample, strict=True):
            column.append(value)
        if len(self._at_s) > SAMPLES_KEPT:
            for column in (self._at_s, *self._columns):
                del column[0]

    def columns(self, samples: int) -> Columns:
        """The last so many."""
        told = {
            name: [None if math.isnan(v) else round(v, _DIGITS) for v in column[-samples:]]
            for name, column in zip(_NAMES, self._columns, strict=True)
        }
        return {"at_s": list(self._at_s[-samples:]), **told}


class History:
    """Rings of samples by service."""

    def __init__(self) -> None:
        self._rings: dict[ServiceKey, _Ring] = {}

    def record(self, views: Iterable[ServiceView], now_s: float) -> None:
        """Add a sample of each service; forget those that are gone."""
        rings = {}
        for view in views:
            key = key_of(view)
            rings[key] = self._rings.get(key) or _Ring()
            rings[key].add(round(now_s, 2), _sample(view))
        self._rings = rings

    def columns(self, key: ServiceKey) -> Columns:
        """Give all that is kept of a service."""
        return self._rings.get(key, _Ring()).columns(SAMPLES_KEPT)

    def newest(self, key: ServiceKey) -> Columns:
        """Give the last sample alone, in the same shape."""
        return self._rings.get(key, _Ring()).columns(1)


def key_of(view: ServiceView) -> ServiceKey:
    """Name the service of a view."""
    return ServiceKey(view.namespace, view.name)


def _sample(view: ServiceView) -> tuple[float, ...]:
    """In the order of the names; what is not finite is not known."""
    phases = [replica.phase for replica in view.replicas]
    told = (
        view.arrival_rps, view.forecast_rps, view.capacity_rps, view.attained_ratio,
        view.ttft_s, view.itl_s,
    )  # fmt: skip
    return (
        *(v if v is not None and math.isfinite(v) else math.nan for v in told),
        phases.count(Phase.SERVING),
        phases.count(Phase.STANDBY),
        sum(phase in COMING for phase in phases),
        phases.count(Phase.DRAINING),
        phases.count(Phase.FAILED),
    )
