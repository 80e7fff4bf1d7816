"""Election by a Lease: of several operators one leads, the others watch and wait.

The rules are client-go's: a holder that has not renewed for the lease's duration, on the
candidate's own clock, has lost it; a leader that cannot renew stops before anybody else may begin.
Who ends in order gives the Lease back, so that the next one begins at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from controller.kube import Conflict, KubeClient, NotFound
from profiler.errors import WhaleFluxError

DURATION_S = 15.0
"""A holder that is silent for so long has lost it."""
RENEW_WITHIN_S = 10.0
"""A leader that could not renew for so long stops."""
RETRY_S = 2.0

log = logging.getLogger(__name__)


class LeaseLost(WhaleFluxError):
    """The Lease could not be renewed in time, or somebody else holds it."""


class _Spec(msgspec.Struct, rename="camel", frozen=True):
    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: str = ""
    renew_time: str = ""
    lease_transitions: int = 0


class _Meta(msgspec.Struct, rename="camel", frozen=True):
    resource_version: str = ""


class _Lease(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()


@dataclass(frozen=True, slots=True)
class LeaseName:
    """Which Lease, and who asks for it."""

    namespace: str
    name: str
    identity: str
    """Of this process; no other may have the same."""


class Election:
    """One candidate."""

    def __init__(
        self,
        client: KubeClient,
        lease: LeaseName,
        now_s: Callable[[], float],
        wall_s: Callable[[], float],
    ) -> None:
        self._client = client
        self._lease = lease
        self._now_s = now_s
        self._wall_s = wall_s
        self._seen = _Lease()
        """As it was last read, and when it was first seen like this."""
        self._seen_s = now_s()
        self._renewed_s = -float("inf")
        self.leads = False

    def holds(self) -> bool:
        """Whether it leads at this very moment; also true of one that was stopped and woke up."""
        return self.leads and self._left_s() > 0

    @property
    def holder(self) -> str:
        """Who held it when it was last read; empty: nobody."""
        return self._seen.spec.holder_identity

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[asyncio.Task[None]]:
        """Wait until this one leads; yields a task that fails with `LeaseLost` when it ends.

        Leaving the block gives the Lease back: the work must have ended by then.
        """
        while not await self._try():  # noqa: ASYNC110 - nobody here knows when it is free
            await asyncio.sleep(RETRY_S)
        self.leads = True
        log.info("leads: holds lease %s/%s", self._lease.namespace, self._lease.name)
        keeping = asyncio.create_task(self._keep())
        try:
            yield keeping
        finally:
            self.leads = False
            keeping.cancel()
            lost = (await asyncio.gather(keeping, return_exceptions=True))[0]
            if not isinstance(lost, LeaseLost):
                await self._release()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            held = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._left_s(), 0.0)):
                    held = await self._try()
            if not held and (self._taken() or self._left_s() <= 0):
                raise LeaseLost(
                    f"lease {self._lease.namespace}/{self._lease.name}: not renewed for "
                    f"{RENEW_WITHIN_S:.0f} s, or held by another: stopping"
                )

    def _left_s(self) -> float:
        return self._renewed_s + RENEW_WITHIN_S - self._now_s()

    def _taken(self) -> bool:
        return bool(self.holder) and self.holder != self._lease.identity

    async def _try(self) -> bool:
        """Take or renew it; whether that worked. Nothing that fails here is fatal."""
        asked_s = self._now_s()
        try:
            if not self.leads:  # a leader writes over what it knows, and reads where that failed
                self._look(await self._read())
            if self._taken() and asked_s - self._seen_s < self._expires_s():
                return False
            made = await self._write(self._mine())
        except Conflict:  # another one was quicker, or an answer of ours was lost
            await self._reread()
            return False
        except WhaleFluxError as error:
            log.warning("lease %s/%s: %s", self._lease.namespace, self._lease.name, error)
            return False
        self._look(made)
        self._renewed_s = asked_s  # when asked: the answer may have taken long
        return True

    async def _reread(self) -> None:
        with contextlib.suppress(WhaleFluxError):
            self._look(await self._read())

    def _expires_s(self) -> float:
        return float(self._seen.spec.lease_duration_seconds or DURATION_S)

    def _look(self, lease: _Lease) -> None:
        if lease.spec != self._seen.spec:
            self._seen_s = self._now_s()
        self._seen = lease

    async def _read(self) -> _Lease:
        try:
            return msgspec.json.decode(await self._client.get(self._path()), type=_Lease)
        except NotFound:
            return _Lease()

    async def _write(self, spec: dict[str, Any]) -> _Lease:
        """Write over what was read and nothing else: the version says whether it is still that."""
        version = self._seen.metadata.resource_version
        meta = {"name": self._lease.name, "namespace": self._lease.namespace}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {**meta, "resourceVersion": version} if version else meta,
            "spec": spec,
        }
        if version:
            made = await self._client.put(self._path(), body)
        else:
            made = await self._client.create(self._path(collection=True), body)
        return msgspec.json.decode(made, type=_Lease)

    def _mine(self) -> dict[str, Any]:
        former, now = self._seen.spec, self._wall_time()
        again = former.holder_identity == self._lease.identity
        return {
            "holderIdentity": self._lease.identity,
            "leaseDurationSeconds": int(DURATION_S),
            "renewTime": now,
            "leaseTransitions": former.lease_transitions + (0 if again else 1),
            "acquireTime": (again and former.acquire_time) or now,
        }

    async def _release(self) -> None:
        """Let the next one begin at once."""
        try:
            try:
                await self._write(self._nobody())
            except Conflict:  # a renewal that was cut off had landed: what it wrote is ours too
                self._look(await self._read())
                if not self._taken():
                    await self._write(self._nobody())
        except WhaleFluxError as error:
            log.warning("lease: not given back, it expires: %s", error)

    def _nobody(self) -> dict[str, Any]:
        return {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "renewTime": self._wall_time(),
            "leaseTransitions": self._seen.spec.lease_transitions,
        }

    def _wall_time(self) -> str:
        at = datetime.fromtimestamp(self._wall_s(), UTC)
        return at.isoformat(timespec="microseconds").replace("+00:00", "Z")

    def _path(self, *, collection: bool = False) -> str:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._lease.namespace}/leases"
        return path if collection else f"{path}/{self._lease.name}"
