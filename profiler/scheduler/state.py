"""What the scheduler knows: limits, the shape of a step, and requests in flight as records.

Values only. The kernels of the neighbouring modules mutate a `State` in place. Its arrays
hold records, whose fields are those of a class that nobody instantiates: `Sequence`, `Part`,
`Flight`, `Counters`, `Block`. Few arrays: numba counts references to each at every use.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Records = NDArray[Any]

NO_SLOT = -1
NO_BLOCK = -1
NO_NAME = -1

# Values of `Sequence.place`.
NOWHERE, QUEUED, IN_BATCH = range(3)


class Limits(NamedTuple):
    """What bounds a step; counts, ratios, and flags as 0 or 1 so that kernels stay typed."""

    max_num_seqs: int
    max_num_batched_tokens: int
    num_blocks: int
    block_size: int = 16
    chunked_prefill: int = 1
    prefix_caching: int = 1
    long_prefill_token_threshold: int = 0
    """Longest chunk while other requests are there; 0: no bound."""
    priority_scheduling: int = 0
    """Lowest `priority` first, then earliest arrival, instead of first come first served."""
    async_scheduling: int = 0
    """Schedule a step before the tokens of the one before are known."""
    overlap_ratio: float = 1.0
    """Share of `step_overhead_s` that async scheduling hides behind the step before. 0 for
    a cost measured under async scheduling: what it could hide is not in there."""
    pipeline_depth: int = 1
    """Stages that work on different steps at the same time."""
    prefill_first: int = 0
    """SGLang's rules instead of vLLM's."""
    schedule_conservativeness: float = 1.0
    """SGLang: scales the room kept for answers to come."""


def steps_in_flight(limits: Limits) -> int:
    """Steps under way at once (vLLM's `max_concurrent_batches`)."""
    return limits.pipeline_depth + limits.async_scheduling


class Shape(NamedTuple):
    """One step as its cost sees it."""

    tokens: int
    """New tokens in the step, prefill and decode."""
    sequences: int
    """Sequences that take part."""
    prefill_sequences: int
    """Sequences that compute more than one token."""
    prefill_token_pairs: float
    """Σ a·(k + a/2) over prefill chunks of a new tokens after k computed ones."""
    prefill_window_token_pairs: float
    """The same, for attention that sees `window_tokens` back at most."""
    kv_tokens: float
    """Σ context over decoding sequences."""
    kv_window_tokens: float
    """Σ min(context, window) over decoding sequences."""
    prefill_kv_tokens: float = 0.0
    """Σ (k + a) over prefill chunks: context that their attention reads, full attention."""
    longest_chunk_tokens: int = 0
    """New tokens of the longest prefill chunk."""


class Sequence:
    """A request in flight; its slot is its place in `State.sequences`."""

    request: int
    """The caller's number of it, ≥ 0; −1: the slot is free."""
    arrival_s: float
    priority: int
    """The lowest first."""
    prompt_tokens: int
    output_tokens: int
    """Tokens to generate, ≥ 1."""
    prefix_tokens: int
    """Tokens of the prompt found in the prefix cache on admission (counted blocks)."""
    hash_start: int
    """Where its block hashes begin in `State.hashes`."""
    hashed_tokens: int
    """Tokens that those hashes stand for."""
    generated: int
    computed: int
    """Tokens whose KV is in the cache, or will be when the steps in flight end."""
    pending: int
    """Tokens that steps in flight will sample."""
    flying: int
    """Steps in flight that it takes part in."""
    next_step: int
    """First value of `Counters.scheduled` at which it may decode again."""
    step_tokens: int
    """Tokens it computes in the step being decided."""
    place: int
    """NOWHERE, QUEUED or IN_BATCH."""
    blocks: int
    """Blocks held; of a preempted sequence with counted blocks, those it held."""
    row: int
    """Its row of `BlockPool.tables`."""
    named: int
    """How many of its blocks have names."""
    taken_mark: int
    """`Counters.taken_blocks` when its blocks were freed by preemption; −1: never."""
    free_ahead: int
    """Free blocks that were to be handed out before its own."""
    hit_tokens: int
    """Tokens found in the prefix cache when it was first scheduled."""
    preemptions: int
    scheduled_s: float
    first_token_s: float
    last_token_s: float
    max_gap_s: float


class Part:
    """A sequence's part in a step in flight."""

    slot: int
    request: int
    """Who was in the slot: the request may be gone when the step ends."""
    computed: int
    """Its `computed` after the step."""
    samples: int
    """1 where the step samples a token for it."""


class Flight:
    """A step in flight."""

    parts: int
    end_s: float


class Counters:
    """What there is one of."""

    running: int
    waiting: int
    waiting_head: int
    """Place of the next in `State.waiting`."""
    free_blocks: int
    taken_blocks: int
    """Blocks handed out so far."""
    free_slots: int
    free_rows: int
    preemptions: int
    steps: int
    """Ended, empty ones left out."""
    scheduled: int
    """Decided, empty ones too."""
    in_flight: int
    """Steps under way."""
    oldest: int
    """Place of the oldest of them in `State.flights`."""
    chunked: int
    """SGLang: the one slot whose prompt is partly computed."""
    full: int
    """SGLang: 1 while nobody is admitted until somebody leaves."""
    hashes: int
    """Places of `State.hashes` in use."""
    new_token_ratio: float
    """SGLang: share of the answers to come that room is kept for."""


class Block:
    """A KV block; a full one has a name that stands for its tokens and all before them."""

    holders: int
    """Sequences that hold it; 0: free."""
    name_id: int
    """Hash, or the number of the request that generated it; −1: no name."""
    name_part: int
    """Place within the hash's tokens; negative: the request's own."""
    next_in_bucket: int
    """In order of naming: of equal names, the oldest is found."""
    next_free: int
    """In the ring of free blocks, in the order in which they are handed out."""
    previous_free: int


class BlockPool(NamedTuple):
    """KV blocks one by one, where requests bring the hashes of their blocks.

    Else the arrays are empty and blocks are merely counted.
    """

    hash_block_tokens: int
    """Tokens per hash that requests bring; 0: blocks are counted."""
    blocks: Records
    """[num_blocks + 1] of `Block`; the last is the start and the end of the ring of free
    blocks."""
    bucket: Ints
    """[power of two] first block whose name falls there."""
    tables: Ints
    """[max_num_seqs, longest request] blocks of running sequences, a row each."""
    free_rows: Ints
    """[max_num_seqs] stack."""
    found: Ints
    """[longest request] what the last look-up found."""


class State(NamedTuple):
    """Requests in flight. Mutated in place by the kernels."""

    sequences: Records
    """[slots] of `Sequence`."""
    free_slots: Ints
    """[slots] stack."""
    waiting: Ints
    """[slots] ring of slots; a heap under priority scheduling."""
    aside: Ints
    """[slots] scratch: slots passed over."""
    running: Ints
    """[max_num_seqs] slots in order of admission."""
    flights: Records
    """[steps in flight] of `Flight`, a ring."""
    parts: Records
    """[steps in flight, max_num_seqs] of `Part`."""
    stage_free_s: Floats
    """[pipeline_depth] when each stage is done with the steps in flight."""
    hashes: Ints
    """Block hashes of requests in flight, back to back."""
    counters: Records
    """[1] of `Counters`."""
    pool: BlockPool


def records(of: type, *shape: int) -> Records:
    """Make an array of records with the annotated fields of a class, all zero."""
    fields = [(n, np.float64 if t is float else np.int64) for n, t in of.__annotations__.items()]
    return np.zeros(shape, fields)


def new_state(
    limits: Limits, slots: int, *, hash_block_tokens: int = 0, longest_tokens: int = 0
) -> State:
    """Make an empty engine with room for `slots` requests in flight.

    With `hash_block_tokens`, blocks are kept one by one and found by the requests' hashes,
    for requests of up to `longest_tokens`; without, they are counted.
    """
    sequences, counters = records(Sequence, slots), records(Counters, 1)
    sequences["request"] = -1
    counters["free_blocks"] = limits.num_blocks
    counters["free_slots"] = slots
    counters["free_rows"] = limits.max_num_seqs
    counters["chunked"] = NO_SLOT
    flights = steps_in_flight(limits)
    return State(
        sequences=sequences,
        free_slots=np.arange(slots - 1, -1, -1, dtype=np.int64),
        waiting=np.zeros(slots, np.int64),
        aside=np.zeros(slots, np.int64),
        running=np.zeros(limits.max_num_seqs, np.int64),
        flights=records(Flight, flights),
        parts=records(Part, flights, limits.max_num_seqs),
        stage_free_s=np.zeros(limits.pipeline_depth),
        hashes=np.zeros(0, np.int64),
        counters=counters,
        pool=_new_pool(limits, hash_block_tokens, longest_tokens),
    )


def _new_pool(limits: Limits, hash_block_tokens: int, longest_tokens: int) -> BlockPool:
    size, rows = (limits.num_blocks, limits.max_num_seqs) if hash_block_tokens else (0, 0)
    blocks, ring = records(Block, size + 1), np.arange(size + 1)
    blocks["name_id"] = NO_NAME
    blocks["next_free"] = (ring + 1) % (size + 1)
    blocks["previous_free"] = (ring - 1) % (size + 1)
    columns = -(-longest_tokens // limits.block_size)
    return BlockPool(
        hash_block_tokens=hash_block_tokens,
        blocks=blocks,
        bucket=np.full(1 << (2 * size).bit_length(), NO_BLOCK, np.int64),
        tables=np.zeros((rows, columns), np.int64),
        free_rows=np.arange(rows, dtype=np.int64),
        found=np.zeros(columns, np.int64),
    )


def grown(state: State) -> State:
    """Return the state with twice the slots, its requests in the same slots."""
    old, counters = state.sequences.size, state.counters.copy()
    more = records(Sequence, old)
    more["request"] = -1
    free = int(counters["free_slots"][0])
    order = (counters["waiting_head"] + np.arange(old)) % old
    counters["waiting_head"] = 0
    counters["free_slots"] += old
    new_slots = np.arange(2 * old - 1, old - 1, -1)
    return state._replace(
        sequences=np.concatenate([state.sequences, more]),
        free_slots=np.concatenate([state.free_slots[:free], new_slots, state.free_slots[free:]]),
        waiting=np.concatenate([state.waiting[order], np.zeros(old, np.int64)]),
        aside=np.zeros(2 * old, np.int64),
        counters=counters,
    )


def widened(state: State, longest_tokens: int, block_size: int) -> State:
    """Return the state with block tables for requests of `longest_tokens`."""
    pool = state.pool
    more = -(-longest_tokens // block_size) - pool.found.size
    if pool.hash_block_tokens == 0 or more <= 0:
        return state
    tables = np.pad(pool.tables, ((0, 0), (0, more)))
    return state._replace(pool=pool._replace(tables=tables, found=np.pad(pool.found, (0, more))))


def with_hashes(state: State, ids: Ints) -> tuple[State, int]:
    """Add the hashes of requests to come; where they begin in `State.hashes`."""
    if int(state.counters["hashes"][0]) + ids.size > state.hashes.size:
        state = _hashes_moved(state, ids.size)
    start = int(state.counters["hashes"][0])
    state.hashes[start : start + ids.size] = ids
    state.counters["hashes"] += ids.size
    return state, start


def _hashes_moved(state: State, more: int) -> State:
    """Drop the hashes of requests that are gone, and make room for `more` and as many again."""
    sequences = state.sequences
    held = np.flatnonzero((sequences["request"] >= 0) & (sequences["hashed_tokens"] > 0))
    counts = -(-sequences["hashed_tokens"][held] // state.pool.hash_block_tokens)
    ends = np.cumsum(counts)
    size = int(ends[-1]) if ends.size else 0
    starts = sequences["hash_start"][held]
    kept = state.hashes[np.repeat(starts - (ends - counts), counts) + np.arange(size)]
    sequences["hash_start"][held] = ends - counts
    state.counters["hashes"] = size
    return state._replace(hashes=np.concatenate([kept, np.zeros(size + 2 * more, np.int64)]))
