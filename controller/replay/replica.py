"""One replica: an engine of the twin, and where it stands in its life.

It is sent requests as the router decides and runs when somebody wants to know: nothing
happens to an engine between two of its steps that it would have to be asked for earlier.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.replay.ledger import Ledger
from controller.replay.policy import ReplicaCounts
from controller.replay.served import slowed
from profiler.scheduler import Limits
from profiler.step_cost import StepCost
from profiler.timings import Finished
from profiler.trace import Hashes, Trace
from profiler.twin import Simulation

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Phase(StrEnum):
    """Where a replica stands."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Life:
    """When a replica was paid for, and when it served; moments of simulated time."""

    asked_s: float
    ready_s: float
    """When it began to serve; infinite where it never did."""
    drained_s: float
    """When it was taken out of the router, or died."""
    gone_s: float


class Replica:
    """A replica from the asking to its end."""

    def __init__(self, number: int, node: int, cost: StepCost, limits: Limits) -> None:
        self.number = number
        self.node = node
        self.phase = Phase.STARTING
        self.asked_s = self.last_token_s = 0.0
        self.ready_s = self.drained_s = self.gone_s = np.inf
        self.outstanding = 0
        """Requests sent and not seen to end."""
        self._cost = cost
        self._engine = Simulation(cost, limits)
        self._rows: Ints = np.zeros(0, np.int64)
        """The trace's rows, by the engine's own numbers."""
        self._ahead: list[tuple[Ints, Floats]] = []
        """Sent and not yet fed: rows, and when they were sent."""
        self._done = np.zeros(4)
        """Requests that finished, their prompts' and answers' tokens, first to last token in s."""

    @property
    def name(self) -> str:
        """As a scrape shows it."""
        return f"r{self.number}"

    @property
    def life(self) -> Life:
        """Its moments."""
        return Life(self.asked_s, self.ready_s, min(self.drained_s, self.gone_s), self.gone_s)

    def slow_down(self, factor: float) -> None:
        """Let each step that begins from now on take so many times as long; 1: as it was."""
        self._engine.cost = slowed(self._cost, factor)

    def send(self, rows: Ints, at_s: Floats, ledger: Ledger) -> None:
        """Take requests, in order of when they are sent."""
        if rows.size:
            self._ahead.append((rows, at_s))
            self.outstanding += rows.size
            ledger.sent(rows, self.number)

    def run_to(self, now_s: float, ledger: Ledger) -> None:
        """Step the engine up to a moment and write down what came of it."""
        if self.outstanding == 0:
            return
        self._feed(ledger.trace)
        finished = self._engine.run(now_s).finished
        rows = self._rows[finished.request]
        ledger.went_on(rows, finished.first_token_s, finished.last_token_s, finished.output_tokens)
        ledger.ended[rows] = True
        self.outstanding -= rows.size
        if rows.size:
            self._count(finished)
            self.last_token_s = float(finished.last_token_s[-1])
        live = _in_flight(self._engine)
        ledger.went_on(
            self._rows[live["request"]],
            live["first_token_s"],
            live["last_token_s"],
            live["generated"],
        )

    def _count(self, finished: Finished) -> None:
        decode_s = finished.last_token_s - finished.first_token_s
        self._done += (
            finished.request.size,
            finished.input_tokens.sum(),
            finished.output_tokens.sum(),
            decode_s.sum(),
        )

    @property
    def counts(self) -> ReplicaCounts:
        """What it did so far, to the end of the step under way."""
        live = _in_flight(self._engine)
        live = live[live["generated"] > 0]
        finished, prompts, answers, decode_s = self._done.tolist()
        made = answers + float(live["generated"].sum())
        return ReplicaCounts(
            prompt_tokens=prompts + float(live["prompt_tokens"].sum()),
            generation_tokens=made,
            preemptions=float(self._engine.usage.preemptions),
            finished=finished,
            gaps=made - finished - live.size,
            gaps_s=decode_s + float((live["last_token_s"] - live["first_token_s"]).sum()),
            input_tokens=prompts,
            output_tokens=answers,
        )

    def _feed(self, trace: Trace) -> None:
        if not self._ahead:
            return
        rows = np.concatenate([rows for rows, _ in self._ahead])
        at_s = np.concatenate([at_s for _, at_s in self._ahead])
        self._ahead = []
        self._rows = np.concatenate([self._rows, rows])
        self._engine.feed(_sent_at(trace, rows, at_s))

    def held(self) -> Ints:
        """Rows of all that it was ever sent."""
        return np.concatenate([self._rows, *(rows for rows, _ in self._ahead)])

    @property
    def running(self) -> int:
        """Requests in the batch, at the end of the step under way."""
        return int(_counters(self._engine)["running"])

    @property
    def waiting(self) -> int:
        """Requests in the queue; as a real engine's, without who came during a step."""
        return int(_counters(self._engine)["waiting"])

    @property
    def kv_usage_ratio(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return 1.0 - float(_counters(self._engine)["free_blocks"]) / self._engine.limits.num_blocks


def _counters(engine: Simulation) -> Any:
    return engine._state.counters[0]


def _in_flight(engine: Simulation) -> NDArray[Any]:
    """Records of the requests that the scheduler holds."""
    sequences = engine._state.sequences
    return sequences[sequences["request"] >= 0]


def _sent_at(trace: Trace, rows: Ints, at_s: Floats) -> Trace:
    """Some requests of a trace as if they came when they were sent."""
    return Trace(
        at_s,
        trace.input_tokens[rows],
        trace.output_tokens[rows],
        trace.prefix_tokens[rows],
        None if trace.priority is None else trace.priority[rows],
        None if trace.hashes is None else _hashes_of(trace.hashes, rows),
    )


def _hashes_of(hashes: Hashes, rows: Ints) -> Hashes:
    counts = hashes.counts[rows]
    offsets = np.concatenate(([0], np.cumsum(counts)))
    places = np.repeat(hashes.offsets[:-1][rows] - offsets[:-1], counts)
    return Hashes(offsets, hashes.ids[places + np.arange(offsets[-1])], hashes.block_tokens)
