"""The places of plots: a heading, how to read it, and the element that a script fills."""

from recommender.report.markup import Html, of


def plotted(name: str, heading: str, hint: str) -> Html:
    """A plot's place, which `figures` has a figure for."""
    return of(
        "figure",
        of("h3", heading),
        of("p", hint, class_="hint"),
        of("div", id=name, class_="plot", role="img", aria_label=heading),
    )
