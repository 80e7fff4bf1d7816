"""Requests that wait: first come first served, or by priority.

Called by the rules. `State.waiting` is a ring under the one policy and a binary heap under
the other, ordered as vLLM orders (v1/request.py): priority, arrival, number.
"""

import numpy as np

from profiler.compiled import kernel
from profiler.scheduler.state import (
    NO_SLOT,
    NOWHERE,
    QUEUED,
    Counters,
    Limits,
    Sequence,
    State,
)


@kernel
def comes_before(s: State, slot: int, other_slot: int) -> bool:
    """Whether `slot` is served before the other under priority scheduling."""
    q: Sequence = s.sequences[slot]
    other: Sequence = s.sequences[other_slot]
    if q.priority != other.priority:
        return q.priority < other.priority
    if q.arrival_s != other.arrival_s:
        return q.arrival_s < other.arrival_s
    return q.request < other.request


@kernel
def sift_up(s: State, place: int) -> None:
    """Move the heap's entry at `place` towards the root."""
    heap = s.waiting
    while place > 0 and comes_before(s, heap[place], heap[(place - 1) // 2]):
        parent = (place - 1) // 2
        heap[place], heap[parent] = heap[parent], heap[place]
        place = parent


@kernel
def sift_down(s: State, place: int) -> None:
    """Move the heap's entry at `place` towards the leaves."""
    heap, size = s.waiting, s.counters[0].waiting
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and comes_before(s, heap[child + 1], heap[child]):
            child += 1
        if not comes_before(s, heap[child], heap[place]):
            return
        heap[place], heap[child] = heap[child], heap[place]
        place = child


@kernel
def push(s: State, limits: Limits, slot: int, first: bool) -> None:
    """Queue a request, at the head with `first`; under priority scheduling, at its place."""
    c: Counters = s.counters[0]
    s.sequences[slot].place = QUEUED
    c.waiting += 1
    if limits.priority_scheduling:
        s.waiting[c.waiting - 1] = slot
        sift_up(s, c.waiting - 1)
    elif first:
        c.waiting_head = (c.waiting_head - 1) % s.waiting.size
        s.waiting[c.waiting_head] = slot
    else:
        s.waiting[(c.waiting_head + c.waiting - 1) % s.waiting.size] = slot


@kernel
def pop(s: State, limits: Limits) -> int:
    """Take the next request off the queue, which must hold one."""
    c: Counters = s.counters[0]
    slot = int(s.waiting[c.waiting_head])
    c.waiting -= 1
    if limits.priority_scheduling:
        s.waiting[0] = s.waiting[c.waiting]
        sift_down(s, 0)
    else:
        c.waiting_head = (c.waiting_head + 1) % s.waiting.size
    return slot


@kernel
def remove(s: State, limits: Limits, slot: int) -> None:
    """Take a request out of the queue, wherever it stands in it."""
    c: Counters = s.counters[0]
    size, i = s.waiting.size, 0
    while s.waiting[(c.waiting_head + i) % size] != slot:
        i += 1
    c.waiting -= 1
    if limits.priority_scheduling:
        s.waiting[i] = s.waiting[c.waiting]
        sift_down(s, i)
        sift_up(s, i)
        return
    for j in range(i, c.waiting):
        here = (c.waiting_head + j) % size
        s.waiting[here] = s.waiting[(here + 1) % size]


@kernel
def enqueue(  # noqa: PLR0913, PLR0917
    s: State,
    limits: Limits,
    request: int,
    arrival_s: float,
    prompt_tokens: int,
    output_tokens: int,
    prefix_tokens: int,
    priority: int,
    hash_start: int,
    hashed_tokens: int,
) -> int:
    """Queue a new request; its slot, or NO_SLOT when all are taken."""
    c: Counters = s.counters[0]
    if c.free_slots == 0:
        return NO_SLOT
    c.free_slots -= 1
    slot = int(s.free_slots[c.free_slots])
    q: Sequence = s.sequences[slot]
    q.request = request
    q.arrival_s = arrival_s
    q.priority = priority
    q.prompt_tokens = prompt_tokens
    q.output_tokens = max(output_tokens, 1)
    q.prefix_tokens = prefix_tokens
    q.hash_start = hash_start
    q.hashed_tokens = hashed_tokens
    q.generated = 0
    q.computed = 0
    q.pending = 0
    q.flying = 0
    q.next_step = 0
    q.step_tokens = 0
    q.blocks = 0
    q.named = 0
    q.taken_mark = -1
    q.hit_tokens = 0
    q.preemptions = 0
    q.scheduled_s = np.nan
    q.first_token_s = np.nan
    q.last_token_s = np.nan
    q.max_gap_s = 0.0
    push(s, limits, slot, False)
    return slot


@kernel
def release(s: State, slot: int) -> None:
    """Return the slot of a request that is neither queued nor in the batch."""
    c: Counters = s.counters[0]
    q: Sequence = s.sequences[slot]
    q.request = -1
    q.place = NOWHERE
    q.hashed_tokens = 0
    s.free_slots[c.free_slots] = slot
    c.free_slots += 1
