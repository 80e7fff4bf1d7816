"""vLLM's rules (V1, 0.11 to 0.32: v1/core/sched/scheduler.py `schedule`).

1. Running sequences first, in order of admission; each wants all tokens it has not computed
   yet (1 when decoding) and gets what is left of `max_num_batched_tokens`.
2. Where the KV cache has no block left, the sequence admitted last is preempted (under
   priority scheduling the one of the highest number, and of those the one that came last):
   its blocks are freed and it goes back to the head of the queue.
3. Waiting sequences next, while there is budget, a place among `max_num_seqs` and room in
   the KV cache for the whole prompt (`scheduler_reserve_full_isl`); none in a step that
   preempted. The first that does not fit stops the others.

Left out: speculative decoding, encoders, LoRA, KV connectors, the watermark.
"""

import numpy as np

from profiler.compiled import inlined, kernel
from profiler.scheduler import blocks, queue
from profiler.scheduler.state import IN_BATCH, Counters, Limits, Sequence, State


@inlined
def tokens_wanted(q: Sequence, c: Counters, limits: Limits) -> int:
    """Tokens of a running sequence that no step has computed nor is computing."""
    wanted = q.prompt_tokens + q.generated - q.computed
    if limits.async_scheduling:
        return 0 if c.scheduled < q.next_step else wanted + q.pending
    return wanted


@inlined
def chunk(tokens: int, c: Counters, limits: Limits) -> int:
    """Cut a long prefill while there are others whom it would starve."""
    longest = limits.long_prefill_token_threshold
    return longest if 0 < longest < tokens and c.running + c.waiting > 1 else tokens


@kernel
def victim(s: State, limits: Limits) -> int:
    """Place in the batch of the sequence that gives way."""
    c: Counters = s.counters[0]
    if limits.priority_scheduling == 0:
        return c.running - 1
    chosen = 0
    worst: Sequence = s.sequences[s.running[0]]
    for i in range(1, c.running):
        q: Sequence = s.sequences[s.running[i]]
        if q.priority > worst.priority or (
            q.priority == worst.priority and q.arrival_s > worst.arrival_s
        ):
            chosen, worst = i, q
    return chosen


@kernel
def preempt(s: State, limits: Limits, place: int, first: bool) -> None:
    """Send the sequence at `place` back to the queue, its blocks freed."""
    c: Counters = s.counters[0]
    slot = s.running[place]
    c.running -= 1
    for i in range(place, c.running):
        s.running[i] = s.running[i + 1]
    blocks.free(s, slot)
    q: Sequence = s.sequences[slot]
    q.pending = 0
    q.step_tokens = 0
    q.preemptions += 1
    c.preemptions += 1
    queue.push(s, limits, slot, first)


@inlined
def schedule_running(s: State, limits: Limits, budget: int) -> tuple[int, bool]:
    """Give running sequences their tokens; (budget left, whether one was preempted).

    A call that takes the whole state costs as much as deciding on a few sequences does, so
    nothing is called that has nothing to do.
    """
    c: Counters = s.counters[0]
    i, preempted, gave_way = 0, False, False
    while i < c.running and budget > 0 and not gave_way:
        slot = s.running[i]
        q: Sequence = s.sequences[slot]
        tokens = min(chunk(tokens_wanted(q, c, limits), c, limits), budget)
        total = q.computed + tokens
        need = blocks.blocks_for(total, limits.block_size) - q.blocks
        while need > c.free_blocks and not gave_way:
            place = victim(s, limits)
            gave_way = place == i
            if place < i:  # it had its tokens already
                budget += s.sequences[s.running[place]].step_tokens
                i -= 1
            preempt(s, limits, place, True)
            preempted = True
        if not gave_way:
            if need > 0:
                blocks.take(s, slot, need)
            if s.pool.hash_block_tokens and tokens > 0:
                blocks.name_blocks(s, limits, slot, min(total, q.prompt_tokens + q.generated))
            q.step_tokens = tokens
            budget -= tokens
            i += 1
    for j in range(i, c.running):
        s.sequences[s.running[j]].step_tokens = 0
    return budget, preempted


@kernel
def join(s: State, limits: Limits, hit: int, tokens: int, now_s: float) -> None:
    """Take the next request off the queue into the batch, to compute `tokens` after `hit`."""
    c: Counters = s.counters[0]
    slot = queue.pop(s, limits)
    s.running[c.running] = slot
    c.running += 1
    blocks.admit_blocks(s, limits, slot, hit, hit + tokens)
    q: Sequence = s.sequences[slot]
    q.place = IN_BATCH
    q.computed = hit
    q.step_tokens = tokens
    if np.isnan(q.scheduled_s):
        q.scheduled_s = now_s
        q.hit_tokens = hit


@kernel
def schedule_waiting(s: State, limits: Limits, budget: int, now_s: float) -> None:
    """Admit from the queue. Who was preempted and awaits a token under way is passed over."""
    c: Counters = s.counters[0]
    aside = 0
    while c.waiting > 0 and budget > 0 and c.running < limits.max_num_seqs:
        slot = s.waiting[c.waiting_head]
        q: Sequence = s.sequences[slot]
        if q.flying:
            s.aside[aside] = queue.pop(s, limits)
            aside += 1
            continue
        total = q.prompt_tokens + q.generated
        hit = blocks.cached_tokens(s, limits, slot)
        tokens = chunk(total - hit, c, limits)
        if limits.chunked_prefill == 0 and tokens > budget:
            break
        if blocks.blocks_wanted(s, limits, hit, total) > c.free_blocks:
            break
        tokens = min(tokens, budget)
        join(s, limits, hit, tokens, now_s)
        blocks.name_blocks(s, limits, slot, hit + tokens)
        budget -= tokens
    for i in range(aside - 1, -1, -1):
        queue.push(s, limits, s.aside[i], True)


@inlined
def schedule_step(s: State, limits: Limits, now_s: float) -> None:
    """Decide the next step."""
    budget, preempted = schedule_running(s, limits, limits.max_num_batched_tokens)
    if s.counters[0].waiting > 0 and not preempted:
        schedule_waiting(s, limits, budget, now_s)
