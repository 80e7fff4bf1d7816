"""A fleet as a file: nodes with GPUs, what they cost, and what services may ask of them.

Read by `whaleflux allocate`; prices as decimal strings, as everywhere in the API.
"""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints, ValidationError

from controller.api.llmservice import Decimal, GpuName, Switch
from profiler.document import first_fault
from profiler.document_base import Document
from profiler.errors import Refused
from recommender.allocation import Market, Node

_LIMIT_BYTES = 4 << 20
_MOST_NODES = 20_000

Name = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class NodeGroup(Document):
    """Nodes that are alike."""

    name: Name
    """Name of the node; of several, the beginning of their names."""
    count: PositiveInt = Field(default=1, le=10_000)
    """How many there are."""
    gpu: GpuName
    """GPU type, a name of the catalogue."""
    gpus: PositiveInt = Field(default=8, le=1024)
    """GPUs of each."""
    zone: str = Field(default="", max_length=63)
    """Where they fail together."""
    market: Market = Market.ON_DEMAND
    """How they are paid for."""
    price_per_hour: Decimal = "1"
    """Of one GPU."""
    link_domain: PositiveInt = Field(default=8, le=1024)
    """GPUs that share fast links."""

    def nodes(self) -> list[Node]:
        """Every one of them."""
        names = [self.name] if self.count == 1 else [f"{self.name}-{i}" for i in range(self.count)]
        return [
            Node(
                name, self.gpu, self.gpus, self.zone, self.market, float(self.price_per_hour),
                self.link_domain,
            )
            for name in names
        ]  # fmt: skip


class Claim(Document):
    """What a service asks of the fleet beside its rate."""

    priority: int = Field(default=0, ge=-1000, le=1000)
    """Higher is served in full before lower."""
    min_nodes: PositiveInt = 1
    """Different nodes that must carry it."""
    min_zones: PositiveInt = 1
    """Different zones that must carry it."""
    survives_node_loss: Switch = Switch.DISABLED
    """The rate must still be carried with any one node lost."""
    spot_percent: NonNegativeInt = Field(default=100, le=100)
    """Most of its rate that spot nodes may carry."""
    budget_per_hour: Decimal | None = None
    """For GPUs that are not reserved."""


class Fleet(Document):
    """Nodes, and claims by service."""

    nodes: list[NodeGroup] = Field(min_length=1, max_length=1000)
    """Groups of nodes."""
    services: dict[Name, Claim] = Field(default_factory=dict)
    """Claims by the service's name; a service without one claims nothing special."""
    budget_per_hour: Decimal | None = None
    """For all services together."""

    def all_nodes(self) -> list[Node]:
        """Every node of every group."""
        return [node for group in self.nodes for node in group.nodes()]


def read_fleet(file: Path) -> Fleet:
    """Read a fleet; `Refused` names the field that is wrong."""
    try:
        if file.stat().st_size > _LIMIT_BYTES:
            raise Refused(f"{file}: larger than {_LIMIT_BYTES >> 20} MiB, so it is no fleet")
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        fleet = Fleet.model_validate(content)
    except OSError as error:
        raise Refused(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise Refused(f"{file}: {first_fault(error)}") from error
    if sum(group.count for group in fleet.nodes) > _MOST_NODES:
        raise Refused(f"{file}: nodes: more than {_MOST_NODES} in all")
    return fleet
