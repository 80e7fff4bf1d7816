"""KV blocks: counted, or kept one by one and found again by what they hold.

Called by the rules. One by one as vLLM's `BlockPool` and SGLang's radix tree do it: a full
block is found by its name as long as it was not handed out again; the least recently freed
goes first, and a sequence's last block before its first. A hit is an unbroken run of blocks
from the first on, and at least one token is always computed. vLLM does not merge blocks of
equal names; nor does this. (v1/core/block_pool.py, kv_cache_manager.py `allocate_slots`.)

Counted, a request says how much of its prompt is cached (`prefix_tokens`), and of the
blocks of a preempted sequence those are lost that were handed out since.

Invariant: blocks that somebody holds + free blocks = `num_blocks`.
"""

from profiler.compiled import kernel
from profiler.scheduler.state import (
    NO_BLOCK,
    NO_NAME,
    Block,
    BlockPool,
    Counters,
    Limits,
    Sequence,
    State,
)


@kernel
def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold `tokens`."""
    return (tokens + block_size - 1) // block_size


# --- names ---


@kernel
def name_of(s: State, limits: Limits, slot: int, place: int) -> tuple[int, int]:
    """Name of a sequence's block: by hash, or its own where no hash stands for all of it."""
    q: Sequence = s.sequences[slot]
    per_hash, end = s.pool.hash_block_tokens, (place + 1) * limits.block_size
    if end > q.hashed_tokens:
        return q.request, -1 - place
    which = (end - 1) // per_hash
    return s.hashes[q.hash_start + which], end - 1 - which * per_hash


@kernel
def bucket_of(pool: BlockPool, name_id: int, part: int) -> int:
    """Where the name falls; ids are hashes or run on, so that their low bits spread."""
    mask = pool.bucket.size - 1
    return (((name_id ^ (name_id >> 20)) & mask) + 7919 * part) & mask


@kernel
def find(pool: BlockPool, name_id: int, part: int) -> int:
    """Give the oldest block of that name, or NO_BLOCK."""
    place = int(pool.bucket[bucket_of(pool, name_id, part)])
    while place != NO_BLOCK:
        block: Block = pool.blocks[place]
        if block.name_id == name_id and block.name_part == part:
            break
        place = block.next_in_bucket
    return place


@kernel
def give_name(pool: BlockPool, place: int, name_id: int, part: int) -> None:
    """Make the block findable, after others of the same name."""
    block: Block = pool.blocks[place]
    block.name_id = name_id
    block.name_part = part
    block.next_in_bucket = NO_BLOCK
    bucket = bucket_of(pool, name_id, part)
    last = pool.bucket[bucket]
    if last == NO_BLOCK:
        pool.bucket[bucket] = place
        return
    while pool.blocks[last].next_in_bucket != NO_BLOCK:
        last = pool.blocks[last].next_in_bucket
    pool.blocks[last].next_in_bucket = place


@kernel
def forget(pool: BlockPool, place: int) -> None:
    """Take the block's name away, if it has one."""
    block: Block = pool.blocks[place]
    if block.name_id == NO_NAME:
        return
    bucket = bucket_of(pool, block.name_id, block.name_part)
    block.name_id = NO_NAME
    other = pool.bucket[bucket]
    if other == place:
        pool.bucket[bucket] = block.next_in_bucket
        return
    while pool.blocks[other].next_in_bucket != place:
        other = pool.blocks[other].next_in_bucket
    pool.blocks[other].next_in_bucket = block.next_in_bucket


# --- the ring of free blocks ---


@kernel
def unlink(pool: BlockPool, place: int) -> None:
    """Take a block out of the ring of free blocks."""
    block: Block = pool.blocks[place]
    pool.blocks[block.previous_free].next_free = block.next_free
    pool.blocks[block.next_free].previous_free = block.previous_free


@kernel
def link_after(pool: BlockPool, place: int, before: int) -> None:
    """Put a block into the ring of free blocks."""
    after = pool.blocks[before].next_free
    pool.blocks[before].next_free = place
    pool.blocks[after].previous_free = place
    block: Block = pool.blocks[place]
    block.previous_free = before
    block.next_free = after


@kernel
def give_back(s: State, slot: int) -> None:
    """Let go of a sequence's blocks, and of its row.

    Blocks without a name go to the front of the ring, for nobody can find them; the others
    to its end, the sequence's last block first.
    """
    pool, end = s.pool, s.pool.blocks.size - 1
    q: Sequence = s.sequences[slot]
    c: Counters = s.counters[0]
    for j in range(q.blocks - 1, -1, -1):
        place = pool.tables[q.row, j]
        block: Block = pool.blocks[place]
        block.holders -= 1
        if block.holders == 0:
            c.free_blocks += 1
            if block.name_id != NO_NAME:
                link_after(pool, place, pool.blocks[end].previous_free)
    for j in range(q.named, q.blocks):  # nobody shares these
        link_after(pool, pool.tables[q.row, j], end)
    pool.free_rows[c.free_rows] = q.row
    c.free_rows += 1
    q.blocks = 0
    q.named = 0


# --- what the rules call ---


@kernel
def take(s: State, slot: int, blocks: int) -> None:
    """Give a sequence `blocks` more, of which there must be as many free."""
    q: Sequence = s.sequences[slot]
    c: Counters = s.counters[0]
    c.free_blocks -= blocks
    c.taken_blocks += blocks
    if s.pool.hash_block_tokens:
        for j in range(q.blocks, q.blocks + blocks):
            s.pool.tables[q.row, j] = hand_out(s.pool)
    q.blocks += blocks


@kernel
def hand_out(pool: BlockPool) -> int:
    """Take the first block off the ring of free blocks, and forget what it holds."""
    place = int(pool.blocks[pool.blocks.size - 1].next_free)
    unlink(pool, place)
    forget(pool, place)
    pool.blocks[place].holders = 1
    return place


@kernel
def free(s: State, slot: int) -> None:
    """Free a sequence's blocks; what they hold stays findable until they are handed out."""
    if s.pool.hash_block_tokens:
        give_back(s, slot)
        return
    q: Sequence = s.sequences[slot]
    c: Counters = s.counters[0]
    q.taken_mark = c.taken_blocks
    q.free_ahead = c.free_blocks
    c.free_blocks += q.blocks


@kernel
def name_blocks(s: State, limits: Limits, slot: int, tokens: int) -> None:
    """Make a sequence's full blocks findable, up to `tokens`."""
    if s.pool.hash_block_tokens == 0 or limits.prefix_caching == 0:
        return
    q: Sequence = s.sequences[slot]
    full = tokens // limits.block_size
    for j in range(q.named, full):
        name_id, part = name_of(s, limits, slot, j)
        give_name(s.pool, s.pool.tables[q.row, j], name_id, part)
    q.named = max(q.named, full)


@kernel
def cached_tokens(s: State, limits: Limits, slot: int) -> int:
    """Tokens that a waiting sequence finds in the prefix cache; `pool.found` are the blocks."""
    if limits.prefix_caching == 0:
        return 0
    q: Sequence = s.sequences[slot]
    most = (q.prompt_tokens + q.generated - 1) // limits.block_size
    if s.pool.hash_block_tokens == 0:
        return min(counted_hit(s, limits, slot) // limits.block_size, most) * limits.block_size
    hit = 0
    while hit < most:
        name_id, part = name_of(s, limits, slot, hit)
        place = find(s.pool, name_id, part)
        if place == NO_BLOCK:
            break
        s.pool.found[hit] = place
        hit += 1
    return hit * limits.block_size


@kernel
def counted_hit(s: State, limits: Limits, slot: int) -> int:
    """Tokens cached where blocks are counted: what the request said, or what is left."""
    q: Sequence = s.sequences[slot]
    c: Counters = s.counters[0]
    if q.taken_mark < 0:
        return q.prefix_tokens
    handed_out = c.taken_blocks - q.taken_mark - q.free_ahead
    kept = q.blocks - min(max(handed_out, 0), q.blocks)
    found = min(kept * limits.block_size, q.computed)
    if limits.prefill_first:  # SGLang drops the KV of what was generated
        return min(found, q.prompt_tokens)
    return found


@kernel
def blocks_wanted(s: State, limits: Limits, hit: int, tokens: int) -> int:
    """Free blocks that `tokens` of a new sequence take, `hit` of them found just now."""
    need = blocks_for(tokens, limits.block_size)
    if s.pool.hash_block_tokens:
        for j in range(hit // limits.block_size):
            if s.pool.blocks[s.pool.found[j]].holders > 0:
                need -= 1
    return need


@kernel
def admit_blocks(s: State, limits: Limits, slot: int, hit: int, tokens: int) -> None:
    """Give a sequence that joins the batch the blocks found and new ones, for `tokens`."""
    pool = s.pool
    q: Sequence = s.sequences[slot]
    c: Counters = s.counters[0]
    q.blocks = 0
    q.named = 0
    if pool.hash_block_tokens:
        c.free_rows -= 1
        q.row = pool.free_rows[c.free_rows]
        for j in range(hit // limits.block_size):
            place = pool.found[j]
            block: Block = pool.blocks[place]
            if block.holders == 0:
                unlink(pool, place)
                c.free_blocks -= 1
            block.holders += 1
            pool.tables[q.row, j] = place
        q.blocks = hit // limits.block_size
        q.named = q.blocks
    take(s, slot, blocks_for(tokens, limits.block_size) - q.blocks)


@kernel
def forget_all(s: State) -> None:
    """Empty the prefix cache."""
    for place in range(s.pool.blocks.size - 1):
        forget(s.pool, place)
