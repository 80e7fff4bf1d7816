"""The page: sections in the order in which somebody decides."""

from recommender.explanation import Comparison, Explanation, Question
from recommender.report.answer import headline, workload_section
from recommender.report.draw import scripts
from recommender.report.facts import Facts
from recommender.report.figures import figures
from recommender.report.frame import page
from recommender.report.markup import of
from recommender.report.others import (
    comparison_section,
    footer,
    not_possible_section,
    runners_up_section,
    split_section,
    what_if_section,
)
from recommender.report.reasons import (
    latency_section,
    pareto_section,
    sureness_section,
    why_section,
)
from recommender.search import Recommendation

_SECTIONS = (
    headline, workload_section, why_section, sureness_section, latency_section, pareto_section,
    runners_up_section, what_if_section, split_section, comparison_section, not_possible_section,
    footer,
)  # fmt: skip


def as_html(
    asked: Question,
    found: Recommendation,
    story: Explanation,
    comparison: Comparison | None = None,
) -> str:
    """The whole page; `Refused` where the extra `report` is missing."""
    facts = Facts(asked, found, story, comparison)
    drawing = scripts(figures(facts))
    main = of("main", [section(facts) for section in _SECTIONS])
    return page(f"{facts.best.profile.model}: what to run", main, drawing)
