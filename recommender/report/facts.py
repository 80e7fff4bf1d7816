"""All that the report tells, and the few figures that several sections need."""

import math
from dataclasses import dataclass

from profiler.estimate import Parts
from profiler.timings import Metric
from recommender.binding import what_binds
from recommender.explanation import Comparison, Distribution, Explanation, Point, Question, title
from recommender.race import Candidate
from recommender.search import Recommendation


@dataclass(frozen=True, slots=True)
class Facts:
    """What was asked, what was found, and why."""

    asked: Question
    found: Recommendation
    story: Explanation
    comparison: Comparison | None = None

    @property
    def best(self) -> Candidate:
        """What is recommended."""
        return self.found.best

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The best, then the runners-up."""
        return (self.found.best, *self.found.runners_up)

    @property
    def rate_rps(self) -> float:
        """Rate that all replicas together carry."""
        return self.asked.workload.sized_rps

    @property
    def replicas(self) -> int:
        """Replicas of the best."""
        return self.best.replicas(self.rate_rps)

    @property
    def each_rps(self) -> float:
        """What one of them gets."""
        return self.rate_rps / self.replicas

    @property
    def cost_per_hour(self) -> float:
        """What they cost."""
        return self.best.cost_per_hour(self.rate_rps)

    @property
    def shares(self) -> tuple[Parts, ...]:
        """Where a mean step's time goes: told for the best, found for the runners-up."""
        workload, slo = self.asked.workload, self.asked.slo
        others = (what_binds(one, workload, slo).shares for one in self.found.runners_up)
        return (self.story.binding.shares, *others)

    @property
    def point(self) -> Point | None:
        """The best's place in the picture of cost and latency."""
        name, replicas = title(self.best), self.replicas
        same = (p for p in self.story.pareto if p.name == name and p.replicas == replicas)
        return next(same, None)

    def reached_s(self, metric: Metric) -> float | None:
        """Latency of the best at the objective's percentile; None where it is not known."""
        return None if self.point is None else getattr(self.point, f"{metric.value}_s", None)

    def distribution(self, metric: Metric) -> Distribution | None:
        """Predicted latencies of a metric, where there are any."""
        for each in self.story.distribution:
            if each.metric is metric and any(map(math.isfinite, each.quantiles)):
                return each
        return None
