"""One engine stepped from outside: the emulator serves it in real time.

The scheduler and the step cost are the twin's, so what is planned is what is served.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiler import scheduler
from profiler.scheduler import Limits, Shape, State
from profiler.step_cost import StepCost, step_s
from profiler.twin import hidden


@dataclass(frozen=True, slots=True)
class Emission:
    """One token that a step produced."""

    request: int
    generated: int
    """Tokens of the request so far, this one included."""
    finished: bool


class Engine:
    """One engine stepped from outside: `enqueue`, `abort`, then `begin` and `end` in turn.

    A step is under way from `begin` until `end` at `next_end_s`, several where the limits
    allow it; requests that arrive meanwhile wait for the next, as in the real engine.
    """

    def __init__(
        self,
        cost: StepCost,
        limits: Limits,
        slots: int = 1024,
        *,
        longest_tokens: int | None = None,
    ) -> None:
        """With `longest_tokens`, of any request, prefixes are found by hashes of blocks."""
        self.cost = cost
        self.limits = limits
        hashed = longest_tokens is not None and limits.prefix_caching
        self._state: State = scheduler.new_state(
            limits,
            slots,
            hash_block_tokens=limits.block_size if hashed else 0,
            longest_tokens=longest_tokens or 0,
        )
        self._slots: dict[int, int] = {}
        self._ended = scheduler.room_for(limits)
        scheduler.idle(self._state, limits)

    def enqueue(
        self,
        request: int,
        now_s: float,
        prompt_tokens: int,
        output_tokens: int,
        *,
        hashes: Sequence[int] = (),
        priority: int = 0,
    ) -> None:
        """Add a request to the queue; `request` is the caller's number for it, ≥ 0.

        `hashes`: one, ≥ 0, for each full block of the prompt and of the answer to come.
        """
        if self._count("free_slots") == 0:
            self._state = scheduler.grown(self._state)
        hash_start = 0
        if hashes and self._state.pool.hash_block_tokens:
            ids = np.array(hashes, np.int64)
            self._state, hash_start = scheduler.with_hashes(self._state, ids)
        self._slots[request] = scheduler.enqueue(
            self._state,
            self.limits,
            request,
            now_s,
            prompt_tokens,
            output_tokens,
            0,
            priority,
            hash_start,
            len(hashes) * self.limits.block_size,
        )

    def forget_prefixes(self) -> None:
        """Empty the prefix cache."""
        scheduler.forget_all(self._state)

    def abort(self, request: int) -> bool:
        """Forget a request and free its KV; False when it is not in flight."""
        slot = self._slots.pop(request, None)
        if slot is None:
            return False
        scheduler.abort(self._state, self.limits, slot)
        return True

    def begin(self, now_s: float, slow_factor: float = 1.0) -> Shape | None:
        """Let a step begin that lasts `slow_factor` times as long as it should.

        Its shape; None when there is nothing to do, or no more steps can be under way.
        """
        if self.running + self.waiting == 0 or not scheduler.has_room(self._state):
            return None
        shape = scheduler.begin(self._state, self.limits, now_s, self.cost.window_tokens)
        duration_s = slow_factor * float(step_s(self.cost, shape)) if shape.tokens else 0.0
        hidden_s = hidden(self.limits, self.cost, duration_s)
        scheduler.launch(self._state, now_s, duration_s, hidden_s)
        return shape

    @property
    def next_end_s(self) -> float | None:
        """When the oldest step under way ends; None when there is none."""
        return float(scheduler.next_end_s(self._state)) if self._count("in_flight") else None

    def end(self, now_s: float) -> list[Emission]:
        """End the oldest step under way; the tokens it produced."""
        s, ended = self._state, self._ended
        n_emitted, n_finished = scheduler.commit(s, self.limits, now_s, ended)
        done = set(ended.finished[:n_finished].tolist())
        emissions = [
            Emission(int(q["request"]), int(q["generated"]), slot in done)
            for slot in ended.emitted[:n_emitted].tolist()
            for q in [s.sequences[slot]]
        ]
        for slot in done:
            self._slots.pop(int(s.sequences[slot]["request"]), None)
            scheduler.release(s, slot)
        if self.running + self.waiting == 0:
            scheduler.idle(s, self.limits)
        return emissions

    def scheduled_s(self, request: int) -> float | None:
        """When a request in flight was first scheduled; None while it waits."""
        slot = self._slots.get(request)
        at_s = float("nan") if slot is None else float(self._state.sequences[slot]["scheduled_s"])
        return None if np.isnan(at_s) else at_s

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return self._count("running")

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._count("waiting")

    @property
    def busy(self) -> bool:
        """Whether there is a request, or a step that has not ended."""
        return self.running + self.waiting + self._count("in_flight") > 0

    @property
    def preemptions(self) -> int:
        """Preemptions so far."""
        return self._count("preemptions")

    @property
    def kv_usage_ratio(self) -> float:
        """Share of KV blocks held, 0 to 1."""
        return 1.0 - self._count("free_blocks") / self.limits.num_blocks

    def _count(self, what: str) -> int:
        return int(self._state.counters[what][0])
