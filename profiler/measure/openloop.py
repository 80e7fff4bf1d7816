"""Send a trace's requests at their own times, whatever becomes of them.

Called by `whaleflux bench`. Open loop: a slow answer delays no other request, as it would
not in production, so an overloaded server shows the queue that its users would see. The
injector watches itself: `Pace` says whether the requests went out when they should have.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import aiohttp
import numpy as np

from profiler.measure.client import Outcome, Request, Target, complete
from profiler.trace import Floats, Trace

RATE_TOLERANCE_RATIO = 0.01
"""An achieved rate further off than this is not the trace's."""
TIMER_S = 0.005
"""Within this a sender is on time; over a short trace it still shifts the rate."""
LATENESS_TOLERANCE_S = 0.05
"""A 99th percentile beyond this shows in a TTFT: the sender is part of what is measured."""

Progress = Callable[[int, int], None]
"""Told how many requests were sent and how many ended, at every change."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How well the sender kept the trace's times."""

    wanted_rps: float | None
    """Between the first and the last arrival; None for fewer than two moments."""
    achieved_rps: float | None
    """Between the first and the last sending."""
    lateness_p99_s: float | None
    """99th percentile of sent − scheduled; None without requests."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Pace":
        """Judge a run by its outcomes."""
        scheduled_s = np.array([o.scheduled_s for o in outcomes])
        sent_s = np.array([o.sent_s for o in outcomes])
        late_s = float(np.quantile(sent_s - scheduled_s, 0.99)) if outcomes else None
        return cls(_rate_rps(scheduled_s), _rate_rps(sent_s), late_s)

    @property
    def warning(self) -> str | None:
        """One line when the figures are the sender's as much as the server's."""
        off = False
        if self.wanted_rps is not None and self.achieved_rps is not None:
            off = abs(self.achieved_rps / self.wanted_rps - 1) > RATE_TOLERANCE_RATIO
        late_s = self.lateness_p99_s or 0.0
        if late_s <= (TIMER_S if off else LATENESS_TOLERANCE_S):
            return None
        return (
            f"the sender was late (p99 {late_s * 1e3:.0f} ms, {self.achieved_rps or 0:.2f} of"
            f" {self.wanted_rps or 0:.2f} req/s): use a faster machine or split the trace"
        )


async def replay(
    session: aiohttp.ClientSession,
    target: Target,
    trace: Trace,
    now_s: Callable[[], float],
    *,
    warmup: int = 0,
    on_progress: Progress | None = None,
) -> tuple[Outcome, ...]:
    """Send every request at its time and wait for all of them to end; in the trace's order.

    `warmup` requests go first, one after the other, and are not reported. `now_s` must run
    with the event loop's sleep. Outcomes count from the moment the trace began.
    """
    await _warm_up(session, target, trace, now_s, warmup)
    start_s = now_s()
    ended = count(1)
    tasks: list[asyncio.Task[Outcome]] = []

    async def follow(request: Request) -> Outcome:
        outcome = await complete(session, target, request, lambda: now_s() - start_s)
        if on_progress is not None:
            on_progress(len(tasks), next(ended))
        return outcome

    async with asyncio.TaskGroup() as group:
        for request in requests_of(trace):
            delay_s = start_s + request.scheduled_s - now_s()
            await asyncio.sleep(max(delay_s, 0))
            tasks.append(group.create_task(follow(request)))
    return tuple(task.result() for task in tasks)


def requests_of(trace: Trace) -> list[Request]:
    """The trace's requests; an output of 0 tokens becomes 1, the least an engine serves."""
    columns = (trace.arrival_s, trace.input_tokens, np.maximum(trace.output_tokens, 1))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Request(i, at_s, n_in, n_out) for i, (at_s, n_in, n_out) in enumerate(rows)]


async def _warm_up(
    session: aiohttp.ClientSession,
    target: Target,
    trace: Trace,
    now_s: Callable[[], float],
    warmup: int,
) -> None:
    """Let connections and kernels settle, on prompts that the trace will not send again."""
    for request in requests_of(trace.take(warmup)):
        first = Request(len(trace) + request.index, 0.0, request.input_tokens, 1)
        await complete(session, target, first, now_s)


def _rate_rps(at_s: Floats) -> float | None:
    """Requests per second over the span of the moments given."""
    span_s = float(np.ptp(at_s)) if at_s.size > 1 else 0.0
    return (at_s.size - 1) / span_s if span_s > 0 else None
