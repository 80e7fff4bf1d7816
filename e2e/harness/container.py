"""One container as one process: start, probe, restart, stop.

Made by `pod`, one for each container of its spec. Reports through
`Surroundings.changed`; what it reports is read back with `status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from . import expand, probes
from .api import ApiError
from .processes import Reaper, die_with_parent, kill_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from .volumes import Fetch

Json = dict[str, Any]

ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
LONGEST_BACKOFF_S = 300.0
FORGIVEN_AFTER_S = 600.0
RETRY_S = 1.0


def now() -> str:
    """The time as Kubernetes writes it in a status."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Surroundings:
    """What the containers of one pod share."""

    pod: Json
    pod_ip: str
    folder: Path
    logs: Path
    session: aiohttp.ClientSession
    reaper: Reaper
    fetch: Fetch
    base_env: Mapping[str, str]
    backoff_s: float
    term_group: bool
    changed: Callable[[], None] = lambda: None
    published: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """All that is needed to start a process in the container."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path


class NotPulled(RuntimeError):
    """There is no such image, or the spec leaves the command to it, and there are none here."""


class Container:
    """Runs one container until its restart policy says that it is over."""

    def __init__(
        self, around: Surroundings, spec: Json, policy: str, places: Mapping[str, str], gpus: str
    ) -> None:
        self.around, self.spec, self.policy = around, spec, policy
        self.name: str = spec["name"]
        self.pod_ip, self.session = around.pod_ip, around.session
        self.state: Json = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Json = {}
        self.restarts = _lives_before(around.pod, self.name)
        self.ready = self.started = self.over = False
        self.group: int | None = None
        self._places, self._gpus = places, gpus
        self._launch: Launch | None = None
        self._stopping = False
        self._crashes = 0
        self.has_started, self._exited = asyncio.Event(), asyncio.Event()
        self._ending: asyncio.Task[None] | None = None

    @property
    def exit_code(self) -> int | None:
        """The exit code once it is over for good."""
        return self.state.get("terminated", {}).get("exitCode") if self.over else None

    def status(self) -> Json:
        """The container's part of the pod's status."""
        image = self.spec.get("image", "none")
        found = {"name": self.name, "image": image, "imageID": image, "state": self.state}
        found |= {"lastState": self.last_state, "ready": self.ready, "started": self.started}
        return {**found, "restartCount": self.restarts}

    async def run(self) -> None:
        """Start it, again and again as its policy asks."""
        while True:
            launch = await self._prepare()
            began_s = asyncio.get_running_loop().time()
            await self._once(launch)
            if not self._starts_again():
                self.over = True
                self.around.changed()
                return
            if asyncio.get_running_loop().time() - began_s > FORGIVEN_AFTER_S:
                self._crashes = 0
            if self.around.published is not None:
                await self.around.published()
            await self._back_off()
            self.restarts += 1

    async def stop(self, grace_s: float) -> None:
        """preStop, SIGTERM, and SIGKILL when `grace_s` is over; returns when it is gone."""
        self._stopping = True
        await self._terminate(grace_s)

    def kill(self) -> None:
        """SIGKILL to the process group, as a crash."""
        if self.group is not None:
            kill_group(self.group)

    def port(self, port: int | str) -> int:
        """A port number, from a number or from a container port's name."""
        if isinstance(port, int) or port.isdigit():
            return int(port)
        named = {each.get("name"): each["containerPort"] for each in self.spec.get("ports", ())}
        return int(named[port])

    async def run_command(self, command: list[str]) -> int:
        """Run a command beside the container's process; return its exit code."""
        assert self._launch is not None
        process = await self._spawn(tuple(self._real(part) for part in command), self._launch)
        try:
            return await process.wait()
        finally:
            await _finish(process)

    async def _prepare(self) -> Launch:
        """The launch, once all that it refers to is there."""
        while True:
            try:
                self._launch = await self._build_launch()
                return self._launch
            except NotPulled as error:
                self._wait_because("ErrImagePull", str(error))
                await asyncio.Event().wait()
            except (expand.NotConfigured, ApiError) as error:
                self._wait_because("CreateContainerConfigError", str(error))
            except (TimeoutError, OSError, aiohttp.ClientError) as error:
                self._wait_because("CreateContainerError", repr(error))
            await asyncio.sleep(RETRY_S)

    async def _build_launch(self) -> Launch:
        spec, around = self.spec, self.around
        registry = spec.get("image", "").split("/")[0].split(":")[0]
        if registry.endswith(".invalid"):  # no such host, ever: RFC 2606
            raise NotPulled(f"{spec['image']}: no such host")
        if not spec.get("command"):
            raise NotPulled("no command in the spec: this node runs commands, not images")
        data = await self._referenced()
        given = expand.environment(around.pod, spec, lambda kind, name: data[kind, name])
        parts = [*spec["command"], *spec.get("args", ())]
        command = tuple(self._real(expand.expand(part, given)) for part in parts)
        home = around.folder / "containers" / self.name
        home.mkdir(parents=True, exist_ok=True)
        asked = Path(self._real(spec.get("workingDir", str(home))))
        env = {**around.base_env, "HOME": str(home), **self._granted()}
        env |= {name: self._real(value) for name, value in given.items()}
        return Launch(command, env, _existing(asked, home))

    def _granted(self) -> dict[str, str]:
        """What the platform, not the spec, puts into the environment."""
        found = {"NVIDIA_VISIBLE_DEVICES": self._gpus} if self._gpus else {}
        if ACCOUNT_PATH in self._places:
            found["KUBECONFIG"] = str(self.around.folder / "kubeconfig")
        return found

    async def _referenced(self) -> dict[tuple[str, str], dict[str, str] | None]:
        """The ConfigMaps and Secrets that the environment names."""
        keys = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}
        keys |= {"configMapRef": "ConfigMap", "secretRef": "Secret"}
        sources = [each.get("valueFrom", {}) for each in self.spec.get("env", ())]
        sources += self.spec.get("envFrom", ())
        wanted = {
            (kind, source[key]["name"]) for source in sources for key, kind in keys.items()
            if key in source
        }  # fmt: skip
        found: dict[tuple[str, str], dict[str, str] | None] = {}
        for kind, name in wanted:
            files = await self.around.fetch(kind, name)
            text = {key: value.decode(errors="replace") for key, value in (files or {}).items()}
            found[kind, name] = None if files is None else text
        return found

    async def _once(self, launch: Launch) -> None:
        """One life of the process, from start to exit."""
        began = now()
        try:
            with (self.around.logs / f"{self.name}.log").open("ab") as log:
                process = await self._spawn(launch.command, launch, log.fileno())
        except (OSError, ValueError) as error:
            self._ended(began, 128, "StartError", str(error))
            return
        self.group = process.pid
        self.around.reaper.add(process.pid)
        self._exited.clear()
        self.state = {"running": {"startedAt": began}}
        self._set_started("startupProbe" not in self.spec)
        if self._stopping:
            self.kill()
        probing = asyncio.create_task(self._probe())
        try:
            code = await process.wait()
        finally:
            probing.cancel()
            await _finish(process)
            self.around.reaper.remove(process.pid)
            self.group = None
            self._exited.set()
        code = 128 - code if code < 0 else code
        self._ended(began, code, "Completed" if code == 0 else "Error")

    async def _spawn(
        self, command: tuple[str, ...], launch: Launch, output: int = asyncio.subprocess.DEVNULL
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(launch.env),
            cwd=launch.cwd,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )

    def _ended(self, began: str, code: int, reason: str, message: str = "") -> None:
        told = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now()}
        self.state = {"terminated": told | ({"message": message} if message else {})}
        self.ready = self.started = False
        self.around.changed()

    def _starts_again(self) -> bool:
        if self._stopping or self.policy == "Never":
            return False
        return self.policy == "Always" or self.state["terminated"]["exitCode"] != 0

    async def _back_off(self) -> None:
        """At once after the first end, then longer each time."""
        self.last_state = self.state
        if self._crashes:
            delay_s = min(self.around.backoff_s * 2 ** (self._crashes - 1), LONGEST_BACKOFF_S)
            self._wait_because("CrashLoopBackOff", f"back-off {delay_s:g}s restarting")
            await asyncio.sleep(delay_s)
        self._crashes += 1

    def _wait_because(self, reason: str, message: str) -> None:
        self.state = {"waiting": {"reason": reason, "message": message}}
        self.around.changed()

    async def _probe(self) -> None:
        """postStart, the startup probe, then readiness and liveness together."""
        hook = self.spec.get("lifecycle", {}).get("postStart")
        if hook and not await probes.attempt(self, hook, None):
            self._restart(None)
        if "startupProbe" in self.spec:
            await self._pass_startup(self.spec["startupProbe"])
        async with asyncio.TaskGroup() as tasks:
            if "readinessProbe" in self.spec:
                tasks.create_task(
                    probes.watch(self, self.spec["readinessProbe"], self._readiness_verdict)
                )
            if "livenessProbe" in self.spec:
                tasks.create_task(
                    probes.watch(self, self.spec["livenessProbe"], self._liveness_verdict)
                )

    async def _pass_startup(self, probe: Json) -> None:
        passed = asyncio.Event()

        def verdict(good: bool) -> None:
            if good:
                passed.set()
            else:
                self._restart(probe.get("terminationGracePeriodSeconds"))

        probing = asyncio.create_task(probes.watch(self, probe, verdict))
        try:
            await passed.wait()
        finally:
            probing.cancel()
        self._set_started(True)

    def _readiness_verdict(self, good: bool) -> None:
        if self.group is not None and self.ready != good:
            self.ready = good
            self.around.changed()

    def _liveness_verdict(self, good: bool) -> None:
        if not good:
            self._restart(self.spec["livenessProbe"].get("terminationGracePeriodSeconds"))

    def _set_started(self, started: bool) -> None:
        self.started = started
        if started:
            self.has_started.set()
        self.ready = started and "readinessProbe" not in self.spec
        self.around.changed()

    def _restart(self, grace_s: float | None) -> None:
        """End the process because a probe failed; `run` decides what follows."""
        if self._ending is None or self._ending.done():
            default_s = self.around.pod["spec"].get("terminationGracePeriodSeconds", 30)
            wait_s = default_s if grace_s is None else grace_s
            self._ending = asyncio.create_task(self._terminate(wait_s))

    async def _terminate(self, grace_s: float) -> None:
        if self.group is None:
            return
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + grace_s
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if hook and grace_s > 0:
            await probes.attempt(self, hook, grace_s)
            deadline_s = max(deadline_s, loop.time() + 2)
        self._terminate_softly()
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await self._exited.wait()
        self.kill()
        await self._exited.wait()

    def _terminate_softly(self) -> None:
        """SIGTERM to the whole group, or as a container runtime does: to the first process."""
        if self.group is None:
            return
        if self.around.term_group:
            kill_group(self.group, signal.SIGTERM)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.group, signal.SIGTERM)

    def _real(self, text: str) -> str:
        return expand.replace_paths(text, self._places)


async def _finish(process: asyncio.subprocess.Process) -> None:
    """End what is left of the group; with its first process gone, children have no home."""
    kill_group(process.pid)
    await process.wait()


def _lives_before(pod: Json, name: str) -> int:
    """How often it was started by this node's predecessor of the same name."""
    known = pod["status"].get("containerStatuses", [])
    for each in [*known, *pod["status"].get("initContainerStatuses", [])]:
        if each["name"] == name:
            begun = "waiting" not in each.get("state", {"waiting": {}})
            return int(each["restartCount"]) + begun
    return 0


def _existing(asked: Path, otherwise: Path) -> Path:
    """A folder of the image does not exist here."""
    return asked if asked.is_dir() else otherwise


def base_environment(pod: Json, bin_folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """What each process gets before the spec's own variables."""
    path = f"{bin_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found = {"PATH": path, "LANG": "C.UTF-8", "HOSTNAME": pod["metadata"]["name"]}
    if "PYTHONPATH" in os.environ:
        found["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return {**found, **extra}
