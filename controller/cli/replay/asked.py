"""What `whaleflux replay` is asked: requests, a replica, and counts, from the options."""

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import numpy as np
from numpy.typing import NDArray

from controller.cli.options import find_profile
from controller.clock import wall_s
from controller.replay.counted import Counted
from controller.replay.history import rebuilt
from controller.replay.served import Served
from controller.traffic import history_from_prometheus
from monitor import Prometheus
from profiler.configuration import Configuration
from profiler.errors import MissesObjective, Refused
from profiler.profile import EngineProfile
from profiler.slo import Slo
from profiler.trace import Trace, read_trace
from recommender import Offer, Pins, Workload, recommend, workload_from_trace

_LEAST_STEP_S, _INTERVALS = 15.0, 5760
"""Of the time that Prometheus is asked about: a day of the shortest."""
_BUSY_S = (60.0, 600.0)
"""Load is looked at over the trace's length, but not over less or more than this."""
_ROOM, _LEAST_ROOM = 2, 4
_BLOCK_TOKENS = 1024
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Source:
    """Where requests come from: a file, or a Prometheus."""

    trace: Path | None
    prometheus: str | None
    match: Mapping[str, str]
    since: str
    until: str | None
    step_s: float | None
    token_file: Path | None
    rate_factor: float
    seed: int


@dataclass(frozen=True, slots=True)
class Load:
    """Requests, and how people call them."""

    name: str
    trace: Trace
    history: Counted | None = None
    notes: tuple[str, ...] = ()


def read_load(source: Source) -> Load:
    """Read the requests, or rebuild them."""
    if (source.trace is None) == (source.prometheus is None):
        raise Refused("give a TRACE or --prometheus URL, and not both")
    if source.trace is not None:
        trace = read_trace(source.trace).compressed(source.rate_factor)
        return Load(source.trace.name, trace)
    counted, notes = asyncio.run(_counted(source))
    trace = rebuilt(counted, source.seed).compressed(source.rate_factor)
    begun = datetime.fromtimestamp(counted.begin_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    name = f"{counted.known_s / 3600:.3g} h of history from {begun}"
    return Load(name, trace, counted if source.rate_factor == 1.0 else None, notes)


async def _counted(source: Source) -> tuple[Counted, tuple[str, ...]]:
    now_s = wall_s()
    since_s = moment_s("--since", source.since, now_s)
    until_s = now_s if source.until is None else moment_s("--until", source.until, now_s)
    if not since_s < until_s:
        raise Refused(f"--since {source.since}: lies after the end: give an earlier moment")
    step_s = source.step_s or max(_LEAST_STEP_S, (until_s - since_s) / _INTERVALS)
    async with aiohttp.ClientSession() as http:
        server = Prometheus(http, str(source.prometheus), source.token_file)
        return await history_from_prometheus(server, source.match, since_s, until_s, step_s)


def moment_s(option: str, text: str, now_s: float) -> float:
    """Read a moment: `6h` ago, or a time in ISO 8601, in UTC where it does not say."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now_s - float(ago[1]) * _UNITS_S[ago[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            f"{option} {text}: give how long ago, such as 6h, or a time such as 2026-11-03T08:00"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def configured(
    model: str | None, gpu: str, document: str | None, pins: Pins, trace: Trace, slo: Slo
) -> tuple[EngineProfile, Configuration]:
    """Choose a replica: what is not pinned is searched, as for a plan.

    With a profile's document, or where no layout keeps the objective, the engine's defaults
    stand, with a context that holds the longest request.
    """
    if model is None and document is None:
        raise Refused("give --model, or --profile")
    if document is None:
        try:
            best = recommend(str(model), (Offer(gpu),), _workload(trace), slo, pins).best
        except MissesObjective:
            pass
        else:
            return best.profile, best.configuration
    plain = pins.with_defaults()
    profile = find_profile(model or "", gpu, document, plain)
    if plain.max_model_len is None:
        context = min(_context(trace), profile.max_model_len)
        plain = replace(plain, max_model_len=context)
    return profile, plain


def _workload(trace: Trace) -> Workload:
    """Its lengths alone where all came at once."""
    if trace.duration_s > trace.arrival_s[0]:
        return workload_from_trace(trace)
    outputs = np.maximum(trace.output_tokens, 1)
    return Workload(rate_rps=1.0, cv=1.0, input_tokens=trace.input_tokens, output_tokens=outputs)


def _context(trace: Trace) -> int:
    longest = float((trace.input_tokens + trace.output_tokens).max(initial=1))
    return math.ceil(longest / _BLOCK_TOKENS) * _BLOCK_TOKENS


def needed(trace: Trace, served: Served) -> NDArray[np.float64]:
    """[stretches] replicas that the load of each stretch of the trace needs on average."""
    stretch_s = float(np.clip(trace.duration_s, *_BUSY_S))
    came = np.bincount((trace.arrival_s // stretch_s).astype(np.int64))
    return came / stretch_s / served.capacity.rate_rps


def first_replicas(load: Load, served: Served) -> int:
    """As many as there were, or as the first minutes need."""
    if load.history is not None:
        return max(int(load.history.engines[load.history.known][0]), 1)
    return max(math.ceil(float(needed(load.trace, served)[0]) - 1e-9), 1)


def most_replicas(load: Load, served: Served, least: int) -> int:
    """Twice what the busiest minutes need; no less than `least`."""
    busiest = math.ceil(_ROOM * float(needed(load.trace, served).max()))
    return max(busiest, _LEAST_ROOM, least)
