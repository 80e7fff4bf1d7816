"""Read the wanted samples out of a Prometheus text page (format 0.0.4).

Called by `monitor.signals` for every page of every replica, so it decides by a line's name
alone whether to look further: comments and families nobody asked for cost one dictionary
look-up. It never interprets a value; what a sample means is the caller's business.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

_PAIR = r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"([^"\\]*(?:\\.[^"\\]*)*)"\s*'
_LABEL = re.compile(_PAIR)
_LABELS = re.compile(rf"(?:{_PAIR}(?:,{_PAIR})*,?)?\s*")
_NOTHING: list[bytes] = []
_ESCAPES = {"\\n": "\n", "\\\\": "\\", '\\"': '"'}


class Sample(NamedTuple):
    """One line of a page: its labels, and its value (NaN and infinities as they stand)."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Exposition:
    """The wanted samples of a page, by name and in the page's order."""

    samples: Mapping[str, tuple[Sample, ...]]
    malformed: int
    """Lines of wanted names that could not be read and were skipped."""


def read_exposition(page: bytes, wanted: Collection[str]) -> Exposition:
    """Collect the samples named in `wanted`; a name without samples is left out.

    A last line without its line feed was cut in transit: it counts as malformed, because
    "12" may have been "1234".
    """
    found: dict[bytes, list[Sample]] = {name.encode(): [] for name in wanted}
    lines = page.split(b"\n")
    malformed = 0
    for line in lines[:-1]:
        if line.startswith(b"#"):
            continue
        head, brace, rest = line.partition(b"{")
        samples, after = found.get(head), _NOTHING
        if samples is None:  # a value or white space follows the name, or it is not wanted
            words = head.split(None, 1)
            if not words or (samples := found.get(words[0])) is None:
                continue
            after = words[1:]
        sample = _sample(after, rest if brace else None)
        if sample is None:
            malformed += 1
        else:
            samples.append(sample)
    malformed += _is_wanted(lines[-1], found)
    named = {name.decode(): tuple(samples) for name, samples in found.items() if samples}
    return Exposition(MappingProxyType(named), malformed)


def has_prefix(page: bytes, prefix: bytes) -> bool:
    """Tell whether some sample's name starts with `prefix`; comments do not count."""
    return page.startswith(prefix) or b"\n" + prefix in page


def _is_wanted(line: bytes, found: Mapping[bytes, list[Sample]]) -> bool:
    words = line.partition(b"{")[0].split(None, 1)
    return bool(words) and words[0] in found


def _sample(after_name: list[bytes], rest: bytes | None) -> Sample | None:
    """Read what follows a name: `rest` is what stands behind its brace, None without one."""
    if rest is None:
        block, tail = b"", after_name[0] if after_name else b""
    else:
        block, closed, tail = rest.rpartition(b"}")
        if after_name or not closed:
            return None
    labels, value = _labels(block), _value(tail)
    return None if labels is None or value is None else Sample(labels, value)


def _value(tail: bytes) -> float | None:
    """Read a value and skip the timestamp (an integer, milliseconds) that may follow it."""
    if b"_" in tail:  # Python would read 1_000
        return None
    try:
        return float(tail)  # spaces around it are fine
    except ValueError:
        words = tail.split()
    if len(words) != 2 or not words[1].lstrip(b"-").isdigit():
        return None
    try:
        return float(words[0])
    except ValueError:
        return None


@lru_cache(maxsize=8192)
def _labels(block: bytes) -> Mapping[str, str] | None:
    """Read `a="x",b="y"`, a comma allowed at the end; None when it is anything else.

    Buckets of all histograms share their blocks, and so do the pages of all replicas of a model.
    """
    text = block.decode(errors="replace")
    if _LABELS.fullmatch(text) is None:
        return None
    pairs = _LABEL.findall(text)
    return MappingProxyType({name: _unescape(value) for name, value in pairs})


def _unescape(value: str) -> str:
    if "\\" not in value:
        return value
    return re.sub(r"\\.", lambda match: _ESCAPES.get(match[0], match[0]), value)
