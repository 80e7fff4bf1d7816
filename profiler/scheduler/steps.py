"""A step from its decision to its end; several may be under way.

`begin` decides a step, and what it computes counts as computed from then on; `launch` says
when it ends; `commit` ends the oldest: tokens are sampled, what is complete leaves. With
several under way a prompt may be computed chunk after chunk, and:

- pipeline stages: a sequence decodes again only when its token is there;
- async scheduling: it decodes again at once, its token still unknown (with both, every
  `pipeline_depth` steps), so that the end of an answer is noticed one step late, and that
  step computes a token in vain. vLLM foresees the end where `max_tokens` sets it; here every
  answer ends by a stop token. A token under way when its sequence is preempted still counts
  (vLLM); SGLang makes it again.

vLLM: v1/engine/core.py `step_with_batch_queue`, v1/core/sched/async_scheduler.py. Left out:
the time that activations travel between stages (part of the step's cost).
"""

from typing import NamedTuple

import numpy as np

from profiler.compiled import inlined, kernel
from profiler.scheduler import blocks, queue, sglang, vllm
from profiler.scheduler.state import (
    IN_BATCH,
    NO_SLOT,
    NOWHERE,
    QUEUED,
    Counters,
    Flight,
    Floats,
    Ints,
    Limits,
    Part,
    Sequence,
    Shape,
    State,
)


class Ended(NamedTuple):
    """Room for what `commit` tells; each [max_num_seqs]."""

    emitted: Ints
    """Slots that sampled a token."""
    gap_s: Floats
    """Time since their token before; NaN for the first."""
    finished: Ints
    """Slots whose answer is complete, not yet released so that their times can be read."""


def room_for(limits: Limits) -> Ended:
    """Make the arrays that `commit` fills."""
    n = limits.max_num_seqs
    return Ended(np.zeros(n, np.int64), np.zeros(n), np.zeros(n, np.int64))


@inlined
def has_room(s: State) -> bool:
    """Whether another step may be under way."""
    return bool(s.counters[0].in_flight < s.flights.size)


@inlined
def fly(s: State, limits: Limits, window_tokens: int) -> Shape:
    """Put the step decided on the ring of steps in flight; its shape."""
    c: Counters = s.counters[0]
    flight = (c.oldest + c.in_flight) % s.flights.size
    c.in_flight += 1
    tokens = sequences = prefills = longest = 0
    pairs = window_pairs = kv = window_kv = prefill_kv = 0.0
    for i in range(c.running):
        q: Sequence = s.sequences[s.running[i]]
        a, k = q.step_tokens, q.computed
        if a == 0:
            continue
        part: Part = s.parts[flight, sequences]
        samples = 1 if k + a == q.prompt_tokens + q.generated + q.pending else 0
        q.computed = k + a
        q.flying += 1
        q.pending += samples
        q.next_step = c.scheduled + samples * limits.pipeline_depth
        part.slot = s.running[i]
        part.request = q.request
        part.computed = k + a
        part.samples = samples
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
    s.flights[flight].parts = sequences
    return Shape(
        tokens, sequences, prefills, pairs, window_pairs, kv, window_kv, prefill_kv, longest
    )


@inlined
def begin(s: State, limits: Limits, now_s: float, window_tokens: int) -> Shape:
    """Decide the next step; its shape (0 tokens: nothing can run now). Needs `has_room`.

    `window_tokens` is what sliding-window layers see.
    """
    s.counters[0].scheduled += 1
    if limits.prefill_first:
        sglang.schedule_step(s, limits, now_s)
    else:
        vllm.schedule_step(s, limits, now_s)
    return fly(s, limits, window_tokens)


@inlined
def launch(s: State, now_s: float, duration_s: float, hidden_s: float) -> None:
    """Let the step just decided run for `duration_s` through all stages.

    `hidden_s` of it is the host's part, which passes while the step before still runs.
    """
    c: Counters = s.counters[0]
    at_s = now_s + hidden_s
    part_s = (duration_s - hidden_s) / s.stage_free_s.size
    for stage in range(s.stage_free_s.size):
        at_s = max(at_s, s.stage_free_s[stage]) + part_s
        s.stage_free_s[stage] = at_s
    s.flights[(c.oldest + c.in_flight - 1) % s.flights.size].end_s = at_s


@inlined
def next_end_s(s: State) -> float:
    """When the oldest step under way ends."""
    return float(s.flights[s.counters[0].oldest].end_s)


@kernel
def idle(s: State, limits: Limits) -> None:
    """Note that there is nothing to do, now or from the start."""
    c: Counters = s.counters[0]
    c.full = 0
    c.new_token_ratio = sglang.first_ratio(limits)


@kernel
def leave(s: State, limits: Limits, slot: int) -> None:
    """Free what a request holds in the batch, or take it off the queue.

    SGLang makes what was generated findable only now.
    """
    q: Sequence = s.sequences[slot]
    if q.place == QUEUED:
        queue.remove(s, limits, slot)
    else:
        if limits.prefill_first:
            blocks.name_blocks(s, limits, slot, q.prompt_tokens + q.generated - 1)
        blocks.free(s, slot)
        s.counters[0].full = 0
    q.place = NOWHERE


@kernel
def close_ranks(s: State) -> None:
    """Drop from the batch who is no longer in it."""
    c: Counters = s.counters[0]
    kept = 0
    for i in range(c.running):
        if s.sequences[s.running[i]].place == IN_BATCH:
            s.running[kept] = s.running[i]
            kept += 1
    c.running = kept


@inlined
def sample(q: Sequence, now_s: float) -> float:
    """Count a token; the time since the one before."""
    gap_s = now_s - q.last_token_s
    q.last_token_s = now_s
    q.pending = max(q.pending - 1, 0)
    q.generated += 1
    if q.generated == 1:
        q.first_token_s = now_s
    elif gap_s > q.max_gap_s:
        q.max_gap_s = gap_s
    return gap_s


@inlined
def commit(s: State, limits: Limits, now_s: float, out: Ended) -> tuple[int, int]:
    """End the oldest step at `now_s`; how many sampled a token and how many finished."""
    c: Counters = s.counters[0]
    flight: Flight = s.flights[c.oldest]
    emitted = finished = 0
    for i in range(flight.parts):
        part: Part = s.parts[c.oldest, i]
        q: Sequence = s.sequences[part.slot]
        if q.request != part.request:
            continue  # it finished or was aborted in the meantime
        q.flying -= 1
        if limits.prefill_first:
            if q.place != IN_BATCH:
                continue  # retracted: what was under way is lost
            if s.pool.hash_block_tokens:
                blocks.name_blocks(s, limits, part.slot, min(part.computed, q.prompt_tokens))
        if part.samples == 0:
            continue
        out.emitted[emitted] = part.slot
        out.gap_s[emitted] = sample(q, now_s)
        emitted += 1
        if q.generated >= q.output_tokens:
            leave(s, limits, part.slot)
            out.finished[finished] = part.slot
            finished += 1
    c.steps += min(flight.parts, 1)
    c.oldest = (c.oldest + 1) % s.flights.size
    c.in_flight -= 1
    if finished:
        close_ranks(s)
    return emitted, finished


@kernel
def abort(s: State, limits: Limits, slot: int) -> None:
    """Forget a request wherever it is; its slot is free."""
    leave(s, limits, slot)
    close_ranks(s)
    c: Counters = s.counters[0]
    if c.chunked == slot:
        c.chunked = NO_SLOT
    queue.release(s, slot)
