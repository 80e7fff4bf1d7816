"""The twin in real time: steps end when they would end on the GPU.

The server submits `Generation`s and aborts `Job`s; `run` is the one task that steps. The
nominal clock: a step begun at t ends at t + its duration, and the next begins at that very
moment while there is work, so a timer that wakes late delays tokens but never adds up.
A request joins a step only when it is visible by the step's nominal start, as in
`twin.simulate`: on a virtual clock both give the same times to the last bit.
"""

import asyncio
import heapq
import logging
from collections.abc import Iterator
from itertools import count

from profiler.emulator.clock import Clock
from profiler.emulator.jobs import Finish, Generation, Job
from profiler.emulator.options import Options, longest_request
from profiler.emulator.prefix import block_hashes
from profiler.emulator.recorder import Lifetime, Recorder
from profiler.engine import Emission, Engine
from profiler.errors import WhaleFluxError
from profiler.scheduler import Limits
from profiler.step_cost import StepCost

MAX_LATENESS_S = 1.0
"""Further behind real time than this, the host is overloaded and catching up is hopeless."""

log = logging.getLogger(__name__)


class EngineDeadError(WhaleFluxError):
    """The engine failed as a whole; named as in vLLM."""


class EngineDrainingError(WhaleFluxError):
    """The engine shuts down and takes no new requests."""


class _Twin(Engine):
    """The twin's engine, with what it knows of requests that have just finished."""

    def slot_of(self, request: int) -> int:
        """Where a request lives; valid until it has finished and another is enqueued."""
        return self._slots[request]

    def hit_tokens(self, slot: int) -> int:
        """Tokens that the request in `slot` found in the prefix cache."""
        return int(self._state.sequences[slot]["hit_tokens"])

    def lifetime(self, slot: int) -> Lifetime:
        """Return the moments of the request in `slot`."""
        sequence = self._state.sequences[slot]
        return Lifetime(
            float(sequence["scheduled_s"]),
            float(sequence["first_token_s"]),
            float(sequence["last_token_s"]),
            int(sequence["preemptions"]),
        )


class RealTimeEngine:
    """One emulated engine; every method but `run`, `wake_up` and `until_idle` is immediate."""

    def __init__(self, cost: StepCost, limits: Limits, options: Options, clock: Clock) -> None:
        self.limits = limits
        self.options = options
        self.max_model_len = longest_request(options, limits)
        self.recorder = Recorder(self.max_model_len)
        self.slow_factor = 1.0
        """Step durations are multiplied by it: a fault."""
        self.draining = False
        self.sleep_level = 0
        """0: awake; 1: weights in host memory; 2: weights discarded."""
        self._clock = clock
        self._twin = _Twin(cost, limits, longest_tokens=self.max_model_len)
        self._numbers = count()
        self._jobs: dict[int, Job] = {}
        self._arrivals: list[tuple[float, int, Job]] = []
        self._free_s = clock.now_s()  # nominal end of the last step
        self._hung = False
        self._death: str | None = None
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    # --- requests ---

    def submit(self, generation: Generation, arrival_s: float) -> Job:
        """Take a request that reached the server at `arrival_s`; its handle."""
        if self._death is not None:
            raise EngineDeadError(self._death)
        if self.draining:
            raise EngineDrainingError("the engine is shutting down and takes no new requests")
        visible_s = arrival_s + self._twin.cost.request_s  # what HTTP took is in it
        job = Job(next(self._numbers), generation, arrival_s, visible_s)
        self._jobs[job.number] = job
        heapq.heappush(self._arrivals, (visible_s, job.number, job))
        self._idle.clear()
        self._changed.set()
        return job

    def abort(self, job: Job, finish: Finish = Finish.ABORT) -> bool:
        """End a request now and free its KV; False when it is no longer in flight."""
        if self._jobs.pop(job.number, None) is None:
            return False
        self._twin.abort(job.number)
        self.recorder.cut(finish)
        job.advance(job.generated, finish)
        self._note_idle()
        return True

    def abort_all(self, finish: Finish = Finish.ABORT) -> int:
        """End every request in flight; how many there were."""
        return sum(self.abort(job, finish) for job in tuple(self._jobs.values()))

    async def until_idle(self) -> None:
        """Return when nothing is in flight."""
        await self._idle.wait()

    # --- state ---

    @property
    def cost(self) -> StepCost:
        """What its steps cost."""
        return self._twin.cost

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return self._twin.running

    @property
    def waiting(self) -> int:
        """Requests in the scheduler's queue; asleep, those that wait for the wake-up too."""
        return self._twin.waiting + (len(list(self._arrived())) if self.sleep_level else 0)

    @property
    def in_flight(self) -> int:
        """Requests taken and not finished."""
        return len(self._jobs)

    @property
    def kv_usage_ratio(self) -> float:
        """Share of KV blocks held, 0 to 1."""
        return self._twin.kv_usage_ratio

    @property
    def preemptions(self) -> int:
        """Preemptions so far."""
        return self._twin.preemptions

    @property
    def dead(self) -> bool:
        """Whether the engine failed as a whole."""
        return self._death is not None

    # --- faults, sleep ---

    def hang(self) -> None:
        """Stop stepping; what is in flight stays there, and gauges freeze as vLLM's do.

        A step under way never ends. An idle engine shows nothing at all: requests that come
        are seen by no scheduler, so only a probe or missing progress tells.
        """
        self._hung = True

    def die(self, cause: str) -> None:
        """Fail as a whole: what is in flight ends in errors, nothing new is taken."""
        self._death = cause
        self.abort_all(Finish.ERROR)

    def recover(self) -> None:
        """Undo `hang`, `die` and slowness."""
        self._hung, self._death, self.slow_factor = False, None, 1.0
        self._changed.set()

    def sleep(self, level: int) -> None:
        """Stop stepping, abort what is in flight, forget the KV cache."""
        self.sleep_level = level
        self.abort_all(Finish.ABORT)
        self._twin.forget_prefixes()

    async def wake_up(self) -> None:
        """Step again after `wake_up_s`; nothing happens when it is awake."""
        if self.sleep_level == 0:
            return
        await self._clock.sleep_until(self._clock.now_s() + self.options.wake_up_s)
        self.sleep_level = 0
        self._changed.set()

    # --- stepping ---

    async def run(self) -> None:
        """Step until cancelled."""
        while True:
            await self._step(await self._next_start())

    async def _next_start(self) -> float:
        """Wait for work; the nominal moment at which the next step begins."""
        while True:
            self._changed.clear()
            if self._stopped:
                await self._resumed()
            elif self._twin.busy:
                return self._anchored(self._free_s)
            elif (first := next(self._arrived(), None)) is None:
                await self._changed.wait()
            elif first.visible_s > self._clock.now_s():
                await self._clock.sleep_until(first.visible_s)
            else:
                return self._anchored(max(first.visible_s, self._free_s))

    async def _step(self, start_s: float) -> None:
        """Let a step begin, or else the oldest end."""
        self._free_s = start_s
        self._admit(start_s)
        begun = self._twin.begin(start_s, self.slow_factor)
        end_s = self._twin.next_end_s
        if begun is not None or end_s is None:
            return
        self._free_s = max(start_s, end_s)
        await self._clock.sleep_until(self._free_s)
        if self._stopped:
            await self._resumed()
        self._deliver(self._twin.end(self._free_s), self._free_s)

    @property
    def _stopped(self) -> bool:
        return self._hung or self.sleep_level > 0

    async def _resumed(self) -> None:
        """Wait until neither hung nor asleep; time starts afresh from there."""
        while self._stopped:
            self._changed.clear()
            await self._changed.wait()
        self._free_s = max(self._free_s, self._clock.now_s())

    def _anchored(self, start_s: float) -> float:
        late_s = self._clock.now_s() - start_s
        if late_s <= MAX_LATENESS_S:
            return start_s
        self.recorder.late += 1
        log.warning("behind real time by %.1f s: the host is overloaded; going on from now", late_s)
        return start_s + late_s

    def _arrived(self) -> Iterator[Job]:
        """Give jobs that the scheduler has not seen, the first visible first."""
        while self._arrivals and self._arrivals[0][2].finish is not None:
            heapq.heappop(self._arrivals)
        return (entry[2] for entry in self._arrivals if entry[2].finish is None)

    def _admit(self, start_s: float) -> None:
        """Put every request that is visible by now into the scheduler's queue."""
        while (job := next(self._arrived(), None)) is not None and job.visible_s <= start_s:
            heapq.heappop(self._arrivals)
            asked = job.generation
            hashes = self._hashes(asked) if self.limits.prefix_caching else ()
            self._twin.enqueue(
                job.number, job.visible_s, len(asked.prompt), asked.output_tokens, hashes=hashes
            )
            job.slot = self._twin.slot_of(job.number)

    def _deliver(self, emissions: list[Emission], now_s: float) -> None:
        gaps: dict[float, int] = {}
        prompt_tokens = 0
        for emission in emissions:
            job = self._jobs[emission.request]
            if emission.generated == 1:
                prompt_tokens += len(job.generation.prompt)
                job.hit_tokens = self._twin.hit_tokens(job.slot)
                self.recorder.first_token(job, now_s)
            else:
                gap_s = now_s - job.last_token_s
                gaps[gap_s] = gaps.get(gap_s, 0) + 1
            job.last_token_s = now_s
            if emission.finished:
                self._finish(job, emission.generated)
            else:
                job.advance(emission.generated)
        self.recorder.step(prompt_tokens, len(emissions), gaps)
        self._note_idle()

    def _finish(self, job: Job, generated: int) -> None:
        del self._jobs[job.number]
        finish = job.generation.finish
        job.advance(generated, finish)
        self.recorder.done(job, self._twin.lifetime(job.slot), finish)

    def _hashes(self, asked: Generation) -> list[int]:
        """Hash the blocks of a prompt and of its answer, which the next turn begins with."""
        places = range(asked.output_tokens - 1)  # the last token has no KV
        said = [asked.answer.word(place).strip().encode() for place in places]
        return block_hashes([*asked.prompt, *said], self.limits.block_size)

    def _note_idle(self) -> None:
        if not self._jobs:
            self._idle.set()
