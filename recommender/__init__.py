"""The recommender: which configuration, and what one replica of it carries.

Sits above `profiler`, whose twin it searches with; the controller sizes with its capacity.
"""

from recommender.capacity import Capacity, Latency, find_capacity
from recommender.search import Candidate, Pins, Recommendation, recommend, search_batching
from recommender.workload import Workload, workload_from_hints, workload_from_trace

__all__ = [
    "Candidate",
    "Capacity",
    "Latency",
    "Pins",
    "Recommendation",
    "Workload",
    "find_capacity",
    "recommend",
    "search_batching",
    "workload_from_hints",
    "workload_from_trace",
]
