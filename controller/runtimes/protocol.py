"""What the loop asks of a runtime.

Implementations do not inherit it (a misspelt method must fail the type check, not return
None). Every verb is idempotent; none waits for its effect: `replicas` shows it.
"""

from typing import Protocol

from controller.observation import Replica, ReplicaId
from controller.service import Service, ServiceId


class Runtime(Protocol):
    """Starts, admits and ends replicas, and shows what is there."""

    async def start(self, service: Service, count: int, avoid: tuple[str, ...] = ()) -> None:
        """Ask for `count` more replicas. Each is born a standby, outside the router.

        They run on the GPU type of `service`, which may be a fallback of the one that is known by
        its id. `avoid`: machines to keep away from, if there are others.
        """

    async def admit(self, service: Service, replica: ReplicaId) -> None:
        """Ask the router to send traffic. A return proves that the request was accepted."""

    async def withdraw(self, service: Service, replica: ReplicaId) -> None:
        """Take a replica out of the router; requests it holds go on. It stands by then."""

    async def drain(self, service: Service, replica: ReplicaId) -> None:
        """Withdraw, let the engine finish what it holds, then end it."""

    async def remove(self, service: Service, replica: ReplicaId) -> None:
        """End a replica at once; for what failed or never served."""

    def replicas(self, service: ServiceId) -> tuple[Replica, ...]:
        """Show what is there now."""

    async def changed(self, service: ServiceId) -> None:
        """Return when replicas of the service changed since the last return."""

    def endpoint(self, service: ServiceId) -> str | None:
        """Address that clients use; None until there is one."""

    def router_metrics(self, service: ServiceId) -> tuple[str, ...]:
        """Addresses of the routers' own metrics, as far as they are known."""
