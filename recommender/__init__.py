"""The recommender: which configuration, how many of it, on which GPUs, and why.

Sits above `profiler`, whose twin it searches with; the controller sizes with its capacity.
Packages of their own: `allocation` (many services over pools), `sharing` (several on a GPU).
"""

from recommender.binding import Binding, Sureness, how_sure, what_binds
from recommender.capacity import Capacity, Latency, Station, find_capacity
from recommender.explanation import (
    Comparison,
    Explanation,
    Question,
    compare,
    explain,
    judge,
    title,
)
from recommender.length_scale import LengthScale, calm_capacity_rps
from recommender.race import Candidate
from recommender.report import as_html
from recommender.routing import Weights, latency_curve, weigh
from recommender.search import (
    Found,
    Offer,
    Recommendation,
    fitted,
    recommend,
    search,
    search_batching,
)
from recommender.space import Pins
from recommender.split import Split, split
from recommender.surface import SurfaceGauge, measure_surface
from recommender.workload import (
    Errors,
    Workload,
    workload_from_hints,
    workload_from_trace,
)
from recommender.workload_counts import LengthCounts, cv_of_counts, workload_from_counts

__all__ = [
    "Binding",
    "Candidate",
    "Capacity",
    "Comparison",
    "Errors",
    "Explanation",
    "Found",
    "Latency",
    "LengthCounts",
    "LengthScale",
    "Offer",
    "Pins",
    "Question",
    "Recommendation",
    "Split",
    "Station",
    "Sureness",
    "SurfaceGauge",
    "Weights",
    "Workload",
    "as_html",
    "calm_capacity_rps",
    "compare",
    "cv_of_counts",
    "explain",
    "find_capacity",
    "fitted",
    "how_sure",
    "judge",
    "latency_curve",
    "measure_surface",
    "recommend",
    "search",
    "search_batching",
    "split",
    "title",
    "weigh",
    "what_binds",
    "workload_from_counts",
    "workload_from_hints",
    "workload_from_trace",
]
