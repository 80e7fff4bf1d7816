"""The twin: an engine's scheduler and its step cost, stepped together.

`simulate` runs a trace through one engine in simulated time. A `Simulation` is the same in
parts: fed as the trace comes, in memory that grows with the requests in flight, stopped
anywhere, copied or pickled, and gone on with; the times are the same bit for bit.
Deterministic: the only chance is `noise_ratio`, drawn from the seed.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from profiler import scheduler
from profiler.compiled import inlined, kernel
from profiler.errors import Refused
from profiler.scheduler import Counters, Ended, Limits, State
from profiler.slo import Slo
from profiler.step_cost import StepCost, step_s
from profiler.timings import GAP_BINS, Finished, Steps, Timings, Usage, empty_rows, gap_bin
from profiler.trace import Trace, joined

__all__ = ["Bounds", "Progress", "Simulation", "Timings", "simulate", "simulate_within"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_SLOTS = 1024
_STEP_ROWS = 1 << 16

# Why `run` came back.
DONE, PAUSED, HUNGRY, NO_SLOTS, STEPS_FULL, LOST = range(6)


class Bounds(NamedTuple):
    """An objective as the kernel sees it: when to give a run up."""

    ttft_s: float
    itl_s: float
    e2e_s: float
    may_miss: int
    """Requests that may miss a bound."""

    @classmethod
    def of(cls, slo: Slo, requests: int) -> Self:
        """What so many requests must keep within for the objective to be attained."""
        ttft_s, itl_s, e2e_s = (
            np.inf if bound_s is None else bound_s for bound_s in (slo.ttft_s, slo.itl_s, slo.e2e_s)
        )
        # rounded, for the binary fraction of .95 is not the .95 that is meant
        return cls(ttft_s, itl_s, e2e_s, int(round((1.0 - slo.percentile) * requests, 6)))


NO_BOUNDS = Bounds(np.inf, np.inf, np.inf, 0)


class Sums:
    """Where a run stands; a record, as those of the scheduler."""

    clock_s: float
    cursor: int
    """Requests of the feed that are queued already."""
    finished: int
    """Rows written."""
    missed: int
    """Finished requests that missed a bound."""
    steps: int
    """Rows written."""
    next_row_s: float
    """When a step is next recorded."""
    interval_s: float
    tokens: int
    prefill_tokens: int
    busy_s: float
    kv_block_s: float
    running_s: float


class Feed(NamedTuple):
    """Requests to come, in order of arrival; [requests] each."""

    arrival_s: Floats
    prompt: Ints
    output: Ints
    prefix: Ints
    priority: Ints
    hash_start: Ints
    hashed_tokens: Ints
    first: int
    """The number of the first."""


class Book(NamedTuple):
    """What `run` writes."""

    finished: NDArray[Any]
    """Rows of `Finished`."""
    steps: NDArray[Any]
    """Rows of `Steps`; none are written where there is no room at all."""
    ended: Ended
    """Scratch."""
    gaps: Ints
    sums: NDArray[Any]
    """[1] of `Sums`."""


@kernel
def next_noise(seed: NDArray[np.uint64]) -> float:
    """Step a SplitMix64 state in `seed[0]`; a standard-normal-like number (Irwin–Hall of 4)."""
    total = 0.0
    for _ in range(4):
        seed[0] += np.uint64(0x9E3779B97F4A7C15)
        z = seed[0]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        total += (z >> np.uint64(11)) * (1.0 / (1 << 53))
    return (total - 2.0) * np.sqrt(3.0)


@inlined
def noisy(duration_s: float, noise_ratio: float, seed: NDArray[np.uint64]) -> float:
    """Scale a duration by exp(noise_ratio · N(0, 1))."""
    if noise_ratio == 0.0:
        return duration_s
    return duration_s * np.exp(noise_ratio * next_noise(seed))


@inlined
def hidden(limits: Limits, cost: StepCost, duration_s: float) -> float:
    """Part of a step that passes on the host while the step before runs."""
    if limits.async_scheduling == 0:
        return 0.0
    return min(limits.overlap_ratio * cost.step_overhead_s, duration_s)


@inlined
def arrive(s: State, limits: Limits, feed: Feed, sums: Sums, request_s: float) -> bool:
    """Queue who has come; False when somebody found no slot."""
    i = sums.cursor
    while i < feed.arrival_s.size and feed.arrival_s[i] + request_s <= sums.clock_s:
        slot = scheduler.enqueue(
            s,
            limits,
            feed.first + i,
            feed.arrival_s[i],
            feed.prompt[i],
            feed.output[i],
            feed.prefix[i],
            feed.priority[i],
            feed.hash_start[i],
            feed.hashed_tokens[i],
        )
        if slot == scheduler.NO_SLOT:
            return False
        i += 1
        sums.cursor = i
    return True


@inlined
def start(
    s: State,
    limits: Limits,
    cost: StepCost,
    book: Book,
    noise_ratio: float,
    seed: NDArray[np.uint64],
) -> None:
    """Decide a step and let it run."""
    sums: Sums = book.sums[0]
    shape = scheduler.begin(s, limits, sums.clock_s, cost.window_tokens)
    if shape.tokens == 0:
        scheduler.launch(s, sums.clock_s, 0.0, 0.0)
        return
    duration_s = noisy(step_s(cost, shape), noise_ratio, seed)
    hidden_s = hidden(limits, cost, duration_s)
    scheduler.launch(s, sums.clock_s, duration_s, hidden_s)
    prefill_tokens = shape.tokens - shape.sequences + shape.prefill_sequences
    sums.tokens += shape.tokens
    sums.prefill_tokens += prefill_tokens
    sums.busy_s += (duration_s - hidden_s) / limits.pipeline_depth
    if sums.clock_s >= sums.next_row_s:
        note_step(s, limits, book, duration_s, shape.tokens, prefill_tokens)


@kernel
def note_step(
    s: State, limits: Limits, book: Book, duration_s: float, tokens: int, prefill_tokens: int
) -> None:
    """Write a row for the step that begins, and say when the next is due."""
    c: Counters = s.counters[0]
    sums: Sums = book.sums[0]
    row = book.steps[sums.steps]
    row.time_s = sums.clock_s
    row.duration_s = duration_s
    row.running = c.running
    row.waiting = c.waiting
    row.kv_blocks = limits.num_blocks - c.free_blocks
    row.tokens = tokens
    row.prefill_tokens = prefill_tokens
    row.preemptions = c.preemptions
    sums.steps += 1
    if sums.interval_s > 0:
        sums.next_row_s = (np.floor(sums.clock_s / sums.interval_s) + 1.0) * sums.interval_s


@inlined
def misses(q: scheduler.Sequence, bounds: Bounds) -> bool:
    """Whether a finished request missed a bound."""
    decode_s = q.last_token_s - q.first_token_s
    return bool(
        q.first_token_s - q.arrival_s > bounds.ttft_s
        or q.last_token_s - q.arrival_s > bounds.e2e_s
        or decode_s > bounds.itl_s * (q.output_tokens - 1)
    )


@inlined
def finish(s: State, limits: Limits, book: Book, bounds: Bounds) -> None:
    """End the oldest step: move the clock there, count gaps, write down who finished."""
    c: Counters = s.counters[0]
    sums: Sums = book.sums[0]
    now_s = scheduler.next_end_s(s)
    passed_s = now_s - sums.clock_s
    sums.kv_block_s += passed_s * (limits.num_blocks - c.free_blocks)
    sums.running_s += passed_s * c.running
    sums.clock_s = now_s
    n_emitted, n_finished = scheduler.commit(s, limits, now_s, book.ended)
    count_gaps(book, n_emitted)
    for i in range(n_finished):
        slot = book.ended.finished[i]
        q: scheduler.Sequence = s.sequences[slot]
        row = book.finished[sums.finished]
        row.request = q.request
        row.arrival_s = q.arrival_s
        row.input_tokens = q.prompt_tokens
        row.output_tokens = q.output_tokens
        row.hit_tokens = q.hit_tokens
        row.scheduled_s = q.scheduled_s
        row.first_token_s = q.first_token_s
        row.last_token_s = q.last_token_s
        row.max_gap_s = q.max_gap_s
        row.preemptions = q.preemptions
        sums.finished += 1
        sums.missed += misses(q, bounds)
        scheduler.release(s, slot)


@inlined
def count_gaps(book: Book, n_emitted: int) -> None:
    """Count the gaps that a step closed; most are alike, for most decoded the step before."""
    last_s, place = -1.0, 0
    for i in range(n_emitted):
        gap_s = book.ended.gap_s[i]
        if np.isnan(gap_s):
            continue
        if gap_s != last_s:
            last_s, place = gap_s, gap_bin(gap_s)
        book.gaps[place] += 1


@kernel
def run(  # noqa: PLR0913, PLR0917
    s: State,
    limits: Limits,
    cost: StepCost,
    feed: Feed,
    book: Book,
    until_s: float,
    ended: bool,
    noise_ratio: float,
    seed: NDArray[np.uint64],
    bounds: Bounds,
) -> int:
    """Step the engine until `until_s`, or as far as what it was fed tells; why it stopped.

    Without `ended` more requests are to come, which may arrive with the last of `feed`.
    """
    c: Counters = s.counters[0]
    sums: Sums = book.sums[0]
    n = feed.arrival_s.size
    while sums.clock_s < until_s:
        if not arrive(s, limits, feed, sums, cost.request_s):
            return NO_SLOTS
        if sums.cursor == n and not ended:
            return HUNGRY
        if c.running + c.waiting > 0 and scheduler.has_room(s):
            if 0 < book.steps.size == sums.steps:
                return STEPS_FULL
            start(s, limits, cost, book, noise_ratio, seed)
        elif c.in_flight > 0:
            finish(s, limits, book, bounds)
            if sums.missed > bounds.may_miss:
                return LOST
        elif sums.cursor == n:
            return DONE
        else:
            scheduler.idle(s, limits)
            sums.clock_s = feed.arrival_s[sums.cursor] + cost.request_s
    return PAUSED


class Progress(NamedTuple):
    """What happened since the last call."""

    finished: Finished
    """In order of finishing."""
    steps: Steps
    """Empty when they are not recorded."""


class Simulation:
    """One engine and its clock: `feed` it requests and `run` it, in turn.

    A value but for that it changes: copy or pickle it, and both go on alike.
    """

    def __init__(
        self,
        cost: StepCost,
        limits: Limits,
        *,
        noise_ratio: float = 0.0,
        seed: int = 0,
        step_interval_s: float | None = None,
        bounds: Bounds = NO_BOUNDS,
    ) -> None:
        """`step_interval_s`: how often a step is recorded; 0: each; None: none.

        It stops for good when more requests missed the `bounds` than may.
        """
        self.cost = cost
        self.limits = limits
        self._noise_ratio = noise_ratio
        self._bounds = bounds
        self._seed = np.array([seed], np.uint64)
        self._gaps = np.zeros(GAP_BINS, np.int64)
        self._sums = scheduler.records(Sums, 1)
        self._sums["next_row_s"] = np.inf if step_interval_s is None else 0.0
        self._sums["interval_s"] = step_interval_s or 0.0
        self._fed = 0
        self._ahead = Trace.of([], [], [])  # of which the sums' cursor tells who is queued
        self._begin(self._ahead)

    def _begin(self, first: Trace) -> None:
        """Make the engine, which depends on whether requests bring hashes."""
        self._state = scheduler.new_state(
            self.limits,
            _SLOTS,
            hash_block_tokens=_per_hash(first, self.limits),
            longest_tokens=_longest_tokens(first),
        )
        scheduler.idle(self._state, self.limits)
        self._feed = self._as_feed(first)

    def feed(self, part: Trace) -> None:
        """Add requests, which arrive after all that were fed before.

        Raises `Refused` when one could never be held by the KV cache, when they are not in
        order, or when only some parts say what their prompts hold.
        """
        if not len(part):
            return
        _check_fits(part, self.limits)
        if self._fed == 0:
            self._begin(part)
        self._check_follows(part)
        left = self._ahead.rows(slice(int(self._sums["cursor"][0]), None))
        self._ahead = joined([left, part]) if len(left) else part
        self._sums["cursor"] = 0
        self._fed += len(part)
        self._state = scheduler.widened(self._state, _longest_tokens(part), self.limits.block_size)
        self._feed = self._as_feed(self._ahead)

    def _check_follows(self, part: Trace) -> None:
        last_s = self._ahead.duration_s
        if part.arrival_s[0] < last_s:
            raise Refused(
                f"a part of a trace begins at {part.arrival_s[0]} s, before the end of the one "
                f"before at {last_s} s: feed them in order"
            )
        if _per_hash(part, self.limits) != self._state.pool.hash_block_tokens:
            raise Refused("hash_ids are given in some parts of a trace only: give them in all")

    def _as_feed(self, ahead: Trace) -> Feed:
        """Copy requests for the kernel, which is compiled for plain writable arrays."""
        n = len(ahead)
        hash_start, hashed_tokens = np.zeros(n, np.int64), np.zeros(n, np.int64)
        if self._state.pool.hash_block_tokens and ahead.hashes is not None:
            self._state, start = scheduler.with_hashes(self._state, ahead.hashes.ids)
            hash_start = start + ahead.hashes.offsets[:-1]
            tokens = ahead.hashes.counts * ahead.hashes.block_tokens
            hashed_tokens = np.minimum(tokens, ahead.input_tokens)
        return Feed(
            arrival_s=np.array(ahead.arrival_s),
            prompt=np.array(ahead.input_tokens),
            output=np.array(ahead.output_tokens),
            prefix=np.array(ahead.prefix_tokens),
            priority=np.zeros(n, np.int64) if ahead.priority is None else np.array(ahead.priority),
            hash_start=hash_start,
            hashed_tokens=hashed_tokens,
            first=self._fed - n,
        )

    def run(self, until_s: float = np.inf, *, ended: bool = True) -> Progress:
        """Go on until `until_s`; without `ended`, until the requests to come matter."""
        book, recorded = self._book(), []
        why = NO_SLOTS
        while why in {NO_SLOTS, STEPS_FULL}:
            why = run(
                self._state,
                self.limits,
                self.cost,
                self._feed,
                book,
                float(until_s),
                ended,
                self._noise_ratio,
                self._seed,
                self._bounds,
            )
            recorded.append(self._written(book.steps, "steps"))
            if why == NO_SLOTS:
                self._state = scheduler.grown(self._state)
        finished, steps = self._written(book.finished, "finished"), np.concatenate(recorded)
        return Progress(
            Finished(*(finished[field].copy() for field in Finished._fields)),
            Steps(*(steps[field].copy() for field in Steps._fields)),
        )

    def _book(self) -> Book:
        """Room for all that can finish and, where they are recorded, for many steps."""
        can_finish = self.in_flight + len(self._ahead) - int(self._sums["cursor"][0])
        recording = np.isfinite(self._sums["next_row_s"][0])
        return Book(
            finished=empty_rows(Finished, can_finish),
            steps=empty_rows(Steps, _STEP_ROWS if recording else 0),
            ended=scheduler.room_for(self.limits),
            gaps=self._gaps,
            sums=self._sums,
        )

    def _written(self, rows: NDArray[Any], which: str) -> NDArray[Any]:
        """Copy the rows written so far; the next are written from the first on."""
        written = rows[: int(self._sums[which][0])].copy()
        self._sums[which] = 0
        return written

    def through(self, parts: Iterable[Trace]) -> Iterator[Progress]:
        """Run a trace that comes in parts, to its end."""
        for part in parts:
            self.feed(part)
            yield self.run(ended=False)
        yield self.run()

    @property
    def now_s(self) -> float:
        """The engine's clock."""
        return float(self._sums["clock_s"][0])

    @property
    def lost(self) -> bool:
        """Whether more requests missed the bounds than may."""
        return bool(self._sums["missed"][0] > self._bounds.may_miss)

    @property
    def in_flight(self) -> int:
        """Requests that have arrived and not finished."""
        state = self._state
        return int(state.sequences.size - state.counters["free_slots"][0])

    @property
    def gaps(self) -> Ints:
        """[GAP_BINS] histogram of the gaps between tokens."""
        return self._gaps.copy()

    @property
    def usage(self) -> Usage:
        """What the engine was used for so far."""
        counters, sums = self._state.counters[0], self._sums[0]
        return Usage(
            end_s=self.now_s,
            steps=int(counters["steps"]),
            preemptions=int(counters["preemptions"]),
            tokens=int(sums["tokens"]),
            prefill_tokens=int(sums["prefill_tokens"]),
            busy_s=float(sums["busy_s"]),
            kv_block_s=float(sums["kv_block_s"]),
            running_s=float(sums["running_s"]),
        )

    def copy(self) -> Self:
        """Give an engine of its own that stands where this one does."""
        return copy.deepcopy(self)


def _per_hash(part: Trace, limits: Limits) -> int:
    """Tokens per hash where hashes are of use, else 0."""
    return part.hashes.block_tokens if part.hashes is not None and limits.prefix_caching else 0


def _longest_tokens(part: Trace) -> int:
    return int(np.max(part.input_tokens + np.maximum(part.output_tokens, 1), initial=0))


def _check_fits(part: Trace, limits: Limits) -> None:
    """Refuse what would wait for ever."""
    longest = int(np.max(part.input_tokens + part.output_tokens))
    capacity, page = limits.num_blocks * limits.block_size, limits.block_size
    budget, per_hash = limits.max_num_batched_tokens, _per_hash(part, limits)
    if longest > capacity:
        raise Refused(
            f"a request of {longest} tokens exceeds the KV cache of {capacity} tokens: "
            "shorten it or give more memory"
        )
    if limits.prefill_first and _longest_tokens(part) + page >= capacity:
        raise Refused(
            f"a request of {longest} tokens leaves no block to spare in the KV cache of "
            f"{capacity} tokens, as SGLang wants: shorten it or give more memory"
        )
    if limits.prefill_first and budget < page:
        raise Refused(f"max_num_batched_tokens {budget} is less than a block of {page}: raise it")
    if not limits.prefill_first and not limits.chunked_prefill and longest > budget:
        raise Refused(
            f"a request of {longest} tokens exceeds max_num_batched_tokens {budget}: "
            "raise it or enable chunked prefill"
        )
    if per_hash and per_hash % page and page % per_hash:
        raise Refused(
            f"hash_ids of {per_hash} tokens and a block_size of {page} do not divide each "
            "other: choose another block_size"
        )


def simulate(
    trace: Trace, cost: StepCost, limits: Limits, *, noise_ratio: float = 0.0, seed: int = 0
) -> Timings:
    """Run a whole trace through one engine until the last request is done.

    Raises `Refused` when a request could never be held by the KV cache.
    """
    simulation = Simulation(cost, limits, noise_ratio=noise_ratio, seed=seed)
    simulation.feed(trace)
    finished = simulation.run().finished
    return Timings.of(finished, simulation.gaps, simulation.usage)


def simulate_within(
    trace: Trace, cost: StepCost, limits: Limits, slo: Slo, *, seed: int = 0
) -> Timings | None:
    """Run a trace as `simulate` does, but give up (None) once its requests miss the objective.

    A rate that is far too high is told so after a few requests instead of all.
    """
    simulation = Simulation(cost, limits, seed=seed, bounds=Bounds.of(slo, len(trace)))
    simulation.feed(trace)
    finished = simulation.run().finished
    if simulation.lost:
        return None
    return Timings.of(finished, simulation.gaps, simulation.usage)
