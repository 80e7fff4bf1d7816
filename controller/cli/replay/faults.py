"""Faults from their compact forms, such as `0:2@300-900`: which replica, how, from when to when."""

import re
from collections.abc import Mapping, Sequence

from controller.replay.terms import (
    FailedStarts,
    Faults,
    Garbled,
    LongStarts,
    NodeLoss,
    SlowReplica,
    Span,
)
from profiler.errors import Refused

_SPAN = r"(?P<from_s>[^-@:]+)-(?P<to_s>[^-@:]+)"
_AT = re.compile(r"(?P<at_s>[^@:]+)(:(?P<number>\d+))?")
_DURING = re.compile(rf"((?P<number>\d+):)?(?P<value>[^@:]+)@{_SPAN}")
_ONLY_SPAN = re.compile(_SPAN)


def read_faults(
    given: Mapping[str, Sequence[str]], missed_ratio: float, silent_ratio: float
) -> Faults:
    """Read them, by the option that each was given with; `Refused` names it and its form."""
    return Faults(
        node_losses=tuple(_node_loss(text) for text in given["--node-loss"]),
        slow_replicas=tuple(_slow_replica(text) for text in given["--slow-replica"]),
        long_starts=tuple(
            LongStarts(*_during("--long-starts", text, "FACTOR", "3"))
            for text in given["--long-starts"]
        ),
        failed_starts=tuple(_failed_starts(text) for text in given["--failed-starts"]),
        garbled=tuple(
            Garbled(*_during("--garbled", text, "VALUE", "nan")) for text in given["--garbled"]
        ),
        missed_scrapes=tuple(_missed(text) for text in given["--missed-scrapes"]),
        missed_ratio=missed_ratio,
        silent_ratio=silent_ratio,
    )


def _node_loss(text: str) -> NodeLoss:
    mend = _Mend("--node-loss", text, "AT or AT:NODE", "600:1")
    match = mend.match(_AT)
    return NodeLoss(mend.moment(match["at_s"]), int(match["number"] or 0))


def _slow_replica(text: str) -> SlowReplica:
    mend = _Mend("--slow-replica", text, "REPLICA:FACTOR@FROM-TO", "0:2@300-900")
    match = mend.match(_DURING)
    if match["number"] is None:
        raise mend.refused
    return SlowReplica(int(match["number"]), mend.number(match["value"]), mend.span(match))


def _failed_starts(text: str) -> FailedStarts:
    ratio, span = _during("--failed-starts", text, "RATIO", "0.3")
    return FailedStarts(span, ratio)


def _missed(text: str) -> Span:
    mend = _Mend("--missed-scrapes", text, "FROM-TO", "600-900")
    return mend.span(mend.match(_ONLY_SPAN))


def _during(option: str, text: str, what: str, example: str) -> tuple[float, Span]:
    mend = _Mend(option, text, f"{what}@FROM-TO", f"{example}@300-900")
    match = mend.match(_DURING)
    if match["number"] is not None:
        raise mend.refused
    return mend.number(match["value"]), mend.span(match)


class _Mend:
    """One option as it was given, and how it should be."""

    def __init__(self, option: str, text: str, form: str, example: str) -> None:
        self._text = text
        self.refused = Refused(
            f"{option} {text}: give it as {form}, times in seconds, such as {example}"
        )

    def match(self, form: re.Pattern[str]) -> re.Match[str]:
        match = form.fullmatch(self._text)
        if match is None:
            raise self.refused
        return match

    def number(self, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise self.refused from None

    def moment(self, text: str) -> float:
        at_s = self.number(text)
        if not 0 <= at_s < float("inf"):
            raise self.refused
        return at_s

    def span(self, match: re.Match[str]) -> Span:
        from_s, to_s = self.moment(match["from_s"]), self.moment(match["to_s"])
        if from_s > to_s:
            raise self.refused
        return Span(from_s, to_s)
