"""A real vLLM under the local runtime: what the emulator promises, held against the original.

The tests run in this order on one plane, as a start takes a minute: serve, publish, scale
out, scale in, lose a replica. Each brings the plane to where it needs it, so one alone
passes too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import AsyncExitStack, chdir
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio

from controller.decide import Admit, Drain, Reason, Start
from controller.decide.stabilise import scale_in_window_s
from controller.engine_command import SHUTDOWN_TIMEOUT_S
from controller.observation import Phase, ReplicaId
from controller.plane import LocalPlane, local_plane, running
from controller.runtimes.processes import free_port
from e2e.real_engine.families import Member, family_listening_on, survivors
from e2e.real_engine.install import REPOSITORY, installed
from e2e.real_engine.load import at_once, in_flight, steady
from e2e.real_engine.services import (
    example,
    make_model,
    only_loop,
    replicas,
    running_on,
    target,
)
from e2e.real_engine.wait import eventually
from monitor import EngineSignals, read_signals
from profiler.measure import Status, open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from controller.decide import Action, Decision
    from controller.observation import Replica

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not installed(), reason="no vLLM in build/vllm: run python -m e2e.real_engine.install"
    ),
]

START_S = 240.0
"""A start takes 40 to 75 s; two that share a slow machine with load take longer."""
SCALE_IN_MARGIN_S = 60.0
"""To forget the last request of the load before, and for decisions on a slow machine."""
DRAINED_S = SHUTDOWN_TIMEOUT_S + 10.0
"""The requests in flight, then the engine's own end; SIGKILL would come 20 s later."""
ANSWER_TOKENS = 12
SEQUENCES = 8
"""The example's maxNumSeqs."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalPlane]:
    """The example, running; at its end no process of any engine is left."""
    families: set[Member] = set()
    with chdir(REPOSITORY):
        make_model()
        async with AsyncExitStack() as stack:
            logs = tmp_path_factory.mktemp("logs")
            plane = await stack.enter_async_context(local_plane(example(), free_port(), logs))
            await stack.enter_async_context(running(plane))
            yield plane
            for replica in replicas(plane, *Phase):
                families |= family_of(replica)
    assert families
    await eventually(lambda: not survivors(frozenset(families)), 10, "engines end with the plane")


def family_of(replica: Replica) -> frozenset[Member]:
    return family_listening_on(urlsplit(replica.url or "").port or 0)


def ids(plane: LocalPlane) -> list[str]:
    return [replica.id for replica in replicas(plane, *Phase)]


def actions(plane: LocalPlane) -> list[Action]:
    return [a for logged in only_loop(plane).decisions for a in logged.decision.actions]


def serving(plane: LocalPlane, count: int) -> list[Replica]:
    found = replicas(plane, Phase.SERVING)
    return found if len(found) == count else []


async def one_serving(plane: LocalPlane) -> Replica:
    found = await eventually(lambda: replicas(plane, Phase.SERVING), START_S, "a replica serves")
    return found[0]


async def two_serving(plane: LocalPlane, seed: int) -> list[Replica]:
    """Load the service until two replicas serve it; no request of that load may fail."""
    await one_serving(plane)
    if found := serving(plane, 2):
        return found
    capacity_rps = only_loop(plane).service.capacity.rate_rps

    def rate_rps() -> float:
        """Too much for one replica; once a second starts, enough to need it still."""
        ratio = 1.1 if len(replicas(plane, *Phase)) < 2 else 0.85
        return ratio * capacity_rps

    async with steady(target(plane, seed), rate_rps, 64, 64) as outcomes:
        found = await eventually(lambda: serving(plane, 2), START_S, "two replicas serve")
        await eventually(
            lambda: all(running_on(plane, replica)[0] for replica in found), 30, "both get requests"
        )
    assert [o.error for o in outcomes if o.status is not Status.OK] == []
    return found


def longest_start_s(plane: LocalPlane) -> float:
    """The longest start so far, which the plane may take for the next one's."""
    ready = [(r.created_s, r.ready_s) for r in replicas(plane, Phase.SERVING)]
    starts_s = [ready_s - created_s for created_s, ready_s in ready if ready_s is not None]
    return max(starts_s + [d.decision.numbers.lead_s for d in only_loop(plane).decisions])


async def ask(plane: LocalPlane, path: str, **fields: Any) -> dict[str, Any]:
    """One request to the router, streamed or not; its answer's usage and choices."""
    where = target(plane, 0)
    body = {"model": where.model, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, **fields}
    if fields.get("stream"):
        body["stream_options"] = {"include_usage": True}
    async with open_session() as http, http.post(f"{where.base_url}{path}", json=body) as answer:
        assert answer.status == 200, await answer.text()
        if not fields.get("stream"):
            whole: dict[str, Any] = await answer.json()
            return whole
        assert answer.content_type == "text/event-stream"
        return _joined([line async for line in answer.content])


def _joined(lines: list[bytes]) -> dict[str, Any]:
    """A stream's usage, and its choices one after the other."""
    events = [line[6:].strip() for line in lines if line.startswith(b"data: ")]
    assert events.pop() == b"[DONE]"
    documents = [json.loads(event) for event in events]
    usage = documents[-1]["usage"]
    return {"usage": usage, "choices": [c for d in documents for c in d["choices"]]}


def after_failure(plane: LocalPlane) -> Decision | None:
    """The first decision that knew of a failed replica."""
    made = [logged.decision for logged in only_loop(plane).decisions]
    return next((d for d in made if Reason.REPLICA_FAILED in d.reasons), None)


async def signals_of(replica: Replica) -> tuple[EngineSignals, str]:
    async with aiohttp.ClientSession() as http, http.get(f"{replica.url}/metrics") as answer:
        page = await answer.read()
    return read_signals(page), page.decode()


async def test_a_replica_comes_up_as_a_standby_and_is_admitted(plane: LocalPlane) -> None:
    replica = await one_serving(plane)
    assert actions(plane)[:2] == [Start(1), Admit(replica.id)]
    assert replica.ready_s is not None
    assert len(family_of(replica)) > 2  # the API server, the engine core, a worker


@pytest.mark.parametrize("stream", [False, True])
async def test_the_router_serves_completions(plane: LocalPlane, stream: bool) -> None:
    await one_serving(plane)
    prompt = list(range(400, 420))
    answer = await ask(plane, "/v1/completions", prompt=prompt, stream=stream)
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert answer["usage"]["completion_tokens"] == ANSWER_TOKENS
    assert answer["choices"][-1]["finish_reason"] == "length"


async def test_the_router_serves_chats_streamed_and_whole(plane: LocalPlane) -> None:
    await one_serving(plane)
    messages = [{"role": "user", "content": "import asyncio"}]
    path = "/v1/chat/completions"
    whole = await ask(plane, path, messages=messages, temperature=0)
    streamed = await ask(plane, path, messages=messages, temperature=0, stream=True)
    assert whole["usage"]["completion_tokens"] == ANSWER_TOKENS
    assert whole["usage"]["prompt_tokens"] > 4
    assert streamed["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert streamed["usage"]["completion_tokens"] == ANSWER_TOKENS
    text = "".join(c["delta"].get("content") or "" for c in streamed["choices"])
    assert text == whole["choices"][0]["message"]["content"]


async def test_its_metrics_have_every_signal_that_vllm_publishes(plane: LocalPlane) -> None:
    signals, page = await signals_of(await one_serving(plane))
    assert signals.engine == "vllm"
    assert signals.model == "noise"
    assert signals.malformed == 0
    assert signals.absent == ("max_num_seqs",)  # no vLLM says it
    on_page = re.search(r'kv_cache_size_tokens="(\d+)"', page)
    assert on_page is not None
    assert signals.kv_capacity_tokens == float(on_page[1])


async def test_the_profile_predicts_the_kv_cache(plane: LocalPlane) -> None:
    signals, _ = await signals_of(await one_serving(plane))
    service = only_loop(plane).service
    limits = service.profile.limits(service.configuration)
    assert signals.kv_capacity_tokens == limits.num_blocks * limits.block_size


async def test_its_histograms_grow_with_requests(plane: LocalPlane) -> None:
    replica = await one_serving(plane)
    before, _ = await signals_of(replica)
    async with open_session() as http:
        outcomes = await asyncio.gather(*at_once(http, target(plane, 1), 3, 20, 10))
    assert [o.status for o in outcomes] == [Status.OK] * 3
    after, _ = await signals_of(replica)
    grown = {
        name: getattr(after, name).count - getattr(before, name).count
        for name in ("ttft", "itl", "tpot", "e2e", "queue_time", "prompt_length")
    }
    probes = grown["ttft"] - 3  # the detector's own, of one token: of an idle engine every 30 s
    assert probes in (0, 1)
    assert grown == {**dict.fromkeys(grown, 3 + probes), "itl": 27}
    made_tokens = 30 + probes
    assert after.generation_tokens_total == (before.generation_tokens_total or 0) + made_tokens


async def test_load_above_one_replica_starts_a_second(plane: LocalPlane) -> None:
    await two_serving(plane, seed=2)
    rises = [d.decision for d in only_loop(plane).decisions if Start(1) in d.decision.actions]
    assert rises[-1].serving == 2
    assert {Reason.DEMAND_RISING, Reason.BACKLOG, Reason.SLO_MISSED} & set(rises[-1].reasons)


async def test_falling_load_drains_the_surplus_replica_and_loses_nothing(
    plane: LocalPlane,
) -> None:
    await two_serving(plane, seed=5)
    families: dict[ReplicaId, frozenset[Member]] = {}
    busy: set[ReplicaId] = set()

    def draining() -> list[Replica]:
        now = replicas(plane, Phase.SERVING)
        families.update((r.id, family_of(r)) for r in now if r.id not in families)
        busy.update(r.id for r in now if running_on(plane, r)[0] >= 1)
        return replicas(plane, Phase.DRAINING)

    def told() -> list[str]:
        return [d.decision.message for d in only_loop(plane).decisions]

    scale_in_s = scale_in_window_s(longest_start_s(plane), 5.0) + SCALE_IN_MARGIN_S
    async with in_flight(target(plane, 6), 4, 64, 240) as outcomes:
        [surplus] = await eventually(draining, scale_in_s, "the surplus replica drains", told)
        kept = replicas(plane, Phase.SERVING)
        assert all(r.created_s < surplus.created_s for r in kept), told()  # the youngest goes
        assert Drain(surplus.id) in actions(plane)
        assert surplus.id in busy
        family = families[surplus.id]
        await eventually(lambda: not survivors(family), DRAINED_S, "it ends by SIGTERM, in time")
        await eventually(lambda: surplus.id not in ids(plane), 5, "the runtime forgets it")
    assert len(outcomes) > 6
    assert [o.error for o in outcomes if o.status is not Status.OK] == []


async def test_streams_that_wait_on_a_killed_replica_are_answered_by_the_other(
    plane: LocalPlane,
) -> None:
    _, victim = await two_serving(plane, seed=3)
    service = only_loop(plane).service
    gone = family_of(victim)
    async with open_session() as http:
        streams = at_once(http, target(plane, 4), 4 * SEQUENCES, 32, 120)
        await eventually(lambda: all(running_on(plane, victim)), 30, "the victim runs and queues")
        plane.runtime.kill(service.id, victim.id)
        outcomes = await asyncio.gather(*streams)
    assert [o.error for o in outcomes if o.status in (Status.ERROR, Status.TIMEOUT)] == []
    cut = sum(o.status is Status.CUT for o in outcomes)
    assert cut <= SEQUENCES  # only what had begun to stream
    await eventually(lambda: not survivors(gone), 10, "no process of the killed replica is left")
    failed = [d.decision for d in only_loop(plane).decisions if Start(1) in d.decision.actions]
    assert Reason.REPLICA_FAILED in failed[-1].reasons


async def test_an_engine_that_dies_at_its_start_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="controller.runtimes.local")
    missing = tmp_path / "no-such-model"
    with chdir(REPOSITORY):
        async with local_plane(example(missing), free_port(), tmp_path) as plane, running(plane):
            failures = await eventually(lambda: caplog.messages, START_S, "the engine fails")
            decision = await eventually(lambda: after_failure(plane), 5, "the loop sees it")
    assert Reason.BACKING_OFF in decision.reasons
    assert Start(1) not in decision.actions
    assert "exited with 1" in failures[0]
    assert str(missing) in failures[0]
    assert "\n" not in failures[0]
