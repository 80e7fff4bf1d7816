"""Election on a Lease that a small server keeps: one leads, and it stops before another begins."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from controller.kube.client import Credentials, KubeClient
from controller.operator import lease as rules
from controller.operator.lease import Election, LeaseLost, LeaseName
from tests.controller.operator.api_server import NoCredentials

PATH = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"


@dataclass(slots=True)
class Keeper:
    """One Lease, with optimistic locking; `down` answers 503."""

    lease: dict[str, Any] | None = None
    version: int = 0
    down: bool = False
    swallow: bool = False
    """Writes land, and their answers never come."""
    holders: list[str] = field(default_factory=list)
    reads: int = 0

    def steal(self, name: str) -> None:
        assert self.lease is not None
        self.version += 1
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        self.lease["spec"]["holderIdentity"] = name
        self.holders.append(name)

    async def answer(self, request: web.Request) -> web.Response:
        if self.down:
            return web.json_response({"message": "down"}, status=503)
        if request.method == "GET":
            self.reads += 1
            return self._shown() if self.lease else web.json_response({}, status=404)
        body = json.loads(await request.read())
        given = body["metadata"].get("resourceVersion")
        if (request.method == "POST") != (self.lease is None) or (
            self.lease is not None and given != str(self.version)
        ):
            return web.json_response({"message": "changed"}, status=409)
        self.version += 1
        self.lease = {
            **body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}
        }  # fmt: skip
        self.holders.append(body["spec"]["holderIdentity"])
        if self.swallow:
            await asyncio.Event().wait()
        return self._shown()

    def _shown(self) -> web.Response:
        return web.json_response(self.lease)


@dataclass(slots=True)
class Clock:
    at_s: float = 1000.0

    def __call__(self) -> float:
        return self.at_s


@asynccontextmanager
async def kept(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Keeper, KubeClient]]:
    monkeypatch.setattr(rules, "RETRY_S", 0.01)
    keeper, app = Keeper(), web.Application()
    app.router.add_route("*", PATH, keeper.answer)
    app.router.add_route("*", f"{PATH}/wf", keeper.answer)
    async with TestServer(app) as server, ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        yield keeper, KubeClient(session, cast("Credentials", NoCredentials(url)))


def candidate(client: KubeClient, name: str, clock: Clock) -> Election:
    return Election(client, LeaseName("ns", "wf", name), clock, clock)


async def work(election: Election) -> None:
    """Lead until cancelled, or until the lease is lost."""
    async with election.lead() as keeping:
        await keeping


async def leads(election: Election) -> None:
    async with asyncio.timeout(10):
        while not election.leads:  # noqa: ASYNC110 - a test polls
            await asyncio.sleep(0.005)


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_leads_and_the_next_one_when_it_has_given_the_lease_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    async with kept(monkeypatch) as (keeper, client):
        a, b = candidate(client, "a", clock), candidate(client, "b", clock)
        first = asyncio.create_task(work(a))
        await leads(a)
        second = asyncio.create_task(work(b))
        renewals = len(keeper.holders)
        while len(keeper.holders) < renewals + 3:
            await asyncio.sleep(0.005)
            assert not b.leads
        await end(first)
        await leads(b)
        assert not a.leads
        assert list(dict.fromkeys(keeper.holders)) == ["a", "", "b"]
        await end(second)


async def test_a_lease_is_given_back_though_the_end_cut_off_a_renewal_that_had_landed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    async with kept(monkeypatch) as (keeper, client):
        a = candidate(client, "a", clock)
        first = asyncio.create_task(work(a))
        await leads(a)
        keeper.swallow, renewals = True, len(keeper.holders)
        while len(keeper.holders) == renewals:  # noqa: ASYNC110 - a test polls
            await asyncio.sleep(0.005)
        keeper.swallow = False
        await end(first)
        assert keeper.holders[-1] == ""


async def test_a_leader_that_cannot_renew_stops_before_another_may_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    async with kept(monkeypatch) as (keeper, client):
        a, b = candidate(client, "a", clock), candidate(client, "b", clock)
        first = asyncio.create_task(work(a))
        await leads(a)
        keeper.down = True
        clock.at_s += rules.RENEW_WITHIN_S + 0.1
        with pytest.raises(LeaseLost, match="not renewed for 10 s"):
            await asyncio.wait_for(first, 10)
        assert rules.RENEW_WITHIN_S < rules.DURATION_S
        keeper.down = False
        second, looked = asyncio.create_task(work(b)), keeper.reads
        while keeper.reads < looked + 5:
            await asyncio.sleep(0.005)
            assert not b.leads  # a died without a word: its time runs from when b first saw it
        clock.at_s += rules.DURATION_S + 0.1
        await leads(b)
        await end(second)


async def test_who_finds_another_holder_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    async with kept(monkeypatch) as (keeper, client):
        a = candidate(client, "a", clock)
        first = asyncio.create_task(work(a))
        await leads(a)
        keeper.steal("thief")
        with pytest.raises(LeaseLost):
            await asyncio.wait_for(first, 10)
        assert keeper.holders[-1] == "thief"  # and it was not taken back, nor given away


async def test_of_many_that_begin_at_once_one_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    async with kept(monkeypatch) as (keeper, client):
        many = [candidate(client, str(i), clock) for i in range(8)]
        tasks = [asyncio.create_task(work(each)) for each in many]
        while keeper.reads < 40:  # noqa: ASYNC110 - a test polls
            await asyncio.sleep(0.005)
        assert sum(each.leads for each in many) == 1
        assert len(set(keeper.holders)) == 1
        await end(*tasks)
