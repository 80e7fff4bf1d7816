"""Markup in which everything is text unless it was made here.

Names of models, GPUs and reasons come from users: a plain string is escaped wherever it is put,
so that forgetting to escape it is impossible, not merely wrong.
"""

from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Text that is markup already; made by `of` and by constants, never from what was given."""

    __slots__ = ()


Inside = str | Iterable[str]
"""A text, markup, or several of these."""


def of(tag: str, *inside: Inside, **attributes: str) -> Html:
    """Give an element; `class_` and the like lose the underscore that Python asks for."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
    )
    return Html(f"<{tag}{given}>{joined(*inside)}</{tag}>")


def joined(*inside: Inside) -> Html:
    """Put one after the other, escaping what is no markup."""
    return Html("".join(_safe(each) for each in inside))


def _safe(inside: Inside) -> str:
    if isinstance(inside, Html):
        return inside
    return escape(inside) if isinstance(inside, str) else "".join(map(_safe, inside))


def paragraphs(*texts: str) -> Html:
    """Each text a paragraph; an empty one is none."""
    return joined(of("p", text) for text in texts if text)


def listed(lines: Sequence[str]) -> Html:
    """A list of lines."""
    return of("ul", [of("li", line) for line in lines])


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], chosen: int | None = None, words: int = 1
) -> Html:
    """Figures under their heads; the first column names, the `chosen` row stands out.

    The first `words` columns are words. A row that is shorter than the head ends in a sentence,
    which gets the rest of the width.
    """
    heads = [_cell("th", name, i < words, scope="col") for i, name in enumerate(head)]
    body = [_row(row, len(head), words, i == chosen) for i, row in enumerate(rows)]
    return of("div", of("table", of("thead", of("tr", heads)), of("tbody", body)), class_="wide")


def _row(cells: Sequence[str], width: int, words: int, chosen: bool) -> Html:
    first, *rest = cells
    drawn = [_cell("th", first, True, scope="row")]
    drawn += [_cell("td", cell, i < words) for i, cell in enumerate(rest, start=1)]
    if len(cells) < width:
        drawn[-1] = _cell("td", rest[-1], True, colspan=str(width - len(cells) + 1))
    return of("tr", drawn, class_="chosen") if chosen else of("tr", drawn)


def _cell(tag: str, text: str, is_word: bool, **attributes: str) -> Html:
    return of(tag, text, **({"class": "word"} if is_word else {}), **attributes)


def folded(title: str, inside: Html) -> Html:
    """Hide what is long until it is asked for."""
    return of("details", of("summary", title), inside)
