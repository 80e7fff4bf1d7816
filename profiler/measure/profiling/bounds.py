"""Within which lengths and batches an engine can be measured, and the points there are.

Lengths are powers of two apart: the step formula is smooth, and its bends (weights read or
tokens computed) are found by `design` between them.
"""

from dataclasses import dataclass, replace

from profiler.errors import Refused
from profiler.measure.profiling.points import Decode, Mixed, Point, Prefill

CHUNK_TOKENS = 2048
"""vLLM's smallest default of `max_num_batched_tokens`: a prompt up to here is one step
under any of them, so its duration is that of one known step."""
MAX_NUM_SEQS = 256
"""vLLM's default, where nobody says."""
_STREAM_TOKENS = 256
"""Answer of a stream in a batch: warm-up and all windows fit, and it is cut when done."""
_KV_SHARE = 0.9
"""Of the KV cache that a batch may take: preemption would be measured otherwise."""
_SHORTEST = 16


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the engine can hold; counts and tokens."""

    max_model_len: int
    capacity_tokens: int | None
    """KV cache; None: unknown."""
    max_num_seqs: int = MAX_NUM_SEQS
    chunk_tokens: int = CHUNK_TOKENS
    """Longest prompt that is surely one step."""
    block_tokens: int = 16
    prefix_caching: bool = True

    def __post_init__(self) -> None:
        """Refuse an engine too small to be measured."""
        if self.max_model_len < 4 * _SHORTEST:
            raise Refused(
                f"max_model_len {self.max_model_len}: a profile needs at least "
                f"{4 * _SHORTEST} tokens; start the engine with more"
            )
        if self.max_num_seqs < 1 or self.chunk_tokens < _SHORTEST:
            raise Refused(
                f"max_num_seqs must be at least 1 and max_num_batched_tokens at least {_SHORTEST}"
            )

    def stream_tokens(self, sequences: int, context: int) -> int:
        """Tokens that a stream of a batch asks for.

        The first to begin decodes while the others' prompts are computed, a step each chunk.
        """
        others = -(-sequences * context // self.chunk_tokens)
        return min(_STREAM_TOKENS, self.max_model_len // 2) + others

    @property
    def longest_prompt(self) -> int:
        """A lone prompt with its one token of answer fits."""
        held = self.max_model_len if self.capacity_tokens is None else self.capacity_tokens
        return min(self.max_model_len, held) - 1

    def holds(self, sequences: int, context: int) -> bool:
        """Whether a batch runs to its end without preemption."""
        length = context + self.stream_tokens(sequences, context)
        if sequences > self.max_num_seqs or length > self.max_model_len:
            return False
        room = float("inf") if self.capacity_tokens is None else self.capacity_tokens * _KV_SHARE
        return sequences * length <= room

    def with_max_num_seqs(self, found: int) -> "Bounds":
        """Narrow the batch to what the engine was seen to run at once."""
        return replace(self, max_num_seqs=max(found, 1))


def candidates(bounds: Bounds) -> tuple[Point, ...]:
    """All points that the engine can hold, small ones first."""
    return (*_prefills(bounds), *_decodes(bounds), *_mixed(bounds))


def _powers(low: int, high: int, factor: int = 2) -> list[int]:
    """`low`, then `factor` times as much until `high`, and `high` itself."""
    lengths = []
    while low < high:
        lengths.append(low)
        low *= factor
    return [*lengths, high] if high >= _SHORTEST else lengths


def _prefills(bounds: Bounds) -> list[Prefill]:
    longest = min(bounds.chunk_tokens, bounds.longest_prompt)
    lone = [Prefill(n) for n in _powers(_SHORTEST, longest)]
    if not bounds.prefix_caching:
        return lone
    new = [n for n in (64, 512, 2048) if n <= longest]
    return lone + [
        Prefill(n, _whole_blocks(k, bounds))
        for n in new
        for k in _powers(256, bounds.longest_prompt - n, 4)
        if _whole_blocks(k, bounds) + n <= bounds.longest_prompt and k >= 256
    ]


def _whole_blocks(tokens: int, bounds: Bounds) -> int:
    return tokens // bounds.block_tokens * bounds.block_tokens


def _decodes(bounds: Bounds) -> list[Decode]:
    longest = bounds.max_model_len - bounds.stream_tokens(1, bounds.max_model_len)
    return [
        Decode(sequences, context)
        for sequences in _batches(bounds)
        for context in _powers(32, longest, 4)
        if bounds.holds(sequences, context)
    ]


def _batches(bounds: Bounds) -> list[int]:
    sizes = [1]
    while sizes[-1] * 2 <= bounds.max_num_seqs:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == bounds.max_num_seqs else [*sizes, bounds.max_num_seqs]


def _mixed(bounds: Bounds) -> list[Mixed]:
    """Mixed points; the injected prompts need room in the cache, and in the step's budget."""
    found = []
    for point in _decodes(bounds):
        if point.sequences < min(4, bounds.max_num_seqs - 1):
            continue
        for tokens in (64, 256, 1024):
            room = tokens + point.sequences <= bounds.chunk_tokens and tokens < bounds.max_model_len
            if (
                room
                and point.sequences < bounds.max_num_seqs
                and bounds.holds(point.sequences + 1, max(point.context, tokens))
            ):
                found.append(Mixed(point.sequences, point.context, tokens))
    return found
