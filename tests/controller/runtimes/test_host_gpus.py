"""GPUs of one machine: each replica has its own, and is moved away from one that fails."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from controller.api import Manifests, parse_service
from controller.api.llmservice import EngineType
from controller.decide import Reason
from controller.observation import Phase, ReplicaId
from controller.plane import LocalPlane, local_plane, running
from controller.runtimes import host_gpus
from controller.runtimes.host_gpus import HostGpus, find_host_gpus
from controller.runtimes.processes import free_port
from controller.service import Service
from monitor.sources.gpu import Nvml
from profiler.errors import Refused, RetryLater
from tests.controller.builders import a_manifest, a_service
from tests.controller.runtimes.gpu_engine import GIVEN
from tests.controller.runtimes.rigs import DEADLINE_S
from tests.monitor.cards import Cards

A, B, C = ReplicaId("a"), ReplicaId("b"), ReplicaId("c")
FOUR_L4 = ("NVIDIA L4",) * 4


def a_vllm(gpu: str = "L4", product: str = "NVIDIA-L4", gpus: int = 1) -> Service:
    configuration = replace(a_service().configuration, tensor_parallel_size=gpus)
    return a_service(
        gpu=gpu, gpu_product=product, engine=EngineType.VLLM, configuration=configuration
    )


def devices(gpus: HostGpus, service: Service, replica: ReplicaId) -> str | None:
    return gpus.take(service, replica).get("CUDA_VISIBLE_DEVICES")


def test_each_replica_gets_gpus_of_its_own_and_gives_them_back() -> None:
    gpus, service = HostGpus(Nvml(Cards(*FOUR_L4))), a_vllm(gpus=2)
    assert gpus.take(service, A) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }
    assert devices(gpus, service, B) == "2,3"
    full = r"^needs 2 free L4: of this machine's 4, 4 are held$"
    with pytest.raises(RetryLater, match=full):
        gpus.take(service, C)
    gpus.free(A)
    assert devices(gpus, service, C) == "0,1"


def test_only_gpus_of_the_type_that_was_chosen_are_given() -> None:
    gpus = HostGpus(Nvml(Cards("NVIDIA L4", "NVIDIA H100 80GB HBM3")))
    h100 = a_vllm("H100-SXM", "NVIDIA-H100-80GB-HBM3")
    assert devices(gpus, h100, A) == "1"
    service = replace(a_vllm(), fallbacks=(h100,))
    assert gpus.counts(service) == {"L4": 1, "H100-SXM": 1}


@pytest.mark.parametrize(
    ("visible", "given"),
    [(None, "0"), ("2,3", "2"), ("GPU-3", "3"), (" 1 ", "1")],
)
def test_what_confines_the_controller_confines_its_engines(visible: str | None, given: str) -> None:
    assert devices(HostGpus(Nvml(Cards(*FOUR_L4)), visible), a_vllm(), A) == given


def test_a_machine_without_the_gpu_is_refused_in_one_line() -> None:
    gpus = HostGpus(Nvml(Cards(*FOUR_L4)))
    with pytest.raises(Refused) as caught:
        gpus.counts(a_vllm("H100-SXM", "NVIDIA-H100-80GB-HBM3"))
    assert str(caught.value) == (
        "chat: spec.placement.gpu: this machine has no H100-SXM; it has 4 × NVIDIA-L4"
    )


@pytest.mark.parametrize(
    "service",
    [a_service(), a_vllm("CPU", "CPU")],
    ids=["an emulated engine", "an engine on something that is in no catalogue"],
)
def test_who_needs_none_is_given_none(service: Service) -> None:
    gpus = HostGpus(Nvml(Cards(*FOUR_L4)))
    assert gpus.counts(service) == {}
    assert gpus.take(service, A) == {}


@pytest.mark.parametrize("gpus", [HostGpus(), HostGpus(Nvml(Cards(*FOUR_L4)), visible="")])
def test_where_nothing_is_known_of_gpus_engines_find_their_own(gpus: HostGpus) -> None:
    assert gpus.counts(a_vllm()) == {}
    assert gpus.take(a_vllm(), A) == {}
    assert gpus.of(A) == ()


def test_without_the_library_it_is_said_once_to_whom_it_matters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus = find_host_gpus(None)
    for service in (a_service(), a_vllm("CPU", "CPU"), a_vllm(), a_vllm()):
        assert gpus.counts(service) == {}
    (told,) = caplog.messages
    assert told.startswith("chat: this machine's GPUs are not known (ModuleNotFoundError: ")
    assert told.endswith("`pip install 'whaleflux[gpu]'` gives each its own")


@asynccontextmanager
async def a_plane(folder: Path, cards: Cards, **scaling: int) -> AsyncIterator[LocalPlane]:
    """One service on these cards, its loop running."""
    engine = {
        "type": "vllm", "command": [sys.executable, "-m", "tests.controller.runtimes.gpu_engine"],
        "maxNumSeqs": 16, "maxModelLen": 4096,
    }  # fmt: skip
    manifest = a_manifest(engine=engine, scaling=scaling, resilience={"standbys": 0})
    manifests = Manifests((parse_service(manifest, "test"),), {})
    async with (
        local_plane(manifests, free_port(), folder, HostGpus(Nvml(cards))) as plane,
        running(plane),
    ):
        yield plane


def given(plane: LocalPlane, folder: Path) -> list[str]:
    """GPUs that the serving replicas were started on, as their engines saw it."""
    replicas = plane.runtime.replicas(plane.loops[0].service.id)
    logs = [(folder / f"{r.id}.log").read_text() for r in replicas if r.phase is Phase.SERVING]
    words = [line for log in logs for line in log.splitlines() if line.startswith(GIVEN)]
    return sorted(word.removeprefix(GIVEN) for word in words)


async def serving_on(plane: LocalPlane, folder: Path, expected: list[str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while given(plane, folder) != expected:
            await plane.runtime.changed(plane.loops[0].service.id)


class Faltering(Cards):
    """A library with a bug, for a while."""

    faltering = True

    def nvmlDeviceGetTemperature(self, i: int, _: int) -> int:
        if self.faltering:
            raise ValueError(i)
        return 50


async def test_a_reader_of_gpus_that_breaks_off_stops_no_service_and_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_gpus, "PERIOD_S", 0.1)
    cards = Faltering("NVIDIA L4", "NVIDIA L4")
    async with a_plane(tmp_path, cards, min=1, max=1) as plane:
        await serving_on(plane, tmp_path, ["0"])
        cards.faltering = False
        cards.events = [SimpleNamespace(eventType=8, device=0, eventData=79)]
        await serving_on(plane, tmp_path, ["1"])
    assert "reading the GPUs' health failed; starting it again" in caplog.messages


async def test_a_replica_is_moved_off_a_gpu_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_gpus, "PERIOD_S", 0.1)
    cards = Cards("NVIDIA L4", "NVIDIA L4")
    async with a_plane(tmp_path, cards, min=1, max=1) as plane:
        await serving_on(plane, tmp_path, ["0"])
        cards.events = [SimpleNamespace(eventType=8, device=0, eventData=79)]
        await serving_on(plane, tmp_path, ["1"])


async def test_no_more_replicas_start_than_there_are_gpus(tmp_path: Path) -> None:
    async with a_plane(tmp_path, Cards("NVIDIA L4", "NVIDIA L4"), min=3, max=3) as plane:
        await serving_on(plane, tmp_path, ["0", "1"])
        outcome = plane.loops[0].outcome
        assert outcome is not None
        assert outcome.fault is None
        assert Reason.POOL_SHORT in outcome.decision.reasons
