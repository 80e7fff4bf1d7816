"""Constants of the step-cost formula from anything that prices a step by its kernels.

    attention     non-negative least squares over its terms, weighted by the whole step
    link          a line over tokens
    dense curve   what is left of the step at each point of `GRID_TOKENS`: of decode steps up
                  to 256 tokens, of prefills beyond

so that the formula meets the answers at the sampled shapes. Kernels know no engine: step
overhead, API time and what mixing costs stay the data sheet's. What was not measured is said
in the notes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, nnls

from profiler.analytical import analytical_cost
from profiler.errors import Refused
from profiler.estimate import DATA_SHEET, GROUPS, KERNELS, Estimate, Uncertainty
from profiler.operators import Replica
from profiler.step_cost import GRID_TOKENS, StepCost, dense_curve

Floats = NDArray[np.float64]

NAME = "kernel database"


class Answer(NamedTuple):
    """One operator of a step."""

    operator: str
    seconds: float
    source: str
    """`silicon` measured; `mixed`, `empirical` and others: at least partly computed."""


class Kernels(Protocol):
    """What a step takes, by operator; raises `LookupError` where the tables have no answer."""

    def prefill(self, sequences: int, tokens: int, prefix: int) -> Sequence[Answer]:
        """`sequences` prompts of `tokens` new tokens each, after `prefix` cached ones."""
        ...

    def decode(self, sequences: int, context: int) -> Sequence[Answer]:
        """One token for each of `sequences`, which see `context` tokens each."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One step asked of the database; seconds by kind of operator."""

    decodes: int
    chunks: int
    tokens: int
    """New tokens of each chunk, or the context of each decode."""
    prefix: int
    dense_s: float
    attention_s: float
    link_s: float
    head_s: float

    @property
    def total_s(self) -> float:
        """Whole step."""
        return self.dense_s + self.attention_s + self.link_s + self.head_s

    @property
    def new_tokens(self) -> int:
        """New tokens of the step."""
        return self.decodes or self.chunks * self.tokens


_FROM_PREFILL = 256
"""Points of the dense curve beyond so many tokens come from prefills."""
_CHUNK = 2048
_CHUNKS = (64, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PREFIXES = (0, 1024, 4096, 16384, 65536)
_DECODES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_MOST_KV_TOKENS = 2_000_000
_USUAL_CONTEXT = 1024


def fit_kernels(replica: Replica, kernels: Kernels) -> tuple[Estimate, tuple[str, ...]]:
    """Constants of the formula from whatever answers like the database; and notes."""
    sampler = _Sampler(kernels)
    decodes, prefills = _samples(sampler, replica.architecture.max_model_len)
    guess = analytical_cost(replica)
    window = replica.architecture.window_tokens
    pair_s, window_pair_s, read_s = _fit_prefill(prefills, window)
    kv_s, window_kv_s, attention_sequence_s = _fit_decode(decodes, window)
    head_sequence_s = _line([s.decodes for s in decodes], [s.head_s for s in decodes])[1]
    points = [*decodes, *prefills]
    link_fixed_s, link_s = _line([s.new_tokens for s in points], [s.link_s for s in points])
    cost = guess._replace(
        step_overhead_s=replica.overhead_s + link_fixed_s,
        sequence_s=head_sequence_s + attention_sequence_s,
        dense_s=(0.0,) * GRID_TOKENS.size,
        token_link_s=link_s,
        prefill_pair_s=pair_s,
        prefill_window_pair_s=window_pair_s,
        prefill_kv_s=read_s,
        kv_token_s=kv_s,
        kv_window_token_s=window_kv_s,
    )
    cost = cost._replace(dense_s=_remainder(cost, link_fixed_s, points, window))
    cost = cost._replace(sequence_s=cost.sequence_s + replica.efficiency.sequence_s)
    doubt, doubts = _doubt(cost, guess)
    own = {"weights", "compute", "prefill_attention", "decode_attention", "link", "sequence"}
    errors = Uncertainty(*(getattr(KERNELS if n in own else DATA_SHEET, n) for n in GROUPS))
    errors = replace(errors, weights=max(errors.weights, doubt))
    origins = tuple(NAME if n in own else "data sheet" for n in GROUPS)
    return Estimate(cost, errors, origins), (*sampler.notes(), *doubts)


_FEW_TOKENS = 16
_BELIEVED_RATIO = 2.5


def _doubt(cost: StepCost, guess: StepCost) -> tuple[float, tuple[str, ...]]:
    """Error of the flat part of the dense curve, and why, where it is far from a roofline.

    Some tables were measured without CUDA graphs: a small kernel then takes what its launch
    takes, 0.1 to 0.2 ms, whatever its size (blockwise FP8 on B200). Engines replay graphs.
    """
    ratio = float(np.interp(_FEW_TOKENS, GRID_TOKENS, cost.dense_s))
    ratio /= float(np.interp(_FEW_TOKENS, GRID_TOKENS, guess.dense_s))
    if ratio < _BELIEVED_RATIO:
        return 0.0, ()
    return float(np.log(ratio)), (
        f"kernel database: {_FEW_TOKENS} tokens take {ratio:.1f} × as long as reading the weights: "
        "launch times, it seems, which engines spare by replaying graphs; calibrate before use",
    )


_SOURCES = {"mixed": "partly computed, not measured", "empirical": "computed, not measured"}


class _Sampler:
    """Ask, sum by kind, and remember what was not measured."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._asked = 0
        self._unanswered = 0
        self._spent_s: dict[tuple[str, str], float] = {}

    def prefill(self, chunks: int, tokens: int, prefix: int) -> Sample | None:
        """One step of prefills; None where the database has no answer."""
        answers = self._ask(lambda: self._kernels.prefill(chunks, tokens, prefix))
        return Sample(0, chunks, tokens, prefix, **_by_kind(answers)) if answers else None

    def decode(self, sequences: int, context: int) -> Sample | None:
        """One step of decodes; None where the database has no answer."""
        answers = self._ask(lambda: self._kernels.decode(sequences, context))
        return Sample(sequences, 0, context, 0, **_by_kind(answers)) if answers else None

    def _ask(self, question: Callable[[], Sequence[Answer]]) -> Sequence[Answer] | None:
        self._asked += 1
        try:
            answers = question()
        except LookupError:
            self._unanswered += 1
            return None
        for name, seconds, source in answers:
            key = name.split("_", 1)[-1], source
            self._spent_s[key] = self._spent_s.get(key, 0.0) + seconds
        return answers

    def notes(self) -> tuple[str, ...]:
        """What was not measured, with its share of the time of all steps asked."""
        total = sum(self._spent_s.values()) or 1.0
        notes = [
            f"kernel database: {operator}, {seconds / total:.0%} of the time asked, is "
            f"{_SOURCES.get(source, source)}"
            for (operator, source), seconds in sorted(self._spent_s.items())
            if source != "silicon" and seconds > 0.03 * total
        ]
        if self._unanswered:
            notes.append(
                f"kernel database: no answer for {self._unanswered} of {self._asked} shapes: "
                "filled from the others"
            )
        notes.append("step overhead, API time and mixed steps are not in it: priors were used")
        return tuple(notes)


_LINK = ("_ar", "allreduce", "dispatch", "p2p", "all2all", "alltoall")


def _by_kind(answers: Sequence[Answer]) -> dict[str, float]:
    kinds = {"dense_s": 0.0, "attention_s": 0.0, "link_s": 0.0, "head_s": 0.0}
    for name, seconds, _ in answers:
        if any(part in name for part in _LINK):
            kinds["link_s"] += seconds
        elif "logits" in name:
            kinds["head_s"] += seconds
        elif ("attention" in name or "mla" in name) and "gemm" not in name:
            kinds["attention_s"] += seconds
        else:
            kinds["dense_s"] += seconds
    return kinds


def _samples(sampler: _Sampler, longest: int) -> tuple[list[Sample], list[Sample]]:
    """Decode steps and prefill steps; enough of each, or `Refused`."""
    small = [int(t) for t in GRID_TOKENS if t <= _FROM_PREFILL]
    wanted = {(n, _USUAL_CONTEXT) for n in small}
    wanted |= {(n, c) for n, c in product(_DECODES, _CONTEXTS) if n * c <= _MOST_KV_TOKENS}
    decodes = [sampler.decode(n, c) for n, c in sorted(wanted) if c <= longest]
    large = [int(t) for t in GRID_TOKENS if t > _FROM_PREFILL]
    chunks = {(max(t // _CHUNK, 1), min(t, _CHUNK), 0) for t in large}
    chunks |= {(1, a, k) for a, k in product(_CHUNKS, _PREFIXES) if a + k <= longest}
    prefills = [sampler.prefill(*chunk) for chunk in sorted(chunks)]
    found = [s for s in decodes if s], [s for s in prefills if s]
    for name, samples in zip(("decode", "prefill"), found, strict=True):
        if len(samples) < 8:
            raise Refused(
                f"kernel database: answers {len(samples)} {name} shapes of this model on this GPU, "
                "too few to fit; use another source"
            )
    return found


def _fit_prefill(samples: Sequence[Sample], window: int) -> tuple[float, float, float]:
    """Seconds per pair, per pair in windowed layers, per token of context read."""
    terms = [_prefill_terms(s, window) for s in samples]
    columns = np.array([[1.0, s.new_tokens, *t] for s, t in zip(samples, terms, strict=True)])
    found = _weighted(columns, samples)
    return float(found[2]), float(found[3]), float(found[4])


def _prefill_terms(sample: Sample, window: int) -> tuple[float, float, float]:
    """Σ pairs, Σ pairs within the window (0 without windows), Σ context."""
    a, k, n = sample.tokens, sample.prefix, sample.chunks
    if not n:
        return 0.0, 0.0, 0.0
    seen = np.minimum(k + np.arange(a) + 0.5, window).sum() if window else 0.0
    return n * a * (k + a / 2), n * float(seen), float(n * (k + a))


def _fit_decode(samples: Sequence[Sample], window: int) -> tuple[float, float, float]:
    """Seconds per token of KV, per token in windowed layers, per sequence."""
    kv = np.array([_decode_terms(s, window) for s in samples])
    columns = np.column_stack([np.ones(len(samples)), [s.decodes for s in samples], kv])
    found = _weighted(columns, samples)
    return float(found[2]), float(found[3]), float(found[1])


def _decode_terms(sample: Sample, window: int) -> tuple[float, float]:
    n, context = sample.decodes, sample.tokens
    return float(n * context), float(n * min(context, window))


def _weighted(columns: Floats, samples: Sequence[Sample]) -> Floats:
    """Non-negative least squares of attention, errors relative to the whole step."""
    weight = 1.0 / np.array([s.total_s for s in samples])
    scale = np.maximum(columns.max(axis=0), 1e-30)
    attention = np.array([s.attention_s for s in samples])
    found: Floats = nnls(columns / scale * weight[:, None], attention * weight)[0] / scale
    return found


def _line(counts: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Fixed seconds and seconds each, errors relative."""
    y = np.array(seconds, np.float64)
    if not y.any():
        return 0.0, 0.0
    weight = 1.0 / np.maximum(y, 1e-3 * y.max())
    columns = np.column_stack([np.ones(y.size), counts])
    fixed, each = nnls(columns * weight[:, None], y * weight)[0]
    return float(fixed), float(each)


def _remainder(
    cost: StepCost, link_fixed_s: float, samples: Sequence[Sample], window: int
) -> tuple[float, ...]:
    """Dense curve: what the other terms leave of each sampled step."""
    found: dict[int, list[float]] = {}
    for s in samples:
        tokens = s.new_tokens
        usual = s.tokens == _USUAL_CONTEXT if s.decodes else s.prefix == 0 and s.tokens <= _CHUNK
        if not usual or bool(s.decodes) != (tokens <= _FROM_PREFILL):
            continue
        pairs, window_pairs, read = _prefill_terms(s, window)
        kv, window_kv = _decode_terms(s, window)
        rest = s.total_s - link_fixed_s - cost.token_link_s * tokens
        rest -= cost.sequence_s * (s.decodes + s.chunks)
        rest -= cost.prefill_pair_s * pairs + cost.prefill_kv_s * read
        rest -= cost.prefill_window_pair_s * window_pairs
        rest -= cost.kv_token_s * kv + cost.kv_window_token_s * window_kv
        found.setdefault(tokens, []).append(max(rest, 0.0))
    tokens_up = sorted(found)
    means = np.array([max(float(np.mean(found[t])), 1e-9) for t in tokens_up])
    # single shapes fall on slow kernels: the nearest curve that never falls, errors relative
    level = isotonic_regression(means, weights=means**-2.0).x
    return dense_curve(tokens_up, level.tolist())
