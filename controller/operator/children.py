"""Apply the objects that belong to a service, and delete what it no longer wants.

Server-side apply as one field manager: what others write beside it (annotations, say) stays, and
applying twice changes nothing.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from controller.kube import KubeClient, NotFound
from controller.operator.engine_pod import claim_template
from controller.operator.guards import disruption_budget, network_policies
from controller.operator.manifests import Images, Owner
from controller.operator.paths import path_of
from controller.operator.routing import routing_objects, unwanted_routing
from controller.service import Service
from profiler.errors import Refused

_FIRST = ("ServiceAccount", "Role", "ResourceClaimTemplate")


@dataclass(frozen=True, slots=True)
class Children:
    """Writes them."""

    client: KubeClient
    images: Images
    policies_from: tuple[str, ...] = ()
    """Namespaces that may reach engines and metrics; empty: no network policies are made."""

    async def apply(self, service: Service, owner: Owner) -> None:
        """Bring everything but the replicas to what the spec says.

        Raises `Refused` where the cluster lacks a kind that the spec asks for.
        """
        wanted = tuple(self._wanted(service, owner))
        for first in (True, False):  # a binding wants its role to be there
            wave = [thing for thing in wanted if (thing["kind"] in _FIRST) is first]
            await asyncio.gather(*(self._apply(service, thing) for thing in wave))
        for thing in unwanted_routing(service, owner):
            with contextlib.suppress(NotFound):
                await self.client.delete(path_of(thing))

    async def _apply(self, service: Service, thing: dict[str, Any]) -> None:
        try:
            await self.client.apply(path_of(thing), thing)
        except NotFound as error:
            raise _missing_kind(service, thing) from error

    async def guard(self, service: Service, owner: Owner, serving: int) -> None:
        """Keep the disruption budget at what serves."""
        budget = disruption_budget(service, owner, serving)
        await self.client.apply(path_of(budget), budget)

    def _wanted(self, service: Service, owner: Owner) -> Iterable[dict[str, Any]]:
        yield from routing_objects(service, owner, self.images)
        if service.pods.device_class:
            for kind in service.kinds:
                yield claim_template(kind, owner)
        if self.policies_from:
            yield from network_policies(service, owner, self.policies_from)


def _missing_kind(service: Service, thing: dict[str, Any]) -> Refused:
    kind, version = thing["kind"], thing["apiVersion"]
    mend = {
        "InferencePool": "spec.router.type: install the Gateway API Inference Extension, or "
        "choose VllmRouter",
        "ResourceClaimTemplate": "spec.placement.deviceClass: needs Kubernetes 1.34 or later; "
        "leave it out to count GPUs as nvidia.com/gpu",
    }
    return Refused(
        f"{mend.get(kind, service.id)} (the cluster has no {kind} of {version}, or no namespace "
        f"{service.namespace})"
    )
