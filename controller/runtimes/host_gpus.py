"""The GPUs of this machine: which replica holds which, and what NVML says of each.

The local runtime's part of what a device plugin and a DCGM exporter do in a cluster. Without
NVML there are no GPUs to give: engines find their own, and nobody tells of health.
"""

import asyncio
import importlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from controller.api.llmservice import EngineType
from controller.observation import ReplicaId
from controller.service import Service
from monitor.detectors.gpu import gpu_faults, track
from monitor.detectors.reading import GpuReading
from monitor.findings import Severity
from monitor.sources.gpu import Card, Nvml
from profiler.errors import Refused, RetryLater
from profiler.hardware import GPUS

PERIOD_S = 10.0

log = logging.getLogger(__name__)


class HostGpus:
    """Gives every replica GPUs of its own."""

    def __init__(
        self, nvml: Nvml | None = None, visible: str | None = None, absent: str = ""
    ) -> None:
        """`visible`: the value of `CUDA_VISIBLE_DEVICES` that confines this process, if any;
        `absent`: why there is no NVML.
        """
        self._nvml = nvml
        self._absent = absent
        self._cards = () if nvml is None else _visible(nvml.cards, visible)
        self._held: dict[int, ReplicaId] = {}
        self._readings: Mapping[str, GpuReading] = {}

    async def run(self) -> None:
        """Read their health until cancelled; a driver that hangs holds up nothing else."""
        while self._nvml is not None:
            readings = await asyncio.to_thread(self._nvml.look)
            self._readings = {reading.index: reading for reading in readings}
            await asyncio.sleep(PERIOD_S)

    def of(self, replica: ReplicaId) -> tuple[GpuReading, ...]:
        """Health of the GPUs that a replica holds, as far as it is known."""
        held = (card for card in self._cards if self._held.get(card.index) == replica)
        return tuple(self._readings[card.uuid] for card in held if card.uuid in self._readings)

    def counts(self, service: Service) -> dict[str, int]:
        """GPUs of each type that a service may run on, where it is known how many there are.

        `Refused` when this machine has none of them.
        """
        if service.engine is not EngineType.VLLM:
            return {}
        if not self._cards:
            self._tell_absent(service)
            return {}
        here = Counter(card.product for card in self._cards)
        asked = {kind.gpu: kind.gpu_product for kind in service.kinds}
        found = {gpu: here[p] for gpu, p in asked.items() if p in here or gpu in GPUS}
        if found and not any(found.values()):
            has = ", ".join(f"{count} × {product}" for product, count in sorted(here.items()))
            raise Refused(
                f"{service.name}: spec.placement.gpu: this machine has no {', '.join(found)}; "
                f"it has {has}"
            )
        return found

    def _tell_absent(self, service: Service) -> None:
        """Say once that engines which need a GPU are left to find it."""
        if self._absent and service.gpu in GPUS:
            log.warning(
                "%s: this machine's GPUs are not known (%s): every replica starts on the first "
                "one; `pip install 'whaleflux[gpu]'` gives each its own",
                service.name, self._absent,
            )  # fmt: skip
            self._absent = ""

    def take(self, service: Service, replica: ReplicaId) -> dict[str, str]:
        """Give a replica its GPUs: the environment that confines its engine to them.

        `RetryLater` while too few are free and sound.
        """
        if service.gpu not in self.counts(service):
            return {}
        cards = [card for card in self._cards if card.product == service.gpu_product]
        free = [card for card in cards if card.index not in self._held]
        sound = [card.index for card in free if not self._fails(card)]
        count = service.configuration.layout.gpus
        if len(sound) < count:
            failing = f", {len(free) - len(sound)} fail" if len(sound) < len(free) else ""
            raise RetryLater(
                f"needs {count} free {service.gpu}: of this machine's {len(cards)}, "
                f"{len(cards) - len(free)} are held{failing}"
            )
        given = sound[:count]
        self._held |= dict.fromkeys(given, replica)
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's numbers
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, given)),
        }

    def free(self, replica: ReplicaId) -> None:
        """Take a replica's GPUs back."""
        self._held = {index: holder for index, holder in self._held.items() if holder != replica}

    def _fails(self, card: Card) -> bool:
        """Whether its health asks for a reset or worse."""
        reading = self._readings.get(card.uuid)
        if reading is None:
            return False
        found = gpu_faults("", reading, track(reading, None, 0.0), 0.0)
        return any(suspicion.finding.severity is Severity.CRITICAL for suspicion in found)


def find_host_gpus(visible: str | None) -> HostGpus:
    """Ask NVML for this machine's GPUs; none where the library or the driver is missing."""
    try:
        return HostGpus(Nvml(importlib.import_module("pynvml")), visible)
    except Exception as absent:  # whatever is missing, engines may do without
        return HostGpus(absent=f"{type(absent).__name__}: {absent}")


def _visible(cards: Iterable[Card], visible: str | None) -> tuple[Card, ...]:
    """What CUDA_VISIBLE_DEVICES leaves: numbers or the beginnings of UUIDs; unset leaves all."""
    if visible is None:
        return tuple(cards)
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return tuple(
        card
        for card in cards
        if any(name == str(card.index) or card.uuid.startswith(name) for name in names)
    )
