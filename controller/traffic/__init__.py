"""The workload of a live system: read off a Prometheus that scrapes engines, or off one engine.

It joins two rooms that may not know each other: the monitor tells what engines counted, the
recommender makes a workload of counts, a replay a trace. Nothing is written anywhere.

Arrivals are what `monitor.arrivals` takes them for: requests that ended, and what batch and queue
grew by. No engine counts a request when it comes. Those that ended alone would come late by
their answers' length, smooth every burst, and miss the queue of an overloaded engine.
"""

from controller.traffic.counts import Notes
from controller.traffic.engine import traffic_from_engine
from controller.traffic.history import history_from_prometheus
from controller.traffic.prometheus import traffic_from_prometheus

__all__ = ["Notes", "history_from_prometheus", "traffic_from_engine", "traffic_from_prometheus"]
