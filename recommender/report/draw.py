"""Plotly, in one place: it is an extra and has no types.

Only the script of a plot is taken: the page has the element that it fills, so that it reads
before it is drawn, and each script can be named by its hash.
"""

import re
from collections.abc import Mapping
from typing import Any

from profiler.errors import Refused

Figure = dict[str, Any]
"""`data` and `layout` as plotly has them."""

_SCRIPT = re.compile(r"<script[^>]*>(.*?)</script>", re.DOTALL)
_CONFIG = {"displayModeBar": False, "responsive": True}


def scripts(figures: Mapping[str, Figure]) -> list[str]:
    """Plotly's own script, then one for each figure, which fills the element of that name.

    Raises `Refused` where the extra is missing.
    """
    try:
        from plotly.graph_objects import Figure as Drawing  # noqa: PLC0415
        from plotly.offline import get_plotlyjs  # noqa: PLC0415
    except ImportError as error:
        raise Refused(
            "report: needs plotly, which is not installed: pip install 'whaleflux[report]'"
        ) from error
    found = [str(get_plotlyjs())]
    for name, figure in figures.items():
        page = Drawing(figure).to_html(
            full_html=False, include_plotlyjs=False, div_id=name, config=_CONFIG
        )
        (script,) = _SCRIPT.findall(page)  # one: plotly escapes markup in its JSON
        found.append(script)
    return found
