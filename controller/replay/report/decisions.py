"""Every decision of every policy, with its reason.

Which policy's are seen is chosen by the style alone (`:has`): it needs no script.
"""

from collections.abc import Sequence

from controller.replay.outcome import Change, Outcome
from controller.replay.report.told import Told
from recommender.report.markup import Html, folded, joined, of, table
from recommender.report.wording import counted

_UNFOLDED = 60
"""Decisions of a policy that are shown at once."""
_MOST = 5000
"""And in the page at all; JSON holds all of them."""


def style(policies: int) -> str:
    """Show the decisions of the policy that is chosen, or of all."""
    return "".join(
        f"main:has(#only-{i}:checked) .decisions:not(.of-{i}){{display:none}}"
        for i in range(policies)
    )


def decisions(told: Told) -> Html:
    """All of them, and the choice among the policies."""
    return of(
        "section",
        of("h2", "Every decision"),
        of("p", [_choice("all", "all", checked=True),
                 *(_choice(str(i), o.policy) for i, o in enumerate(told.outcomes))]),
        [_of_policy(i, outcome) for i, outcome in enumerate(told.outcomes)],
        id="decisions",
    )  # fmt: skip


def _choice(value: str, name: str, *, checked: bool = False) -> Html:
    """A field to choose by; `value` is made here."""
    mark = " checked" if checked else ""
    field = Html(f'<input type="radio" name="only" id="only-{value}"{mark}>')
    return joined(field, of("label", f" {name} ", **{"for": f"only-{value}"}), " ")


def _of_policy(place: int, outcome: Outcome) -> Html:
    changes = outcome.changes
    body = [
        of("h3", f"{outcome.policy}: {counted(len(changes), 'decision')} that changed something")
    ]
    if changes:
        body.append(_table(changes[:_UNFOLDED]))
    if len(changes) > _UNFOLDED:
        later = changes[_UNFOLDED:_MOST]
        body.append(folded(f"The next {counted(len(later), 'decision')}", _table(later)))
    if len(changes) > _MOST:
        body += [of("p", f"{len(changes) - _MOST} more are in the output of -o json.")]
    return of("div", body, class_=f"decisions of-{place}")


def _table(changes: Sequence[Change]) -> Html:
    rows = [(_clock(c.at_s), f"{c.before} → {c.after}", c.reason or "no reason given")
            for c in changes]  # fmt: skip
    return table(("At", "Replicas", "Why"), rows, words=3)


def _clock(at_s: float) -> str:
    minutes, seconds = divmod(round(at_s), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
