"""Volume under the precision–recall surface: how well a score ranks labelled events.

Called by `benchmarks.anomaly`. Range-based with a buffer round each event, after Paparrizos et
al., "Volume Under the Surface", VLDB 15(11), 2022, sections 4.1 to 4.3. It adjusts no points
and needs no threshold. As in the authors' code (`vus`, `TSB_AD`), precision and recall are
read at 250 quantiles of the score, and the buffers 0, 1, …, `buffer` weigh alike.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BUFFER_SAMPLES = 100
"""The published benchmark's default: 50 samples at most on either side of an event."""
THRESHOLDS = 250


class Events(NamedTuple):
    """Runs of labelled samples: first and one past the last, both [events] int64."""

    start: Ints
    stop: Ints


def events_of(label: NDArray[np.bool_]) -> Events:
    """The runs of true samples; label: [samples]."""
    edge = np.diff(np.concatenate(([0], label.astype(np.int8), [0])))
    return Events(np.flatnonzero(edge == 1), np.flatnonzero(edge == -1))


def vus_pr(
    score: Floats, label: NDArray[np.bool_], buffer: int = BUFFER_SAMPLES, levels: int = THRESHOLDS
) -> float:
    """The mean over buffers of the area under the range-based curve (Definition 8), 0 to 1.

    score, label: [samples]; NaN where a score or label is absent is refused. Without an event
    there is nothing to rank: NaN.
    """
    if np.isnan(score).any():
        raise ValueError("a score is NaN: give every sample a score, or leave the sample out")
    events = events_of(label)
    if not events.start.size:
        return float("nan")
    rank, predicted = _levels(score, levels)
    areas = [_area(rank, predicted, label, events, width) for width in range(buffer + 1)]
    return float(np.mean(areas))


def _levels(score: Floats, levels: int) -> tuple[Ints, Floats]:
    """The first level at which each sample is predicted, and how many are at each level."""
    falling = -np.sort(-score)
    thresholds = falling[np.linspace(0, score.size - 1, levels).astype(np.int64)]
    rank = np.searchsorted(-thresholds, -score, side="left").astype(np.int64)
    return rank, np.cumsum(np.bincount(rank, minlength=levels)).astype(np.float64)


def _area(
    rank: Ints, predicted: Floats, label: NDArray[np.bool_], events: Events, width: int
) -> float:
    """Average precision with a buffer of `width` samples, half of it on either side."""
    weight = soft_label(label, events, width)
    found = np.cumsum(np.bincount(rank, weights=weight, minlength=predicted.size))
    buffered = np.where(label, 0.0, weight)
    reached = np.cumsum(np.bincount(rank, weights=buffered, minlength=predicted.size))
    positives = label.sum() + reached / 2  # equation 7: the mean of hard and soft labels
    recall = np.minimum(found / positives, 1.0) * _existence(rank, events, width, predicted.size)
    return float(np.sum(np.diff(recall, prepend=0.0) * found / predicted))


def soft_label(label: NDArray[np.bool_], events: Events, width: int) -> Floats:
    """Label 1 inside events, falling as sqrt(1 − distance/width) in the buffers: [samples]."""
    weight = label.astype(np.float64)
    away = np.arange(1, width // 2 + 1)
    for start, stop in zip(events.start, events.stop, strict=True):
        for place in (start - away, stop - 1 + away):
            inside = (place >= 0) & (place < label.size)
            weight[place[inside]] += np.sqrt(1.0 - away[inside] / width)
    return np.minimum(weight, 1.0)


def _existence(rank: Ints, events: Events, width: int, levels: int) -> Floats:
    """The share of events touched at each level, buffers included: [levels].

    Events whose buffers overlap count as one.
    """
    left = np.maximum(events.start - width // 2, 0)
    right = np.minimum(events.stop + width // 2, rank.size)
    apart = np.flatnonzero(left[1:] >= right[:-1]) + 1
    heads, tails = np.r_[0, apart], np.r_[apart, left.size] - 1
    spans = zip(left[heads], right[tails], strict=True)
    first = np.array([rank[start:stop].min() for start, stop in spans])
    return np.cumsum(np.bincount(first, minlength=levels)) / first.size
