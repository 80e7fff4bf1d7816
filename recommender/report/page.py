"""The page: sections in the order in which somebody decides, and what a browser may do with it.

Only the scripts that were put here run, each named by its hash; nothing is fetched.
"""

import base64
from collections.abc import Sequence
from hashlib import sha256
from html import escape

from recommender.explanation import Comparison, Explanation, Question
from recommender.report.answer import headline, workload_section
from recommender.report.draw import scripts
from recommender.report.facts import Facts
from recommender.report.figures import figures
from recommender.report.markup import Html, of
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
from recommender.report.style import STYLE
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
    return _page(f"{facts.best.profile.model}: what to run", main, drawing)


def _page(title: str, main: Html, drawing: Sequence[str]) -> str:
    """Text before scripts: it is read while plots are still to come."""
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_policy(drawing))}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    run = "".join(f"<script>{script}</script>\n" for script in drawing)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{main}\n{run}</body></html>\n'
    )


def _policy(drawing: Sequence[str]) -> str:
    """Nothing but these scripts and the page's own style."""
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in drawing)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(script: str) -> str:
    return base64.b64encode(sha256(script.encode()).digest()).decode()
