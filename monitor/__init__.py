"""What the fleet is doing: signals of any engine, what came to it, and how well it was met.

Other rooms import from here only. Nothing in this room decides: a missing or stale signal is
reported as such, and the decision to hold is the controller's.
"""

from monitor.arrivals import Arrivals, arrivals_between, restarted
from monitor.exposition import Exposition, Sample, read_exposition
from monitor.histogram import Histogram
from monitor.signals import EngineSignals, Freshness, NotAnEngine, Reading, read_signals
from monitor.slo import Attainment, attainment, merge
from monitor.sources.prometheus import Grid, Prometheus, Series, Vector, duration, selector
from monitor.sources.scrape import scrape, scrape_all

__all__ = [
    "Arrivals",
    "Attainment",
    "EngineSignals",
    "Exposition",
    "Freshness",
    "Grid",
    "Histogram",
    "NotAnEngine",
    "Prometheus",
    "Reading",
    "Sample",
    "Series",
    "Vector",
    "arrivals_between",
    "attainment",
    "duration",
    "merge",
    "read_exposition",
    "read_signals",
    "restarted",
    "scrape",
    "scrape_all",
    "selector",
]
