"""SGLang's rules without mixed chunks (srt/managers: scheduler.py `get_next_batch_to_run`,
schedule_policy.py `PrefillAdder`, schedule_batch.py `retract_decode`).

1. A step either prefills or decodes, and prefills if it can.
2. The prompt that is partly computed goes on first; there is one at most. Then waiting
   requests, while there is budget, a place among `max_num_seqs`, and room for the prompt,
   for the whole answer and for a share (`new_token_ratio`) of the answers under way. The
   first that does not fit stops all admission until somebody finishes or is retracted.
3. Else every running sequence decodes. Where blocks run out, sequences are retracted, the
   one that made fewest tokens first, of those the longest prompt: to the end of the queue;
   the KV of what they made is dropped, their prompt stays in the prefix cache.
4. The share falls with every decode from 0.7 to a seventh of that, is set anew from what
   was really made after a retraction, and starts again when the engine idles.

Blocks stand for pages. A prompt is found by others once its step has ended. The room for an
answer is its real length, for a trace does not say what its client allowed. Left out:
longest prefix first, preemption by priority, `max_prefill_tokens`.
"""

from profiler.compiled import kernel
from profiler.scheduler import blocks
from profiler.scheduler.state import NO_SLOT, Counters, Limits, Sequence, State
from profiler.scheduler.vllm import join, preempt, tokens_wanted

FIRST_RATIO = 0.7
LEAST_RATIO_SHARE = 0.14
DECAY_STEPS = 600
RETRACT_STEPS = 20
CLIP_NEW_TOKENS = 4096
"""SGLang's defaults (srt/environ.py)."""


@kernel
def first_ratio(limits: Limits) -> float:
    """Give the share that an idle engine starts from."""
    return min(FIRST_RATIO * limits.schedule_conservativeness, 1.0)


@kernel
def answer_to_come(q: Sequence) -> int:
    """Tokens that a request may still make, as far as room is kept for them."""
    return min(q.output_tokens - q.generated, CLIP_NEW_TOKENS)


@kernel
def room_tokens(s: State, limits: Limits) -> float:
    """Free tokens less what the running answers are expected to take."""
    c: Counters = s.counters[0]
    expected = 0
    for i in range(c.running):
        if s.running[i] != c.chunked:
            expected += answer_to_come(s.sequences[s.running[i]])
    return c.free_blocks * limits.block_size - c.new_token_ratio * expected


@kernel
def paged(limits: Limits, tokens: int) -> int:
    """Round up to whole blocks."""
    return blocks.blocks_for(tokens, limits.block_size) * limits.block_size


@kernel
def blocks_short(q: Sequence, limits: Limits, tokens: int) -> int:
    """Blocks that a sequence of the batch lacks to compute `tokens` more."""
    return max(blocks.blocks_for(q.computed + tokens, limits.block_size) - q.blocks, 0)


@kernel
def cut(limits: Limits, hit: int, tokens: int, budget: int) -> int:
    """How much of a prompt fits the budget; a cut falls between blocks. 0: nothing."""
    if limits.chunked_prefill == 0:  # the first may be longer than the budget
        first = budget == limits.max_num_batched_tokens
        return tokens if first or paged(limits, tokens) < budget else 0
    if paged(limits, tokens) <= budget:
        return tokens
    end = (hit + budget) // limits.block_size * limits.block_size
    return max(min(end - hit, tokens), 0)


@kernel
def admit(s: State, limits: Limits, budget: int, now_s: float, room: float) -> int:
    """Admit from the queue; the tokens of budget used."""
    c: Counters = s.counters[0]
    used = 0
    while c.waiting > 0 and used < budget and room > 0 and not c.full:
        slot = s.waiting[c.waiting_head]
        q: Sequence = s.sequences[slot]
        if q.flying:  # retracted, and its last step is still under way
            break
        hit = blocks.cached_tokens(s, limits, slot)
        rest = q.prompt_tokens + q.generated - hit
        pinned = blocks.blocks_wanted(s, limits, hit, hit) * limits.block_size
        answer = answer_to_come(q)
        fits = pinned + rest + answer + limits.block_size < room
        if c.running == limits.max_num_seqs or not fits:
            c.full = 1
            break
        tokens = cut(limits, hit, rest, budget - used)
        if tokens == 0:
            break
        join(s, limits, hit, tokens, now_s)
        if tokens < rest:
            c.chunked = slot
            answer = 0
        room -= pinned + paged(limits, tokens) + limits.block_size + answer
        used += paged(limits, tokens)
    return used


@kernel
def prefill(s: State, limits: Limits, now_s: float) -> bool:
    """Decide a prefill step; whether there is one."""
    c: Counters = s.counters[0]
    budget, room, used = limits.max_num_batched_tokens, room_tokens(s, limits), 0
    if c.chunked != NO_SLOT:
        slot = c.chunked
        q: Sequence = s.sequences[slot]
        rest = tokens_wanted(q, c, limits)
        q.step_tokens = min(rest, budget)
        blocks.take(s, slot, blocks_short(q, limits, q.step_tokens))
        used = paged(limits, q.step_tokens)
        room -= used + limits.block_size
        c.full = 0
        if q.step_tokens == rest:
            c.chunked = NO_SLOT
            room -= answer_to_come(q)
    return admit(s, limits, budget - used, now_s, room) + used > 0


@kernel
def decode_need(s: State, limits: Limits) -> int:
    """Blocks that the next decode of all running sequences takes."""
    c: Counters = s.counters[0]
    need = 0
    for i in range(c.running):
        q: Sequence = s.sequences[s.running[i]]
        need += blocks_short(q, limits, tokens_wanted(q, c, limits))
    return need


@kernel
def least_made(s: State) -> int:
    """Place in the batch of the sequence to retract: fewest made, longest prompt, last."""
    chosen = 0
    least: Sequence = s.sequences[s.running[0]]
    for i in range(1, s.counters[0].running):
        q: Sequence = s.sequences[s.running[i]]
        if q.generated < least.generated or (
            q.generated == least.generated and q.prompt_tokens >= least.prompt_tokens
        ):
            chosen, least = i, q
    return chosen


@kernel
def retract(s: State, limits: Limits) -> None:
    """Send sequences back until the next decode fits, one at least, all but one at most."""
    c: Counters = s.counters[0]
    while c.running > 1:
        preempt(s, limits, least_made(s), False)
        if decode_need(s, limits) <= c.free_blocks:
            break
    made = 0
    asked = 0
    for i in range(c.running):
        q: Sequence = s.sequences[s.running[i]]
        made += q.generated
        asked += q.output_tokens
    c.full = 0
    c.new_token_ratio = min((made + RETRACT_STEPS * c.running) / (asked + 1), 1.0)


@kernel
def decode(s: State, limits: Limits) -> None:
    """Decide a decode step."""
    c: Counters = s.counters[0]
    if decode_need(s, limits) > c.free_blocks:
        retract(s, limits)
    else:
        first = first_ratio(limits)
        least = LEAST_RATIO_SHARE * first
        c.new_token_ratio = max(c.new_token_ratio - (first - least) / DECAY_STEPS, least)
    for i in range(c.running):
        q: Sequence = s.sequences[s.running[i]]
        q.step_tokens = tokens_wanted(q, c, limits)
        need = blocks_short(q, limits, q.step_tokens)
        if need:
            blocks.take(s, s.running[i], need)


@kernel
def schedule_step(s: State, limits: Limits, now_s: float) -> None:
    """Decide the next step."""
    for i in range(s.counters[0].running):
        s.sequences[s.running[i]].step_tokens = 0
    if not prefill(s, limits, now_s):
        decode(s, limits)
