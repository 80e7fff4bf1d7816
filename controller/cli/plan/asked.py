"""What `whaleflux plan` is asked: GPU offers, traffic, and what runs now, from the options."""

import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from pydantic import ValidationError

from controller.api import parse_service
from controller.api.status import LLMServiceStatus
from controller.clock import monotonic_s, wall_s
from controller.configure import InForce, pins_of
from controller.operator.status import in_force
from controller.traffic import traffic_from_engine, traffic_from_prometheus
from monitor import Prometheus
from profiler.errors import Refused
from profiler.trace import read_trace
from recommender import Offer, Workload, workload_from_hints, workload_from_trace

_POLL_S = 1.0
_INTERVALS, _LEAST_STEP_S, _MOST_STEP_S = 240, 15.0, 300.0
"""Of the window that Prometheus is asked about: short enough to show bursts."""
_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Traffic:
    """Where the workload is read from; the first that is given."""

    trace: Path | None
    prometheus: str | None
    match: Mapping[str, str]
    window_s: float
    token_file: Path | None
    engine: str | None
    seconds: float
    rate: float | None
    lengths: tuple[float, float]
    """Hinted means of prompts and answers."""
    cv: float
    hit_percent: float

    @property
    def seen(self) -> bool:
        """Whether it is read off something, rather than hinted."""
        return any(x is not None for x in (self.trace, self.prometheus, self.engine))


def read_offers(given: Sequence[str], node_gpus: int) -> tuple[Offer, ...]:
    """Read `NAME` or `NAME=PRICE` per GPU type; prices for all or for none."""
    offers, priced = [], []
    for text in given:
        name, equals, price = text.partition("=")
        priced.append(bool(equals))
        offers.append(Offer(name, _price(text, price) if equals else 1.0, node_gpus))
    if any(priced) and not all(priced):
        without = next(o.gpu for o, has in zip(offers, priced, strict=True) if not has)
        raise Refused(f"--gpu {without}: give its price too, as {without}=PRICE, or none at all")
    names = [offer.gpu for offer in offers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Refused(f"--gpu {twice}: is given twice")
    return tuple(offers)


def _price(text: str, price: str) -> float:
    try:
        return float(price)
    except ValueError:
        raise Refused(f"--gpu {text}: the price an hour must be a number") from None


def read_workload(traffic: Traffic) -> tuple[Workload, tuple[str, ...]]:
    """Read the workload, with notes on what was missing; `--rate` overrides what was seen."""
    found, notes = _seen(traffic)
    if found is None:
        rate = 1.0 if traffic.rate is None else traffic.rate
        hit_ratio = traffic.hit_percent / 100
        return workload_from_hints(rate, *traffic.lengths, traffic.cv, hit_ratio), notes
    if traffic.rate is None:
        return found, notes
    if not 0 < traffic.rate < float("inf"):
        raise Refused(f"--rate must be a positive number, got {traffic.rate}")
    return found.at_rate(traffic.rate), notes


def _seen(traffic: Traffic) -> tuple[Workload | None, tuple[str, ...]]:
    if traffic.trace is not None:
        return workload_from_trace(read_trace(traffic.trace)), ()
    if traffic.prometheus is not None or traffic.engine is not None:
        return asyncio.run(_live(traffic))
    return None, ()


async def _live(traffic: Traffic) -> tuple[Workload, tuple[str, ...]]:
    async with aiohttp.ClientSession() as http:
        if traffic.prometheus is not None:
            server = Prometheus(http, traffic.prometheus, traffic.token_file)
            step_s = min(max(traffic.window_s / _INTERVALS, _LEAST_STEP_S), _MOST_STEP_S)
            return await traffic_from_prometheus(
                server, traffic.match, traffic.window_s, wall_s(), step_s
            )
        assert traffic.engine is not None  # noqa: S101
        return await traffic_from_engine(
            http, traffic.engine, traffic.seconds, _POLL_S, monotonic_s
        )


def read_matchers(given: Iterable[str]) -> dict[str, str]:
    """Read `LABEL=VALUE` pairs."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Refused(f"--match {text}: give it as LABEL=VALUE")
        found[name] = value
    return found


def read_running(source: str) -> InForce:
    """Read what runs now: an LLMService with its status, from a file or `-`.

    As `kubectl get llms NAME -o yaml` prints it; a manifest without status must pin what runs.
    """
    document = _document(source)
    try:
        status = LLMServiceStatus.model_validate(document.get("status") or {})
    except ValidationError:
        status = LLMServiceStatus()
    found = in_force(status)
    return found if found is not None else _pinned(document, source)


def _document(source: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read(_LIMIT_BYTES) if source == "-" else Path(source).read_text("utf-8")
        document = yaml.safe_load(text)
    except OSError as error:
        raise Refused(f"--compare: cannot read {source}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"--compare: {source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise Refused(f"--compare: {source} holds no LLMService")
    return document


def _pinned(document: dict[str, Any], source: str) -> InForce:
    """Take the options that a manifest pins, and the engine's defaults for the rest."""
    spec = parse_service(document, f"--compare {source}").spec
    gpu = spec.placement.gpu
    if gpu is None:
        raise Refused(f"--compare {source}: spec.placement.gpu: name the GPU type that runs now")
    return InForce(gpu, pins_of(spec.engine).with_defaults())
