"""What every runtime does; the same suite on the fake and on local processes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from controller.observation import Phase, ReplicaId
from tests.controller.runtimes.rigs import Rig, a_fake_rig, a_local_rig, phases, the_one, until

NOBODY = ReplicaId("nobody")


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["fake", "local"])
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rig]:
    """One router for all tests: only replicas are started anew."""
    if request.param == "fake":
        async with a_fake_rig() as fake:
            yield fake
    else:
        async with a_local_rig(tmp_path_factory.mktemp("logs")) as local:
            yield local


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: Rig) -> AsyncIterator[Rig]:
    yield shared
    for replica in shared.runtime.replicas(shared.service.id):
        await shared.runtime.remove(shared.service, replica.id)


async def is_routed(rig: Rig, count: int) -> bool:
    return await rig.routed() in (count, None)


async def test_a_replica_is_born_a_standby_and_serves_between_admit_and_withdraw(
    rig: Rig,
) -> None:
    runtime, service = rig.runtime, rig.service
    assert runtime.replicas(service.id) == ()
    await runtime.start(service, 1)
    assert phases(rig) == [Phase.STARTING]
    assert the_one(rig).ready_s is None
    await runtime.admit(service, the_one(rig).id)  # not ready: nothing to admit
    assert phases(rig) == [Phase.STARTING]
    await rig.get_ready()
    born = the_one(rig)
    assert (born.phase, born.stale, born.message) == (Phase.STANDBY, False, "")
    assert born.ready_s is not None
    assert born.ready_s >= born.created_s
    assert await is_routed(rig, 0)
    for _ in range(2):  # every verb is idempotent
        await runtime.admit(service, born.id)
        assert phases(rig) == [Phase.SERVING]
        assert await is_routed(rig, 1)
    for _ in range(2):
        await runtime.withdraw(service, born.id)
        assert phases(rig) == [Phase.STANDBY]
        assert await is_routed(rig, 0)


async def test_draining_ends_and_removing_ends_at_once(rig: Rig) -> None:
    runtime, service = rig.runtime, rig.service
    await runtime.start(service, 3)
    await rig.get_ready()
    serving, standby, removed = runtime.replicas(service.id)
    await runtime.admit(service, serving.id)
    await runtime.admit(service, removed.id)
    for _ in range(2):
        await runtime.drain(service, serving.id)
        await runtime.drain(service, standby.id)
        await runtime.remove(service, removed.id)
    assert phases(rig) == [Phase.DRAINING, Phase.DRAINING]
    assert await is_routed(rig, 0)
    await rig.finish()
    assert runtime.replicas(service.id) == ()


async def test_verbs_on_what_is_not_there_do_nothing(rig: Rig) -> None:
    runtime, service = rig.runtime, rig.service
    for verb in (runtime.admit, runtime.withdraw, runtime.drain, runtime.remove):
        await verb(service, NOBODY)
    await runtime.start(service, 0)
    assert runtime.replicas(service.id) == ()


async def test_a_crash_is_a_failure_at_once_and_tells_its_cause(rig: Rig) -> None:
    runtime, service = rig.runtime, rig.service
    await runtime.start(service, 1)
    await rig.get_ready()
    await runtime.admit(service, the_one(rig).id)
    rig.crash(the_one(rig).id)
    await until(rig, lambda now: now == [Phase.FAILED])
    dead = the_one(rig)
    assert dead.message == "engine killed by SIGKILL"
    assert dead.ready_s is not None  # it had been ready: no failed start
    await runtime.admit(service, dead.id)
    await runtime.withdraw(service, dead.id)
    await runtime.drain(service, dead.id)
    assert phases(rig) == [Phase.FAILED]
    await runtime.remove(service, dead.id)
    assert runtime.replicas(service.id) == ()
    assert await is_routed(rig, 0)


async def test_a_replica_that_starts_can_be_removed(rig: Rig) -> None:
    await rig.runtime.start(rig.service, 1)
    await rig.runtime.remove(rig.service, the_one(rig).id)
    assert rig.runtime.replicas(rig.service.id) == ()


async def test_a_change_made_while_nobody_waits_is_not_lost(rig: Rig) -> None:
    await rig.runtime.start(rig.service, 1)
    await asyncio.wait_for(rig.runtime.changed(rig.service.id), 5.0)
    await rig.runtime.remove(rig.service, the_one(rig).id)
    await asyncio.wait_for(rig.runtime.changed(rig.service.id), 5.0)
