"""One HTML file that needs nothing else, and what a browser may do with it.

Only the scripts that were put here run, each named by its hash; nothing is fetched. Read by this
report and by that of `whaleflux replay`.
"""

import base64
from collections.abc import Sequence
from hashlib import sha256
from html import escape

from recommender.report.markup import Html
from recommender.report.style import STYLE


def page(title: str, main: Html, drawing: Sequence[str], style: str = "") -> str:
    """Put it together; `style`: rules of its own besides the common ones.

    Text stands before scripts: it is read while plots are still to come.
    """
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_policy(drawing))}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
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
