"""Drive one point: send its requests, and turn what came back into measurements.

Fresh prompts every time, except for the prefix of a point about cached prefixes. Steps are
timed by the engine's own histograms where it publishes them, read before and after; by the
arrival of tokens where it does not. It never retries: an engine that fails stops the
profile.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from profiler.calibrate import Measurement, Steps
from profiler.errors import RetryLater
from profiler.measure.client import Target
from profiler.measure.profiling.bounds import Bounds
from profiler.measure.profiling.fit import Measured
from profiler.measure.profiling.phases import Phases, ReadPhases, Total
from profiler.measure.profiling.points import (
    FLOOR_RATIO,
    INJECTIONS,
    REPEATS,
    WINDOW_STEPS,
    WINDOWS,
    Decode,
    Mixed,
    Point,
    Prefill,
    decode_shape,
    mixed_shape,
    prefill_shape,
)
from profiler.measure.profiling.stream import Prompt, Stream, follow, joined

_GOOD_RATIO = 0.01
"""A standard error below this is small: repeating further would not show."""
_POLL_S = 0.05
_IDLE_POLLS = 200
_STUCK_STEPS = 64
"""So many steps without another stream beginning: the batch is full."""
_COUNT_POLLS = 20
_NOT_OURS = (
    "that are not the profile's: profile an idle replica, or measure beside them with --share"
)


class EngineFailed(RetryLater):
    """The engine failed while a point was measured; what is in the journal stays."""


class EngineBusy(RetryLater):
    """Somebody else's requests are in the engine."""


class PointMissed(EngineFailed):
    """A batch ended before anything was measured: a slow host, or no `ignore_eos`."""


class BatchFull(Exception):
    """The engine runs fewer sequences at once than the point asks for."""

    def __init__(self, running: int) -> None:
        super().__init__(f"{running} sequences run at once")
        self.running = running


@dataclass(frozen=True, slots=True)
class _Mark:
    """A look at a running batch."""

    phases: Phases | None
    tokens: tuple[int, ...]
    """Tokens of each stream so far."""


@dataclass(slots=True)
class _Batch:
    """Streams that run together."""

    streams: list[Stream]
    changed: asyncio.Event
    group: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def fewest(self) -> int:
        """Tokens of the stream that has fewest."""
        return min(len(s.token_s) for s in self.streams)

    @property
    def most(self) -> int:
        """Tokens of the stream that has most."""
        return max(len(s.token_s) for s in self.streams)

    def room(self, steps: int) -> bool:
        """Whether no stream comes to its end within so many steps."""
        return all(len(s.token_s) + steps < s.max_tokens - 2 for s in self.streams)

    def whole(self) -> bool:
        """Whether all streams still run; raises `EngineFailed` for one that broke off."""
        for stream in self.streams:
            if stream.error is not None:
                raise EngineFailed(f"a stream of a batch broke off: {stream.error}")
        return not any(stream.ended for stream in self.streams)


@dataclass(slots=True)
class Driver:
    """Drives points against one engine."""

    session: aiohttp.ClientSession
    target: Target
    now_s: Callable[[], float]
    """Clock of the event loop; every moment is on it."""
    read_phases: ReadPhases
    bounds: Bounds
    window_tokens: int
    shared: bool = False
    """Whether other people's requests are put up with."""
    idle_polls: int = _IDLE_POLLS
    """Looks at an engine that is not idle before it counts as busy: streams that were cut
    take a moment to leave."""
    _prompts: int = 0

    async def measure(self, point: Point) -> Measured:
        """Measure one point on an idle engine.

        Raises `EngineBusy`, `EngineFailed`, or `BatchFull` where it cannot hold the point.
        """
        await self.until_idle()
        match point:
            case Prefill():
                found = await self._prefill(point)
            case Decode():
                found = await self._decode(point)
            case Mixed():
                found = await self._mixed(point)
        return Measured(point, tuple(found))

    async def until_idle(self) -> None:
        """Wait for our own cut streams to leave; `EngineBusy` when something stays."""
        for _ in range(self.idle_polls):
            phases = await self.read_phases()
            left = 0.0 if phases is None else phases.in_flight or 0.0
            if left == 0.0 or self.shared:
                return
            await asyncio.sleep(_POLL_S)
        raise EngineBusy(f"the engine is busy with {left:.0f} requests {_NOT_OURS}")

    # --- lone prefills ---

    async def _prefill(self, point: Prefill) -> list[Measurement]:
        prefix = self._fresh()
        if point.cached:
            await self._lone(joined(self.target.prompt_kind, self.target.seed,
                                    ((prefix, point.cached),)))  # fmt: skip
        prefills: list[float] = []
        ttfts: list[float] = []
        cached: list[float] = []
        for i in range(REPEATS[1] + 1):
            parts = ((prefix, point.cached), (self._fresh(), point.tokens))
            prompt = joined(self.target.prompt_kind, self.target.seed, parts)
            before = await self.read_phases()
            stream = await self._lone(prompt)
            if i == 0:  # kernels and connections settle
                continue
            after = await self._counted(before)
            ttfts.append(stream.ttft_s)
            if (spent := _added(before, after, "prefill")) is not None and spent.count == 1:
                prefills.append(spent.total)
            cached.append(_hit_tokens(before, after, point))
            if i >= REPEATS[0] and _standard_error(prefills or ttfts) < _GOOD_RATIO:
                break
        hit = round(float(np.median(cached)))
        shape = prefill_shape(point.tokens + point.cached - hit, hit, self.window_tokens)
        return _prefill_measurements(point, Steps(shape), prefills, ttfts)

    async def _lone(self, prompt: Prompt) -> Stream:
        """One prompt, one token of answer."""
        stream = Stream(prompt, 1)
        await follow(self.session, self.target, stream, self.now_s, asyncio.Event())
        if stream.error is not None or not stream.token_s:
            said = stream.error or "it answered without a token"
            raise EngineFailed(f"a lone prompt of {len(prompt)} failed: {said}")
        return stream

    async def _counted(self, before: Phases | None) -> Phases | None:
        """Look again; the engine counts a request a moment after its last token is sent."""
        after = await self.read_phases()
        for _ in range(_COUNT_POLLS):
            if before is None or before.prefill is None or _added(before, after, "prefill"):
                break
            await asyncio.sleep(0.005)
            after = await self.read_phases()
        return after

    # --- batches ---

    async def _decode(self, point: Decode) -> list[Measurement]:
        async with self._batch(point.sequences, point.context) as batch:
            windows: list[tuple[float, float]] = []  # seconds of a step, tokens it saw
            before = await self._mark(batch)
            while len(windows) < WINDOWS[1] and (not windows or batch.room(WINDOW_STEPS + 4)):
                if not await self._steps(batch, WINDOW_STEPS):
                    break
                after = await self._mark(batch)
                windows.append((_gap_s(batch, before, after), _context(before, after)))
                before = after
                steps_s = [s for s, _ in windows]
                if len(windows) >= WINDOWS[0] and _standard_error(steps_s) < _GOOD_RATIO:
                    break
        _require(bool(windows))
        context = point.context + float(np.mean([tokens for _, tokens in windows]))
        shape = decode_shape(point.sequences, context, self.window_tokens)
        steps_s = [s for s, _ in windows]
        return [_measurement(point.name, (Steps(shape),), steps_s, 0.0)]

    async def _mixed(self, point: Mixed) -> list[Measurement]:
        async with self._batch(point.sequences, point.context) as batch:
            first = before = await self._mark(batch)
            gaps = 0.0
            injected = 0
            seconds = 0.0
            while injected < WINDOWS[0] * INJECTIONS and (not injected or batch.room(injected)):
                for _ in range(INJECTIONS):
                    await self._steps(batch, 1)
                    await self._lone(self._prompt(point.tokens))
                if not await self._steps(batch, 1):
                    break
                after = await self._mark(batch)
                steps = _gap_count(batch, before, after) / point.sequences
                seconds += _gap_s(batch, before, after) * steps
                injected += INJECTIONS
                gaps += steps
                before = after
        _require(injected > 0)
        context = point.context + _context(first, before)
        mixed = mixed_shape(point.sequences, context, point.tokens, self.window_tokens)
        decode = decode_shape(point.sequences, context, self.window_tokens)
        kept = (Steps(mixed, injected), Steps(decode, max(gaps - injected, 0.0)))
        return [Measurement(point.name, kept, seconds, 0.0, 1.5 * FLOOR_RATIO)]

    @asynccontextmanager
    async def _batch(self, sequences: int, context: int) -> AsyncIterator[_Batch]:
        """Streams that all decode, and that are cut when the block ends."""
        length = self.bounds.stream_tokens(sequences, context)
        streams = [Stream(self._prompt(context), length) for _ in range(sequences)]
        batch = _Batch(streams, asyncio.Event())
        batch.group = [
            asyncio.create_task(follow(self.session, self.target, s, self.now_s, batch.changed))
            for s in streams
        ]
        try:
            await self._begun(batch)
            yield batch
        finally:
            for task in batch.group:
                task.cancel()
            await asyncio.gather(*batch.group, return_exceptions=True)

    async def _begun(self, batch: _Batch) -> None:
        """Wait until every stream has two tokens: from then on no step prefills."""
        begun, at_step = 0, 0
        while batch.fewest < 2:
            _require(batch.whole())
            now, step = sum(bool(s.token_s) for s in batch.streams), batch.most
            if now > begun:
                begun, at_step = now, step
            if begun < len(batch.streams) and step - at_step >= _STUCK_STEPS:
                raise BatchFull(begun)
            await batch.changed.wait()
            batch.changed.clear()

    async def _steps(self, batch: _Batch, steps: int) -> bool:
        """Wait until every stream has so many tokens more; False when one came to its end."""
        wanted = [len(s.token_s) + steps for s in batch.streams]
        while any(len(s.token_s) < n for s, n in zip(batch.streams, wanted, strict=True)):
            if not batch.whole():
                return False
            await batch.changed.wait()
            batch.changed.clear()
        return batch.whole()

    async def _mark(self, batch: _Batch) -> _Mark:
        phases = await self.read_phases()
        left = None if phases is None else phases.in_flight
        if left is not None and left > len(batch.streams) and not self.shared:
            others = left - len(batch.streams)
            raise EngineBusy(f"the engine became busy with {others:.0f} requests {_NOT_OURS}")
        return _Mark(phases, tuple(len(s.token_s) for s in batch.streams))

    # --- prompts ---

    def _fresh(self) -> int:
        self._prompts += 1
        return self._prompts

    def _prompt(self, tokens: int) -> Prompt:
        return joined(self.target.prompt_kind, self.target.seed, ((self._fresh(), tokens),))


def _require(measured: bool) -> None:
    if not measured:
        raise PointMissed(
            "a stream ended before anything was measured: does the engine know ignore_eos?"
        )


def _added(before: Phases | None, after: Phases | None, name: str) -> Total | None:
    if before is None or after is None:
        return None
    now: Total | None = getattr(after, name)
    return None if now is None else now.since(getattr(before, name))


def _hit_tokens(before: Phases | None, after: Phases | None, point: Prefill) -> float:
    """Tokens found in the prefix cache: as the engine counts them, or else as planned."""
    if before is None or after is None:
        return float(point.cached)
    if before.cached_tokens is None or after.cached_tokens is None:
        return float(point.cached)
    return min(after.cached_tokens - before.cached_tokens, point.cached + point.tokens - 1.0)


def _gap_s(batch: _Batch, before: _Mark, after: _Mark) -> float:
    """Mean gap between the tokens of a stream from one look to the next."""
    told = _added(before.phases, after.phases, "itl")
    if told is not None:
        return told.mean
    gaps = [
        (s.token_s[last - 1] - s.token_s[first - 1]) / (last - first)
        for s, first, last in zip(batch.streams, before.tokens, after.tokens, strict=True)
        if last > first
    ]
    return float(np.mean(gaps))


def _gap_count(batch: _Batch, before: _Mark, after: _Mark) -> float:
    told = _added(before.phases, after.phases, "itl")
    return told.count if told is not None else float(sum(after.tokens) - sum(before.tokens))


def _context(before: _Mark, after: _Mark) -> float:
    """Tokens that a step between the looks saw beyond the prompt, mean over steps."""
    return float(np.mean(before.tokens) + np.mean(after.tokens)) / 2


def _standard_error(values: Sequence[float]) -> float:
    """Relative standard error of the median, robust; infinite for fewer than two values."""
    if len(values) < 2:
        return float("inf")
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(np.array(values) - middle)))
    return 1.2533 * spread / len(values) ** 0.5 / middle if middle > 0 else float("inf")


def _measurement(
    name: str, steps: tuple[Steps, ...], seconds: Sequence[float], requests: float
) -> Measurement:
    """The median of the repeats, with its standard error on top of the formula's own."""
    error = min(_standard_error(seconds), 1.0) if len(seconds) > 1 else 0.1
    total = float(np.hypot(FLOOR_RATIO, error))
    return Measurement(name, steps, float(np.median(seconds)), requests, total)


def _prefill_measurements(
    point: Prefill, step: Steps, prefills: Sequence[float], ttfts: Sequence[float]
) -> list[Measurement]:
    found = [_measurement(f"TTFT of {point.name}", (step,), ttfts, 1.0)]
    if prefills:
        found.insert(0, _measurement(point.name, (step,), prefills, 0.0))
    return found
