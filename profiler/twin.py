"""The twin: an engine's scheduler and its step cost, stepped together.

`simulate` runs a trace through one engine in simulated time; `Engine` is the same engine
stepped from outside, which is how the emulator serves it in real time. Deterministic bit
for bit: the only chance is `noise_ratio`, drawn from the seed.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from profiler import scheduler
from profiler.errors import Refused
from profiler.scheduler import Limits, Shape, State
from profiler.slo import Slo
from profiler.step_cost import StepCost, step_s
from profiler.trace import Trace

GAP_BINS = 2048
GAP_LOW_S = 1e-5
GAP_DECADES = 7.0
"""Gaps between tokens are counted in log-spaced bins, 10 µs to 100 s, 0.8 % wide."""


class Results(NamedTuple):
    """Per-request times filled in by the kernel; [requests], NaN until known."""

    scheduled_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    last_token_s: NDArray[np.float64]
    max_gap_s: NDArray[np.float64]
    preemptions: NDArray[np.int64]
    gaps: NDArray[np.int64]
    """[GAP_BINS] histogram of the gaps between tokens."""


Arrivals = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Arrival time, prompt, output and prefix tokens; [requests] each."""


@njit(cache=True)
def gap_bin(gap_s: float) -> int:
    """Bin of a gap between tokens."""
    if gap_s <= GAP_LOW_S:
        return 0
    return min(int(np.log10(gap_s / GAP_LOW_S) * (GAP_BINS / GAP_DECADES)), GAP_BINS - 1)


@njit(cache=True)
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


@njit(cache=True)
def noisy(duration_s: float, noise_ratio: float, seed: NDArray[np.uint64]) -> float:
    """Scale a duration by exp(noise_ratio · N(0, 1))."""
    if noise_ratio == 0.0:
        return duration_s
    return duration_s * np.exp(noise_ratio * next_noise(seed))


@njit(cache=True)
def record_gaps(
    s: State,
    emitted: NDArray[np.int64],
    n_emitted: int,
    before_s: NDArray[np.float64],
    now_s: float,
    gaps: NDArray[np.int64],
) -> None:
    """Count the gaps that the step just committed closed; `before_s`: last token per slot."""
    for i in range(n_emitted):
        slot = emitted[i]
        if s.generated[slot] > 1:
            gaps[gap_bin(now_s - before_s[slot])] += 1


@njit(cache=True)
def run(  # noqa: PLR0913, PLR0917
    s: State,
    limits: Limits,
    cost: StepCost,
    trace: Arrivals,
    cursor: int,
    clock: float,
    until_s: float,
    noise_ratio: float,
    seed: NDArray[np.uint64],
    out: Results,
) -> tuple[int, float, bool]:
    """Step the engine over `trace` from request `cursor` on, until `until_s` or idleness.

    trace: (arrival_s, prompt, output, prefix) arrays. Returns (cursor, clock, full): full
    asks the caller for more slots and to call again.
    """
    arrival_s, prompt, output, prefix = trace
    n = arrival_s.size
    c = s.counters
    emitted = np.empty(limits.max_num_seqs, np.int64)
    finished = np.empty(limits.max_num_seqs, np.int64)
    before_s = s.last_token_s.copy()
    while clock < until_s:
        while cursor < n and arrival_s[cursor] + cost.request_s <= clock:
            slot = scheduler.enqueue(
                s, cursor, arrival_s[cursor], prompt[cursor], output[cursor], prefix[cursor]
            )
            if slot == scheduler.NO_SLOT:
                return cursor, clock, True
            cursor += 1
        if c[scheduler.RUNNING] + c[scheduler.WAITING] == 0:
            if cursor == n:
                break
            clock = arrival_s[cursor] + cost.request_s
            continue
        shape = scheduler.schedule(s, limits, clock, cost.window_tokens)
        clock += noisy(step_s(cost, shape), noise_ratio, seed)
        for i in range(c[scheduler.RUNNING]):
            before_s[s.running[i]] = s.last_token_s[s.running[i]]
        n_emitted, n_finished = scheduler.commit(s, clock, emitted, finished)
        record_gaps(s, emitted, n_emitted, before_s, clock, out.gaps)
        for i in range(n_finished):
            slot = finished[i]
            r = s.request[slot]
            out.scheduled_s[r] = s.scheduled_s[slot]
            out.first_token_s[r] = s.first_token_s[slot]
            out.last_token_s[r] = s.last_token_s[slot]
            out.max_gap_s[r] = s.max_gap_s[slot]
            out.preemptions[r] = s.preempted[slot]
            scheduler.release(s, slot)
    return cursor, clock, False


@dataclass(frozen=True, slots=True)
class Timings:
    """What a trace went through; arrays are [requests], seconds."""

    ttft_s: NDArray[np.float64]
    itl_s: NDArray[np.float64]
    """Mean gap between a request's tokens; NaN where it made one token."""
    e2e_s: NDArray[np.float64]
    queue_s: NDArray[np.float64]
    max_gap_s: NDArray[np.float64]
    preemptions: NDArray[np.int64]
    gaps: NDArray[np.int64]
    end_s: float
    steps: int

    def attained(self, slo: Slo) -> NDArray[np.bool_]:
        """[requests] whether each request kept within every bound of the SLO."""
        good = np.ones(self.ttft_s.size, np.bool_)
        for values, bound in (
            (self.ttft_s, slo.ttft_s),
            (self.itl_s, slo.itl_s),
            (self.e2e_s, slo.e2e_s),
        ):
            if bound is not None:
                good &= ~(values > bound)
        return good

    def gap_quantile_s(self, q: float) -> float:
        """Quantile of the gaps between all tokens, to 0.8 %; NaN when there were none."""
        total = int(self.gaps.sum())
        if total == 0:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self.gaps), q * total))
        return float(GAP_LOW_S * 10 ** ((place + 0.5) * GAP_DECADES / GAP_BINS))


def simulate(
    trace: Trace, cost: StepCost, limits: Limits, *, noise_ratio: float = 0.0, seed: int = 0
) -> Timings:
    """Run a whole trace through one engine until the last request is done.

    Raises `Refused` when a request could never be held by the KV cache.
    """
    longest = int(np.max(trace.input_tokens + trace.output_tokens, initial=0))
    if longest > limits.num_blocks * limits.block_size:
        raise Refused(
            f"a request of {longest} tokens exceeds the KV cache of "
            f"{limits.num_blocks * limits.block_size} tokens: shorten it or give more memory"
        )
    if not limits.chunked_prefill and longest > limits.max_num_batched_tokens:
        raise Refused(
            f"a request of {longest} tokens exceeds max_num_batched_tokens "
            f"{limits.max_num_batched_tokens}: raise it or enable chunked prefill"
        )
    n = len(trace)
    out = Results(
        scheduled_s=np.full(n, np.nan),
        first_token_s=np.full(n, np.nan),
        last_token_s=np.full(n, np.nan),
        max_gap_s=np.full(n, np.nan),
        preemptions=np.zeros(n, np.int64),
        gaps=np.zeros(GAP_BINS, np.int64),
    )
    arrays = (trace.arrival_s, trace.input_tokens, trace.output_tokens, trace.prefix_tokens)
    state = scheduler.new_state(limits, 1024)
    random_state = np.array([seed], np.uint64)
    cursor, clock, full = 0, 0.0, True
    while full:
        cursor, clock, full = run(
            state, limits, cost, arrays, cursor, clock, np.inf, noise_ratio, random_state, out
        )
        if full:
            state = scheduler.grown(state)
    tokens = np.maximum(trace.output_tokens, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        itl_s = np.where(tokens > 1, (out.last_token_s - out.first_token_s) / (tokens - 1), np.nan)
    return Timings(
        ttft_s=out.first_token_s - trace.arrival_s,
        itl_s=itl_s,
        e2e_s=out.last_token_s - trace.arrival_s,
        queue_s=out.scheduled_s - trace.arrival_s,
        max_gap_s=out.max_gap_s,
        preemptions=out.preemptions,
        gaps=out.gaps,
        end_s=clock,
        steps=int(state.counters[scheduler.STEPS]),
    )


@dataclass(frozen=True, slots=True)
class Emission:
    """One token that a committed step produced."""

    request: int
    generated: int
    """Tokens of the request so far, this one included."""
    finished: bool


class Engine:
    """One engine stepped from outside: `enqueue`, `abort`, then `begin` and `end` in turn.

    Between `begin` and `end` a step is under way; requests that arrive meanwhile wait for
    the next, as they do in the real engine.
    """

    def __init__(self, cost: StepCost, limits: Limits, slots: int = 1024) -> None:
        self.cost = cost
        self.limits = limits
        self._state: State = scheduler.new_state(limits, slots)
        self._slots: dict[int, int] = {}
        self._emitted = np.empty(limits.max_num_seqs, np.int64)
        self._finished = np.empty(limits.max_num_seqs, np.int64)

    def enqueue(
        self, request: int, now_s: float, prompt_tokens: int, output_tokens: int, prefix_tokens: int
    ) -> None:
        """Add a request to the queue; `request` is the caller's number for it."""
        if self._state.counters[scheduler.FREE_SLOTS] == 0:
            self._state = scheduler.grown(self._state)
        self._slots[request] = scheduler.enqueue(
            self._state, request, now_s, prompt_tokens, output_tokens, prefix_tokens
        )

    def abort(self, request: int) -> bool:
        """Forget a request and free its KV; False when it is not in flight."""
        slot = self._slots.pop(request, None)
        return slot is not None and bool(scheduler.abort(self._state, slot))

    def begin(self, now_s: float) -> tuple[Shape, float] | None:
        """Schedule a step; its shape and its duration in seconds, None when idle."""
        if self.running + self.waiting == 0:
            return None
        shape = scheduler.schedule(self._state, self.limits, now_s, self.cost.window_tokens)
        return shape, float(step_s(self.cost, shape))

    def end(self, now_s: float) -> list[Emission]:
        """Commit the step under way; the tokens it produced."""
        s = self._state
        n_emitted, n_finished = scheduler.commit(s, now_s, self._emitted, self._finished)
        done = set(self._finished[:n_finished].tolist())
        emissions = [
            Emission(int(s.request[slot]), int(s.generated[slot]), slot in done)
            for slot in self._emitted[:n_emitted].tolist()
        ]
        for slot in done:
            self._slots.pop(int(s.request[slot]), None)
            scheduler.release(s, slot)
        return emissions

    def scheduled_s(self, request: int) -> float | None:
        """When a request in flight was first scheduled; None while it waits."""
        slot = self._slots.get(request)
        at_s = float("nan") if slot is None else float(self._state.scheduled_s[slot])
        return None if np.isnan(at_s) else at_s

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return int(self._state.counters[scheduler.RUNNING])

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return int(self._state.counters[scheduler.WAITING])

    @property
    def preemptions(self) -> int:
        """Preemptions so far."""
        return int(self._state.counters[scheduler.PREEMPTIONS])

    @property
    def kv_usage_ratio(self) -> float:
        """Share of KV blocks held, 0 to 1."""
        return 1.0 - float(self._state.counters[scheduler.FREE_BLOCKS]) / self.limits.num_blocks
