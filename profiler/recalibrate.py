"""Correct a profile by what production showed: drift of an engine from its own prediction.

Called with windows of `/metrics` increments, a minute each, of one replica. Pure: no clock,
no I/O. For each window the mean gap between tokens (ITL) and the mean time to first token
(TTFT) are predicted from the window's own load, in closed form on the step cost:

    L     = Σ gaps / duration                     sequences that decode at a time (Little's law)
    D     = L + 1 − L / max_num_seqs              what a token's step holds: Poisson, with a limit
    C     = context of a sequence, from the KV cache in use, or else prompt + ½ answer
    n, a  = steps of one prompt, tokens in each   computed tokens, in chunks of the step's budget
    m     = prompts · n · L / gaps                share of gaps that a prefill falls into: an
                                                  arrival meets L decodes (PASTA)
    ITL   = (1 − m) · step(D decodes of C) + m · step(the same and a prefill of a)
    P     = n · step(a beside L decodes of C)     a prompt's own steps
    TTFT  = request_s + (1 − e^−L) · ½ ITL + ρP / 2(1 − ρ) + P,  ρ = prompts · P / duration

The wait is half a step where one is under way, and that of M/D/1 (Pollaczek 1930, Khinchine
1932). What is left, log(measured / predicted), is judged by a sequential test that holds at
every look: a mixture of likelihood ratios over the size of the shift (Robbins, Annals of
Mathematical Statistics 41, 1970) and over the moment of the change (e-detectors: Shin,
Ramdas and Rinaldo, New England Journal of Statistics in Data Science 2, 2024). Without
drift, evidence of 100 comes once in 100 series at most (Ville's inequality).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from profiler.estimate import GROUPS, scaled
from profiler.measure.profiling.phases import Total
from profiler.measure.profiling.points import decode_shape, mixed_shape
from profiler.profile import EngineProfile, Source
from profiler.scheduler import Limits
from profiler.step_cost import StepCost, step_s

TOLERANCE = 0.03
"""Log ratio that the closed form of the ITL is off by at any rate: no drift below it counts."""
WAIT_TOLERANCE = 0.12
"""The same of the TTFT: how far lengths spread, which decides the wait, no total tells."""
CONFIDENCE = 0.99
"""Below this a profile is left alone."""
MOST_STEP = 0.10
"""Log ratio by which one update moves a constant at most."""
LEAST_REQUESTS = 5
LEAST_GAPS = 50
_SATURATED_WAITING = 1.0
"""Mean requests in the queue beyond which waiting, not work, is what is timed."""
_SATURATED_PREFILL = 0.7
"""Share of the time that prefills take beyond which a closed form of the wait says nothing."""
_STORM_RATIO = 0.05
"""Preemptions per request that disturb a window."""
_NEIGHBOURS = 4
"""Windows to each side that an outlier is told from: an incident of so many is told too."""
_OUTLIER = 3.5
_LEAST_SPREAD = 0.02
_SHIFT = 0.10
"""Size of shift that the mixture has most weight around, as a log ratio."""


@dataclass(frozen=True, slots=True)
class Window:
    """Increments over one window of one replica; None: not published."""

    duration_s: float
    ttft: Total | None
    """Times to first token, s, per request."""
    itl: Total | None
    """Gaps between tokens, s, each counted once."""
    prompt_tokens: float
    """Of the prompts whose prefill ended."""
    cached_tokens: float = 0.0
    """Of those, found in the prefix cache."""
    generation_tokens: float = 0.0
    e2e: Total | None = None
    iteration_tokens: Total | None = None
    """Tokens per step; its count is steps."""
    running: float | None = None
    """Mean over the window's looks."""
    waiting: float | None = None
    kv_usage_ratio: float | None = None
    preemptions: float = 0.0
    errors: float = 0.0
    """Requests that ended in an error or were aborted by the engine."""
    restarted: bool = False


class Left(StrEnum):
    """Why a window was left out."""

    NO_DATA = "no data"
    TOO_FEW = "too few requests"
    RESTART = "restart"
    ERRORS = "errors"
    PREEMPTIONS = "preemptions"
    SATURATED = "saturated queue"
    OUTLIER = "outlier"


@dataclass(frozen=True, slots=True)
class Expected:
    """Means that a step cost predicts for a window's load, seconds."""

    itl_s: float
    ttft_s: float


@dataclass(frozen=True, slots=True)
class Drift:
    """How far an engine is from its profile."""

    ratio: float
    """Measured over predicted, since the change where there was one; 1: as predicted."""
    confidence: float
    """0 to 1: one minus the chance of such evidence in a series without drift."""
    windows: int
    """Windows that it was judged on."""
    excluded: tuple[tuple[Left, int], ...]
    """Windows left out, by reason."""
    since: int | None = None
    """Number of the first window, among all given, after the likeliest change."""
    tolerance: float = TOLERANCE
    """Log ratio below which it does not count."""

    @property
    def found(self) -> bool:
        """Whether it is worth a correction."""
        return self.confidence >= CONFIDENCE and abs(math.log(self.ratio)) > self.tolerance


@dataclass(frozen=True, slots=True)
class Recalibration:
    """What production said of a profile, and the profile that follows."""

    decode: Drift
    """Judged on gaps between tokens."""
    prefill: Drift
    """Judged on times to first token."""
    profile: EngineProfile
    """The same object where nothing was found."""


def expected(cost: StepCost, limits: Limits, window: Window) -> Expected | None:
    """Mean ITL and TTFT of a window's load; None without requests or gaps to judge."""
    if window.ttft is None or window.itl is None or window.ttft.count < 1 or window.itl.count < 1:
        return None
    requests, gaps = window.ttft.count, window.itl.count
    decoding = min(window.itl.total / window.duration_s, limits.max_num_seqs)
    seen = max(decoding + 1.0 - decoding / limits.max_num_seqs, 1.0)
    context = _context_tokens(limits, window)
    computed = max((window.prompt_tokens - window.cached_tokens) / requests, 1.0)
    chunks = math.ceil(computed / limits.max_num_batched_tokens)
    chunk = max(round(computed / chunks), 2)
    hit = min(requests * chunks * decoding / gaps, 1.0)
    alone = _step_s(cost, seen, context, 0)
    beside = _step_s(cost, seen, context, chunk)
    itl_s = (1.0 - hit) * alone + hit * beside
    prompt_s = chunks * _step_s(cost, decoding, context, chunk)
    busy = requests * prompt_s / window.duration_s
    queue_s = busy * prompt_s / (2.0 * (1.0 - busy)) if busy < 1.0 else math.inf
    wait_s = -math.expm1(-decoding) * 0.5 * itl_s
    return Expected(itl_s, cost.request_s + wait_s + queue_s + prompt_s)


def _step_s(cost: StepCost, sequences: float, context: float, chunk: int) -> float:
    """A step of a fractional batch: linear between the two whole ones around it."""
    low = math.floor(sequences)
    share = sequences - low
    ends = [
        step_s(cost, mixed_shape(n, context, chunk, cost.window_tokens))
        if chunk
        else step_s(cost, decode_shape(max(n, 1), context, cost.window_tokens))
        for n in (low, low + 1)
    ]
    return float((1.0 - share) * ends[0] + share * ends[1])


def _context_tokens(limits: Limits, window: Window) -> float:
    """Mean context of a decoding sequence."""
    assert window.ttft is not None  # noqa: S101 - the caller has checked
    if window.kv_usage_ratio and window.running and window.running >= 1.0:
        held = window.kv_usage_ratio * limits.num_blocks * limits.block_size
        return max(held / window.running - 0.5 * limits.block_size, 1.0)
    requests = window.ttft.count
    return (window.prompt_tokens + 0.5 * window.generation_tokens) / requests


def recalibrate(profile: EngineProfile, limits: Limits, windows: Sequence[Window]) -> Recalibration:
    """Judge drift on windows in order of time, and correct the profile where it is certain.

    Gaps between tokens correct what decodes cost, times to first token what prefills cost;
    one update moves a constant by `MOST_STEP` at most, so that a mistake stays small and a
    true drift is followed in a few updates.
    """
    faults = [_fault(profile.cost, limits, w) for w in windows]
    made = [
        None if fault else expected(profile.cost, limits, w)
        for fault, w in zip(faults, windows, strict=True)
    ]
    itl = [_log_ratio(w.itl, e.itl_s if e else None) for w, e in zip(windows, made, strict=True)]
    ttft = [_log_ratio(w.ttft, e.ttft_s if e else None) for w, e in zip(windows, made, strict=True)]
    decode = judge(np.array(itl, np.float64), faults)
    prefill = judge(np.array(ttft, np.float64), faults, WAIT_TOLERANCE)
    return Recalibration(decode, prefill, corrected(profile, decode, prefill))


def _fault(cost: StepCost, limits: Limits, window: Window) -> Left | None:
    """Why a window says nothing of the engine's speed; None when it does."""
    if window.restarted:
        return Left.RESTART
    if window.ttft is None or window.itl is None:
        return Left.NO_DATA
    if window.errors > 0:
        return Left.ERRORS
    if window.ttft.count < LEAST_REQUESTS or window.itl.count < LEAST_GAPS:
        return Left.TOO_FEW
    if window.preemptions > _STORM_RATIO * window.ttft.count:
        return Left.PREEMPTIONS
    if window.waiting is not None and window.waiting > _SATURATED_WAITING:
        return Left.SATURATED
    decoding = window.itl.total / window.duration_s
    made = expected(cost, limits, window)
    if made is None or decoding > 0.95 * limits.max_num_seqs:
        return Left.SATURATED
    return Left.SATURATED if made.ttft_s > _longest_s(cost, limits, window) else None


def _longest_s(cost: StepCost, limits: Limits, window: Window) -> float:
    """Time to first token beyond which prefills take more than their share of the time."""
    assert window.ttft is not None  # noqa: S101 - the caller has checked
    prompt_s = _SATURATED_PREFILL * window.duration_s / window.ttft.count
    most_wait = _SATURATED_PREFILL / (2.0 * (1.0 - _SATURATED_PREFILL))
    decode_s = _step_s(cost, limits.max_num_seqs, _context_tokens(limits, window), 0)
    return cost.request_s + decode_s + prompt_s * (1.0 + most_wait)


def _log_ratio(measured: Total | None, expected_s: float | None) -> float:
    if measured is None or expected_s is None or measured.count < 1 or measured.total <= 0:
        return math.nan
    return math.log(measured.mean / expected_s)


def judge(
    residuals: NDArray[np.float64], faults: Sequence[Left | None], tolerance: float = TOLERANCE
) -> Drift:
    """Test a series of log ratios (NaN: left out) for drift beyond `tolerance`.

    `faults` say why a window was left out; outliers against their neighbours join them.
    """
    kept = np.isfinite(residuals)
    outliers = _outliers(residuals, kept)
    used = np.flatnonzero(kept & ~outliers)
    left = [f for f in faults if f is not None] + [Left.OUTLIER] * int(outliers.sum())
    excluded = tuple((reason, left.count(reason)) for reason in Left if reason in left)
    if used.size < 3:
        return Drift(1.0, 0.0, int(used.size), excluded, None, tolerance)
    values = residuals[used]
    evidence = np.array([_evidence(values[start:], tolerance) for start in range(values.size - 2)])
    start = int(np.argmax(evidence))
    total = float(np.mean(evidence))  # each moment of change equally likely beforehand
    confidence = 1.0 - 1.0 / max(total, 1.0)
    ratio = math.exp(_huber(values[start:] if confidence > 0.5 else values))
    return Drift(ratio, confidence, int(used.size), excluded, int(used[start]), tolerance)


def _outliers(residuals: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Windows far from the median of their neighbours; a lasting change is no outlier."""
    found = np.zeros(residuals.size, np.bool_)
    places = np.flatnonzero(kept)
    values = residuals[places]
    spread = _spread(values)
    for i, place in enumerate(places):
        low = min(max(i - _NEIGHBOURS, 0), max(values.size - 2 * _NEIGHBOURS - 1, 0))
        near = values[low : low + 2 * _NEIGHBOURS + 1]
        found[place] = abs(values[i] - np.median(near)) > _OUTLIER * spread
    return found


def _spread(values: NDArray[np.float64]) -> float:
    """Standard deviation from window to window, robust and blind to a change of level."""
    if values.size < 3:
        return _LEAST_SPREAD
    steps = np.abs(np.diff(values))
    return max(float(1.4826 * np.median(steps) / math.sqrt(2.0)), _LEAST_SPREAD)


def _evidence(values: NDArray[np.float64], tolerance: float) -> float:
    """E-value against |mean| ≤ tolerance: both signs, a half-normal mixture over the shift."""
    spread = _spread(values)
    up = _one_sided(values - tolerance, spread)
    return 0.5 * (up + _one_sided(-values - tolerance, spread))


def _one_sided(values: NDArray[np.float64], spread: float) -> float:
    """Robbins' mixture in closed form: ∫ 2φ(λ; ρ) exp(λS − nλ²σ²/2) dλ over λ > 0."""
    clipped = np.clip(values, -1.0, 1.0)
    total = float(np.sum(clipped)) / spread
    n, rho = clipped.size, _SHIFT / spread
    scale = 1.0 + n * rho**2
    exponent = min(rho**2 * total**2 / (2.0 * scale), 700.0)
    tail = float(norm.logcdf(rho * total / math.sqrt(scale)))
    return 2.0 / math.sqrt(scale) * math.exp(max(exponent + tail, -700.0))


def _huber(values: NDArray[np.float64]) -> float:
    """Location by Huber's ψ at 1.5 spreads (Annals of Mathematical Statistics 35, 1964)."""
    middle, bound = float(np.median(values)), 1.5 * _spread(values)
    for _ in range(20):
        middle += float(np.mean(np.clip(values - middle, -bound, bound)))
    return middle


_DECODE = ("weights", "decode_attention", "mixed", "link", "overhead", "sequence")
_PREFILL = ("compute", "prefill_attention")


def corrected(profile: EngineProfile, decode: Drift, prefill: Drift) -> EngineProfile:
    """Move the constants by what is certain, a bounded step; the same object without any."""
    steps = {name: _bounded(decode) for name in _DECODE}
    steps |= {name: _bounded(prefill) for name in _PREFILL}
    if not any(steps.values()):
        return profile
    factors = np.array([steps.get(name, 0.0) for name in GROUPS])
    note = (
        f"recalibrated: decode × {math.exp(_bounded(decode)):.3f}, prefill × "
        f"{math.exp(_bounded(prefill)):.3f} from {decode.windows} production windows"
    )
    provenance = replace(profile.provenance, notes=(*profile.provenance.notes, note)[-64:])
    return replace(
        profile,
        cost=scaled(profile.cost, factors),
        source=Source.MEASURED,
        provenance=provenance,
    )


def _bounded(drift: Drift) -> float:
    if not drift.found:
        return 0.0
    return float(np.clip(math.log(drift.ratio), -MOST_STEP, MOST_STEP))
