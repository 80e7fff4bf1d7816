"""What one point of a profile measures, and the steps that make it.

Chosen by `design`, driven by `drive`. A point is a value: its steps follow from it and from
the window of the model's sliding-window layers, so a plan can be priced before it is run.
"""

from dataclasses import dataclass

from profiler.calibrate import Measurement, Steps
from profiler.scheduler import Shape

INJECTIONS = 4
"""Prefills sent into a running batch in one window of a mixed point."""
WINDOW_STEPS = 16
"""Decode steps between two looks at the engine's counters."""
WINDOWS = (3, 6)
"""Windows of a batch, at least and at most."""
REPEATS = (3, 8)
"""Counted requests of a lone prefill, at least and at most; one more goes first, uncounted."""
FLOOR_RATIO = 0.02
"""What the step formula cannot follow, however often a point is repeated."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """One lone prompt of `tokens` new tokens after `cached` ones of the prefix cache."""

    tokens: int
    cached: int = 0

    @property
    def name(self) -> str:
        """What people read: `prefill 512 after 1024`."""
        return f"prefill {self.tokens}" + (f" after {self.cached}" if self.cached else "")


@dataclass(frozen=True, slots=True)
class Decode:
    """A closed batch of `sequences` that decode after `context` tokens each."""

    sequences: int
    context: int

    @property
    def name(self) -> str:
        """What people read: `decode 64 × 1024`."""
        return f"decode {self.sequences} × {self.context}"


@dataclass(frozen=True, slots=True)
class Mixed:
    """The same batch while prompts of `tokens` arrive one after the other."""

    sequences: int
    context: int
    tokens: int

    @property
    def name(self) -> str:
        """What people read: `mixed 512 + 64 × 1024`."""
        return f"mixed {self.tokens} + {self.sequences} × {self.context}"


Point = Prefill | Decode | Mixed


def prefill_shape(tokens: int, cached: int, window_tokens: int) -> Shape:
    """The step of a lone chunk; a chunk of one token is a decode to the scheduler."""
    if tokens == 1:
        return decode_shape(1, cached + 1, window_tokens)
    pairs, seen = tokens * (cached + 0.5 * tokens), min(cached + 0.5 * tokens, window_tokens)
    return Shape(
        tokens=tokens,
        sequences=1,
        prefill_sequences=1,
        prefill_token_pairs=pairs,
        prefill_window_token_pairs=tokens * seen,
        kv_tokens=0.0,
        kv_window_tokens=0.0,
        prefill_kv_tokens=float(cached + tokens),
        longest_chunk_tokens=tokens,
    )


def decode_shape(sequences: int, context_tokens: float, window_tokens: int) -> Shape:
    """A step of `sequences` that read `context_tokens` each."""
    return Shape(
        tokens=sequences,
        sequences=sequences,
        prefill_sequences=0,
        prefill_token_pairs=0.0,
        prefill_window_token_pairs=0.0,
        kv_tokens=sequences * context_tokens,
        kv_window_tokens=sequences * min(context_tokens, float(window_tokens)),
    )


def mixed_shape(sequences: int, context_tokens: float, tokens: int, window_tokens: int) -> Shape:
    """A decode step that also prefills one chunk of `tokens`."""
    decode = decode_shape(sequences, context_tokens, window_tokens)
    chunk = prefill_shape(tokens, 0, window_tokens)
    return decode._replace(
        tokens=decode.tokens + chunk.tokens,
        sequences=decode.sequences + 1,
        prefill_sequences=chunk.prefill_sequences,
        prefill_token_pairs=chunk.prefill_token_pairs,
        prefill_window_token_pairs=chunk.prefill_window_token_pairs,
        prefill_kv_tokens=chunk.prefill_kv_tokens,
        longest_chunk_tokens=chunk.longest_chunk_tokens,
    )


def expected(point: Point, window_tokens: int) -> Measurement:
    """The measurement that a point is going to give, of a duration still unknown (1 s)."""
    match point:
        case Prefill():
            shape = prefill_shape(point.tokens, point.cached, window_tokens)
            return Measurement(point.name, (Steps(shape),), 1.0, 1.0, FLOOR_RATIO)
        case Decode():
            context = point.context + 0.5 * WINDOW_STEPS * WINDOWS[0]
            shape = decode_shape(point.sequences, context, window_tokens)
            return Measurement(point.name, (Steps(shape),), 1.0, 0.0, FLOOR_RATIO)
        case Mixed():
            context = point.context + 0.5 * WINDOW_STEPS * WINDOWS[0]
            mixed = mixed_shape(point.sequences, context, point.tokens, window_tokens)
            decode = decode_shape(point.sequences, context, window_tokens)
            steps = (Steps(mixed, INJECTIONS), Steps(decode, INJECTIONS))
            return Measurement(point.name, steps, 1.0, 0.0, FLOOR_RATIO)
