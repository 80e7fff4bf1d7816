"""What the block pool finds again, and what it has forgotten."""

import numpy as np
import pytest
from hypothesis import given, settings

from profiler import scheduler
from profiler.scheduler import Limits, State
from profiler.trace import Hashes, Trace
from profiler.twin import simulate

from .engines import COST, limits, traces

BLOCK = 16
ROOMY = Limits(8, 2048, 1000, BLOCK)


def hits(*prompts: tuple[list[int], int], bounds: Limits = ROOMY, output: int = 2) -> list[int]:
    """Tokens that each prompt, (hashes of its blocks, tokens), finds; one after another."""
    ids, tokens = zip(*prompts, strict=True)
    n = len(prompts)
    trace = Trace.of(10.0 * np.arange(n), tokens, [output] * n, hashes=Hashes.of(ids, BLOCK))
    found: list[int] = simulate(trace, COST, bounds).hit_tokens.tolist()
    return found


def test_what_a_finished_request_held_is_found_again() -> None:
    assert hits(([1, 2, 3], 40), ([1, 2, 9], 48)) == [0, 32]


def test_a_hit_ends_at_the_first_block_that_differs() -> None:
    assert hits(([1, 2, 3, 4], 64), ([1, 9, 3, 4], 64)) == [0, 16]
    assert hits(([1, 2, 3, 4], 64), ([9, 2, 3, 4], 64)) == [0, 0]


def test_one_token_is_always_computed() -> None:
    assert hits(([1, 2], 32), ([1, 2], 32), ([1, 2], 33)) == [0, 16, 32]


def test_a_block_that_is_not_full_is_not_found() -> None:
    assert hits(([1, 2], 20), ([1, 2, 3], 48)) == [0, 16]


def test_what_was_generated_is_nobody_elses() -> None:
    # 32 + 40 tokens: blocks of the answer are full, but no hash says what is in them
    assert hits(([1, 2], 32), ([1, 2, 3, 4], 64), output=40) == [0, 32]


def test_prompts_beyond_their_hashes_are_their_own() -> None:
    assert hits(([1], 64), ([1], 64)) == [0, 16]


def test_without_caching_nothing_is_found() -> None:
    assert hits(([1, 2], 40), ([1, 2], 40), bounds=ROOMY._replace(prefix_caching=0)) == [0, 0]


def test_the_least_recently_freed_goes_first_and_its_last_block_before_its_first() -> None:
    a, b, c = ([100 + i for i in range(3)], 49), ([200 + i for i in range(3)], 49), ([3, 4], 33)
    few = ROOMY._replace(num_blocks=7)
    # a and b hold 4 blocks each, one of them nameless; c takes the nameless and a's last two
    assert hits(a, b, c, a, bounds=few) == [0, 0, 0, 16]
    assert hits(a, b, c, b, bounds=few) == [0, 0, 0, 48]
    # once found, a's blocks are again the last to go
    assert hits(a, b, a, c, b, bounds=few) == [0, 0, 48, 0, 16]


def test_two_that_run_together_share_what_the_first_has_scheduled() -> None:
    hashes = Hashes.of([[1, 2, 3]] * 2, BLOCK)
    trace = Trace.of([0.0, 0.0], [48, 48], [2, 2], hashes=hashes)
    assert simulate(trace, COST, ROOMY).hit_tokens.tolist() == [0, 32]
    sglang = ROOMY._replace(prefill_first=1)
    assert simulate(trace, COST, sglang).hit_tokens.tolist() == [0, 0]


@pytest.mark.parametrize(("per_hash", "found"), [(4, 48), (8, 48), (16, 48), (64, 48), (512, 48)])
def test_hashes_may_be_finer_or_coarser_than_blocks(per_hash: int, found: int) -> None:
    ids = list(range(-(-60 // per_hash)))
    trace = Trace.of([0.0, 9.0], [60, 60], [2, 2], hashes=Hashes.of([ids, ids], per_hash))
    assert simulate(trace, COST, ROOMY).hit_tokens.tolist() == [0, found]


def test_a_shared_prefix_is_held_once() -> None:
    ids = [[*range(30), 100 + n] for n in range(8)]
    n = len(ids)
    trace = Trace.of([0.0] + [1.0] * (n - 1), [496] * n, [200] * n, hashes=Hashes.of(ids, BLOCK))
    few = ROOMY._replace(num_blocks=30 + n * 14 + 1)
    assert simulate(trace, COST, few).preemptions.sum() == 0
    alone = Trace.of(trace.arrival_s, trace.input_tokens, trace.output_tokens)
    assert simulate(alone, COST, few).queue_s.max() > 1.0


@settings(max_examples=100, deadline=None)
@given(traces(hashed=True), limits(prefix_caching=1))
def test_no_block_is_lost_and_the_ring_holds_the_free(trace: Trace, bounds: Limits) -> None:
    assert trace.hashes is not None
    state = scheduler.new_state(
        bounds, 64, hash_block_tokens=trace.hashes.block_tokens, longest_tokens=400
    )
    state, start = scheduler.with_hashes(state, trace.hashes.ids)
    tokens = np.minimum(trace.hashes.counts * trace.hashes.block_tokens, trace.input_tokens)
    for n in range(len(trace)):
        scheduler.enqueue(
            state, bounds, n, 0.0, trace.input_tokens[n], trace.output_tokens[n], 0, 0,
            start + trace.hashes.offsets[n], tokens[n],
        )  # fmt: skip
    ended = scheduler.room_for(bounds)
    while count(state, "running") + count(state, "waiting"):
        scheduler.begin(state, bounds, 0.0, 1 << 40)
        check(state, bounds)
        _, finished = scheduler.commit(state, bounds, 0.0, ended)
        for slot in ended.finished[:finished]:
            scheduler.release(state, slot)
        check(state, bounds)
    assert count(state, "free_blocks") == bounds.num_blocks


def count(state: State, what: str) -> int:
    return int(state.counters[what][0])


def check(state: State, bounds: Limits) -> None:
    """The bookkeeping of blocks, told twice, agrees."""
    blocks, tables = state.pool.blocks[:-1], state.pool.tables
    ring, place = [], state.pool.blocks[-1]["next_free"]
    while place != blocks.size:
        ring.append(int(place))
        place = blocks[place]["next_free"]
    assert len(ring) == count(state, "free_blocks")
    assert sorted(ring) == np.flatnonzero(blocks["holders"] == 0).tolist()
    held = np.zeros(blocks.size, np.int64)
    for slot in state.running[: count(state, "running")]:
        sequence = state.sequences[slot]
        np.add.at(held, tables[sequence["row"], : sequence["blocks"]], 1)
    assert np.array_equal(held, blocks["holders"])
    named, chains = 0, state.pool.bucket[state.pool.bucket >= 0].tolist()
    while chains:
        named += 1
        after = int(blocks[chains.pop()]["next_in_bucket"])
        chains += [after] if after >= 0 else []
    assert named == np.count_nonzero(blocks["name_id"] >= 0)
