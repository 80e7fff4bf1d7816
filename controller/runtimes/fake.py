"""A runtime in memory, for tests: obeys at once, or as told."""

from dataclasses import dataclass, field, replace

from controller.observation import Phase, Replica, ReplicaId
from controller.runtimes.changes import Changes
from controller.service import Service, ServiceId


@dataclass(slots=True)
class FakeRuntime:
    """Records calls; `make_ready` and `fail` stand in for what machines do."""

    now_s: float = 0.0
    calls: list[tuple[str, str]] = field(default_factory=list)
    next_error: Exception | None = None
    """Raised once by the next verb."""
    _replicas: dict[ServiceId, dict[ReplicaId, Replica]] = field(default_factory=dict)
    _changes: Changes = field(default_factory=Changes)
    _made: int = 0

    async def start(self, service: Service, count: int, avoid: tuple[str, ...] = ()) -> None:
        """Add starting replicas."""
        self._called("start", str(count))
        for _ in range(count):
            self._made += 1
            replica = ReplicaId(f"{service.name}-{self._made}")
            self._put(service.id, Replica(replica, Phase.STARTING, self.now_s, gpu=service.gpu))

    async def admit(self, service: Service, replica: ReplicaId) -> None:
        """Serve from a standby."""
        self._called("admit", replica)
        self._move(service.id, replica, Phase.STANDBY, Phase.SERVING)

    async def withdraw(self, service: Service, replica: ReplicaId) -> None:
        """Stand by again."""
        self._called("withdraw", replica)
        self._move(service.id, replica, Phase.SERVING, Phase.STANDBY)

    async def drain(self, service: Service, replica: ReplicaId) -> None:
        """Leave the replica draining until `finish`."""
        self._called("drain", replica)
        for phase in (Phase.SERVING, Phase.STANDBY):
            self._move(service.id, replica, phase, Phase.DRAINING)

    async def remove(self, service: Service, replica: ReplicaId) -> None:
        """Forget a replica."""
        self._called("remove", replica)
        self._replicas.get(service.id, {}).pop(replica, None)
        self._changes.note(service.id)

    def replicas(self, service: ServiceId) -> tuple[Replica, ...]:
        """Show what is there."""
        return tuple(self._replicas.get(service, {}).values())

    async def changed(self, service: ServiceId) -> None:
        """Wait for a change."""
        await self._changes.wait(service)

    def router_metrics(self, service: ServiceId) -> tuple[str, ...]:
        """There is no router."""
        return ()

    def endpoint(self, service: ServiceId) -> str | None:
        """Give no address: nothing listens."""
        return None

    def make_ready(self, service: ServiceId, url: str | None = None) -> None:
        """All that start become standbys."""
        for replica in self.replicas(service):
            if replica.phase is Phase.STARTING:
                ready = replace(replica, phase=Phase.STANDBY, ready_s=self.now_s, url=url)
                self._put(service, ready)

    def fail(self, service: ServiceId, replica: ReplicaId, message: str = "killed") -> None:
        """One replica dies."""
        found = self._replicas[service][replica]
        self._put(service, replace(found, phase=Phase.FAILED, message=message))

    def finish(self, service: ServiceId) -> None:
        """All that drain are gone."""
        for replica in self.replicas(service):
            if replica.phase is Phase.DRAINING:
                del self._replicas[service][replica.id]
        self._changes.note(service)

    def _called(self, verb: str, what: str) -> None:
        self.calls.append((verb, what))
        if self.next_error is not None:
            error, self.next_error = self.next_error, None
            raise error

    def _put(self, service: ServiceId, replica: Replica) -> None:
        self._replicas.setdefault(service, {})[replica.id] = replica
        self._changes.note(service)

    def _move(self, service: ServiceId, replica: ReplicaId, old: Phase, new: Phase) -> None:
        found = self._replicas.get(service, {}).get(replica)
        if found is not None and found.phase is old:
            self._put(service, replace(found, phase=new))
