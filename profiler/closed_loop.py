"""A closed loop through the twin: so many clients, each asking again when it is answered.

What load generators with a fixed concurrency do, and what a decode batch of one size is. One
step at a time: with several under way a mean is no sum over their durations.
Besides the latencies it gives their `Exposure`: a fit of the step cost needs no more.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from profiler import scheduler
from profiler.exposure import TERMS, Exposure, expose
from profiler.scheduler import Counters, Limits, Sequence, State
from profiler.step_cost import GRID_SIZE, StepCost, step_s

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """What the requests went through; arrays are [requests], seconds, API time left out."""

    ttft_s: Floats
    tpot_s: Floats
    ttft_exposures: tuple[Exposure, ...]
    """Of the mean TTFT of each group asked for."""
    tpot_exposure: Exposure
    """Of the mean TPOT of all requests."""


def closed_loop(
    cost: StepCost,
    limits: Limits,
    clients: int,
    input_tokens: Ints,
    output_tokens: Ints,
    groups: NDArray[np.bool_] | None = None,
) -> ClosedLoop:
    """Run all requests ([n], outputs of 2 tokens or more), `clients` at a time.

    groups: [k, n] which requests each mean TTFT is over; None: one group of all.
    """
    n = input_tokens.size
    members = np.ones((1, n), np.bool_) if groups is None else groups
    weights = members / np.maximum(members.sum(axis=1, keepdims=True), 1)
    terms = np.zeros((len(weights) + 1, TERMS))
    dense = np.zeros((len(weights) + 1, GRID_SIZE))
    ttft_s, tpot_s = np.zeros(n), np.zeros(n)
    limits = limits._replace(async_scheduling=0, pipeline_depth=1)
    state = scheduler.new_state(limits, 2 * clients + 8)
    scheduler.idle(state, limits)
    _run(
        state, limits, cost, clients, (input_tokens, np.maximum(output_tokens, 2)), weights,
        (terms, dense), (ttft_s, tpot_s), scheduler.room_for(limits),
    )  # fmt: skip
    exposures = tuple(Exposure(t, d) for t, d in zip(terms, dense, strict=True))
    return ClosedLoop(ttft_s, tpot_s, exposures[:-1], exposures[-1])


@njit(cache=True)
def _weigh(q: Sequence, weights: Floats, share: Floats) -> None:
    """Add a request's weight to the means that the step under way prolongs."""
    if q.generated == 0:
        for k in range(weights.shape[0]):
            share[k] += weights[k, q.request]
    else:
        share[-1] += 1.0 / (weights.shape[1] * (q.output_tokens - 1))


@njit(cache=True)
def _run(  # noqa: PLR0913, PLR0917
    s: State,
    limits: Limits,
    cost: StepCost,
    clients: int,
    lengths: tuple[Ints, Ints],
    weights: Floats,
    exposures: tuple[Floats, Floats],
    times: tuple[Floats, Floats],
    room: scheduler.Ended,
) -> None:
    """Fill the exposures ([groups + 1], TPOT last) and the times (TTFT, TPOT)."""
    c: Counters = s.counters[0]
    n = lengths[0].size
    share = np.zeros(weights.shape[0] + 1)
    clock, sent, done, asked = 0.0, 0, 0, min(clients, n)
    while done < n:
        while sent < asked:
            scheduler.enqueue(
                s, limits, sent, clock, lengths[0][sent], lengths[1][sent], 0, 0, 0, 0
            )
            sent += 1
        shape = scheduler.begin(s, limits, clock, cost.window_tokens)
        share[:] = 0.0
        for i in range(c.running):
            _weigh(s.sequences[s.running[i]], weights, share)
        for i in range(c.waiting):
            slot = s.waiting[(c.waiting_head + i) % s.waiting.size]
            _weigh(s.sequences[slot], weights, share)
        for k in range(share.size):
            if share[k] > 0.0:
                expose(shape, share[k], exposures[0][k], exposures[1][k])
        scheduler.launch(s, clock, step_s(cost, shape), 0.0)
        clock = scheduler.next_end_s(s)
        _, n_finished = scheduler.commit(s, limits, clock, room)
        for i in range(n_finished):
            q: Sequence = s.sequences[room.finished[i]]
            times[0][q.request] = q.first_token_s - q.arrival_s
            times[1][q.request] = (q.last_token_s - q.first_token_s) / (q.output_tokens - 1)
            scheduler.release(s, room.finished[i])
            done += 1
            asked = min(asked + 1, n)
