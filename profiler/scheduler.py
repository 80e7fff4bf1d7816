"""The scheduling rules of vLLM V1, as kernels over arrays.

Called by the twin (simulated time) and by the emulated engine (real time): both step the
very same functions, so what is planned is what is served.

One step is `schedule` → (the step runs) → `commit`. The rules, in vLLM's order:

1. Running sequences first, in order of admission; each wants all tokens it has not
   computed yet (1 when decoding) and gets what is left of `max_num_batched_tokens`.
2. Where the KV cache has no block left, the sequence admitted last is preempted: its
   blocks are freed and it goes back to the head of the queue.
3. Waiting sequences next, first come first served, while there is budget, a place among
   `max_num_seqs`, and room in the KV cache for the whole prompt; none in a step that
   preempted.
4. A sequence whose tokens are all computed samples one token when the step ends.

A preempted sequence's blocks stay in the prefix cache until they are handed out again, the
least recently freed first and a sequence's last block before its first. What is left of
them on return is not computed twice.

Invariant: blocks held by running sequences + free blocks = `num_blocks`.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Places in `State.counters`.
RUNNING, WAITING, WAITING_HEAD, FREE_BLOCKS, TAKEN_BLOCKS, FREE_SLOTS, PREEMPTIONS, STEPS = range(8)
COUNTERS = 8

NO_SLOT = -1


class Limits(NamedTuple):
    """What bounds a step; counts, and flags as 0 or 1 so that kernels stay typed."""

    max_num_seqs: int
    max_num_batched_tokens: int
    num_blocks: int
    block_size: int = 16
    chunked_prefill: int = 1
    prefix_caching: int = 1


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


class State(NamedTuple):
    """Requests in flight, one slot each. Mutated in place by the kernels below."""

    request: NDArray[np.int64]
    """[slots] the caller's number of the request."""
    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    """[slots] tokens to generate, ≥ 1."""
    prefix_tokens: NDArray[np.int64]
    """[slots] tokens of the prompt found in the prefix cache on admission."""
    generated: NDArray[np.int64]
    computed: NDArray[np.int64]
    """[slots] tokens whose KV is in the cache."""
    blocks: NDArray[np.int64]
    """[slots] blocks held; of a preempted sequence, blocks it held."""
    taken_mark: NDArray[np.int64]
    """[slots] TAKEN_BLOCKS when its blocks were freed by preemption; −1: never."""
    free_ahead: NDArray[np.int64]
    """[slots] free blocks that were to be handed out before its own."""
    step_tokens: NDArray[np.int64]
    """[slots] tokens it computes in the step under way."""
    scheduled_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    last_token_s: NDArray[np.float64]
    max_gap_s: NDArray[np.float64]
    preempted: NDArray[np.int64]
    running: NDArray[np.int64]
    """[max_num_seqs] slots in order of admission."""
    waiting: NDArray[np.int64]
    """[slots] ring of slots; WAITING_HEAD is its first."""
    free_slots: NDArray[np.int64]
    """[slots] stack."""
    counters: NDArray[np.int64]


PER_SLOT_INTS = (
    "request", "prompt_tokens", "output_tokens", "prefix_tokens", "generated", "computed",
    "blocks", "taken_mark", "free_ahead", "step_tokens", "preempted", "waiting", "free_slots",
)  # fmt: skip
PER_SLOT_FLOATS = ("arrival_s", "scheduled_s", "first_token_s", "last_token_s", "max_gap_s")


def new_state(limits: Limits, slots: int) -> State:
    """Make an empty engine with room for `slots` requests in flight."""
    arrays: dict[str, NDArray[Any]] = {name: np.zeros(slots, np.int64) for name in PER_SLOT_INTS}
    arrays |= {name: np.zeros(slots, np.float64) for name in PER_SLOT_FLOATS}
    arrays["free_slots"] = np.arange(slots - 1, -1, -1, dtype=np.int64)
    counters = np.zeros(COUNTERS, np.int64)
    counters[FREE_BLOCKS] = limits.num_blocks
    counters[FREE_SLOTS] = slots
    return State(
        **arrays,
        running=np.zeros(limits.max_num_seqs, np.int64),
        counters=counters,
    )


def grown(state: State) -> State:
    """Return a copy with twice the slots, its requests in the same slots."""
    old = state.request.size
    fields = state._asdict()
    for name in PER_SLOT_INTS + PER_SLOT_FLOATS:
        fields[name] = np.concatenate([fields[name], np.zeros(old, fields[name].dtype)])
    waiting, counters = fields["waiting"], state.counters.copy()
    order = (counters[WAITING_HEAD] + np.arange(counters[WAITING])) % old
    waiting[: counters[WAITING]] = state.waiting[order]
    counters[WAITING_HEAD] = 0
    free = counters[FREE_SLOTS]
    fields["free_slots"][free : free + old] = np.arange(2 * old - 1, old - 1, -1)
    counters[FREE_SLOTS] += old
    return State(**{**fields, "running": state.running.copy(), "counters": counters})


@njit(cache=True)
def enqueue(
    s: State,
    request: int,
    arrival_s: float,
    prompt_tokens: int,
    output_tokens: int,
    prefix_tokens: int,
) -> int:
    """Put a request at the end of the queue; its slot, or NO_SLOT when all are taken."""
    c = s.counters
    if c[FREE_SLOTS] == 0:
        return NO_SLOT
    c[FREE_SLOTS] -= 1
    slot = s.free_slots[c[FREE_SLOTS]]
    s.request[slot] = request
    s.arrival_s[slot] = arrival_s
    s.prompt_tokens[slot] = prompt_tokens
    s.output_tokens[slot] = max(output_tokens, 1)
    s.prefix_tokens[slot] = prefix_tokens
    s.generated[slot] = 0
    s.computed[slot] = 0
    s.blocks[slot] = 0
    s.taken_mark[slot] = -1
    s.preempted[slot] = 0
    s.scheduled_s[slot] = np.nan
    s.first_token_s[slot] = np.nan
    s.last_token_s[slot] = np.nan
    s.max_gap_s[slot] = 0.0
    s.waiting[(c[WAITING_HEAD] + c[WAITING]) % s.waiting.size] = slot
    c[WAITING] += 1
    return slot


@njit(cache=True)
def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold `tokens`."""
    return (tokens + block_size - 1) // block_size


@njit(cache=True)
def take(s: State, slot: int, blocks: int) -> None:
    """Give a sequence `blocks` more."""
    c = s.counters
    c[FREE_BLOCKS] -= blocks
    c[TAKEN_BLOCKS] += blocks
    s.blocks[slot] += blocks


@njit(cache=True)
def preempt_last(s: State) -> None:
    """Free the blocks of the sequence admitted last and put it at the head of the queue."""
    c = s.counters
    c[RUNNING] -= 1
    slot = s.running[c[RUNNING]]
    s.taken_mark[slot] = c[TAKEN_BLOCKS]
    s.free_ahead[slot] = c[FREE_BLOCKS]
    c[FREE_BLOCKS] += s.blocks[slot]
    s.preempted[slot] += 1
    s.step_tokens[slot] = 0
    c[PREEMPTIONS] += 1
    c[WAITING_HEAD] = (c[WAITING_HEAD] - 1) % s.waiting.size
    c[WAITING] += 1
    s.waiting[c[WAITING_HEAD]] = slot


@njit(cache=True)
def cached_tokens(s: State, limits: Limits, slot: int) -> int:
    """Tokens that a waiting sequence finds in the prefix cache; at least one is computed."""
    total = s.prompt_tokens[slot] + s.generated[slot]
    if limits.prefix_caching == 0:
        return 0
    if s.taken_mark[slot] < 0:
        hit = s.prefix_tokens[slot]
    else:
        handed_out = s.counters[TAKEN_BLOCKS] - s.taken_mark[slot] - s.free_ahead[slot]
        kept = s.blocks[slot] - min(max(handed_out, 0), s.blocks[slot])
        hit = min(kept * limits.block_size, s.computed[slot])
    return min(hit, total - 1) // limits.block_size * limits.block_size


@njit(cache=True)
def schedule_running(s: State, limits: Limits, budget: int) -> tuple[int, bool]:
    """Give running sequences their tokens; (budget left, whether one was preempted)."""
    c = s.counters
    preempted = False
    i = 0
    while i < c[RUNNING] and budget > 0:
        slot = s.running[i]
        computed = s.computed[slot]
        tokens = min(s.prompt_tokens[slot] + s.generated[slot] - computed, budget)
        need = blocks_for(computed + tokens, limits.block_size) - s.blocks[slot]
        while need > c[FREE_BLOCKS] and c[RUNNING] > i:
            preempt_last(s)
            preempted = True
        if c[RUNNING] == i:  # it had to give way itself
            break
        take(s, slot, need)
        s.step_tokens[slot] = tokens
        budget -= tokens
        i += 1
    for j in range(i, c[RUNNING]):
        s.step_tokens[s.running[j]] = 0
    return budget, preempted


@njit(cache=True)
def schedule_waiting(s: State, limits: Limits, budget: int, now_s: float) -> None:
    """Admit from the queue, first come first served."""
    c = s.counters
    while c[WAITING] > 0 and budget > 0 and c[RUNNING] < limits.max_num_seqs:
        slot = s.waiting[c[WAITING_HEAD]]
        total = s.prompt_tokens[slot] + s.generated[slot]
        hit = cached_tokens(s, limits, slot)
        tokens = total - hit
        if limits.chunked_prefill == 0 and tokens > budget:
            break
        if blocks_for(total, limits.block_size) > c[FREE_BLOCKS]:
            break
        tokens = min(tokens, budget)
        c[WAITING_HEAD] = (c[WAITING_HEAD] + 1) % s.waiting.size
        c[WAITING] -= 1
        s.running[c[RUNNING]] = slot
        c[RUNNING] += 1
        s.blocks[slot] = 0
        s.computed[slot] = hit
        take(s, slot, blocks_for(hit + tokens, limits.block_size))
        s.step_tokens[slot] = tokens
        if np.isnan(s.scheduled_s[slot]):
            s.scheduled_s[slot] = now_s
        budget -= tokens


@njit(cache=True)
def shape_of(s: State, window_tokens: int) -> Shape:
    """Sum up the step under way; `window_tokens` is what sliding-window layers see."""
    tokens = sequences = prefills = longest = 0
    pairs = window_pairs = kv = window_kv = prefill_kv = 0.0
    for i in range(s.counters[RUNNING]):
        slot = s.running[i]
        a = s.step_tokens[slot]
        if a == 0:
            continue
        k = s.computed[slot]
        tokens += a
        sequences += 1
        if a > 1:
            prefills += 1
            pairs += a * (k + 0.5 * a)
            window_pairs += a * min(k + 0.5 * a, window_tokens)
            prefill_kv += k + a
            longest = max(longest, a)
        else:
            kv += k + 1
            window_kv += min(k + 1, window_tokens)
    return Shape(
        tokens, sequences, prefills, pairs, window_pairs, kv, window_kv, prefill_kv, longest
    )


@njit(cache=True)
def schedule(s: State, limits: Limits, now_s: float, window_tokens: int) -> Shape:
    """Decide the next step; its shape (0 tokens: nothing to run)."""
    budget, preempted = schedule_running(s, limits, limits.max_num_batched_tokens)
    if not preempted:
        schedule_waiting(s, limits, budget, now_s)
    return shape_of(s, window_tokens)


@njit(cache=True)
def release(s: State, slot: int) -> None:
    """Return a sequence's slot; its blocks must be free already."""
    c = s.counters
    s.free_slots[c[FREE_SLOTS]] = slot
    c[FREE_SLOTS] += 1


@njit(cache=True)
def commit(
    s: State, now_s: float, emitted: NDArray[np.int64], finished: NDArray[np.int64]
) -> tuple[int, int]:
    """End the step at `now_s`: count its tokens, sample, retire what is complete.

    `emitted`, `finished`: [max_num_seqs] int64, filled with slots; a finished slot is no
    longer running but not yet released, so that its times can be read. Returns both counts.
    """
    c = s.counters
    c[STEPS] += 1
    n_emitted = n_finished = kept = 0
    for i in range(c[RUNNING]):
        slot = s.running[i]
        s.computed[slot] += s.step_tokens[slot]
        done = False
        if s.step_tokens[slot] > 0 and (
            s.computed[slot] == s.prompt_tokens[slot] + s.generated[slot]
        ):
            s.generated[slot] += 1
            if s.generated[slot] == 1:
                s.first_token_s[slot] = now_s
            else:
                s.max_gap_s[slot] = max(s.max_gap_s[slot], now_s - s.last_token_s[slot])
            s.last_token_s[slot] = now_s
            emitted[n_emitted] = slot
            n_emitted += 1
            done = s.generated[slot] >= s.output_tokens[slot]
        if done:
            c[FREE_BLOCKS] += s.blocks[slot]
            finished[n_finished] = slot
            n_finished += 1
        else:
            s.running[kept] = slot
            kept += 1
    c[RUNNING] = kept
    return n_emitted, n_finished


@njit(cache=True)
def abort(s: State, slot: int) -> bool:
    """Forget a request wherever it is, free its KV and its slot; False if it is not there."""
    c = s.counters
    for i in range(c[RUNNING]):
        if s.running[i] == slot:
            for j in range(i, c[RUNNING] - 1):
                s.running[j] = s.running[j + 1]
            c[RUNNING] -= 1
            c[FREE_BLOCKS] += s.blocks[slot]
            release(s, slot)
            return True
    size = s.waiting.size
    for i in range(c[WAITING]):
        if s.waiting[(c[WAITING_HEAD] + i) % size] == slot:
            for j in range(i, c[WAITING] - 1):
                here = (c[WAITING_HEAD] + j) % size
                s.waiting[here] = s.waiting[(here + 1) % size]
            c[WAITING] -= 1
            release(s, slot)
            return True
    return False
