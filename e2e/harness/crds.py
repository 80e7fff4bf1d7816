"""CRDs of other projects, from their Go modules, checked by their hashes.

Kept in `build/e2e/`, so that a second run needs neither Go nor a network.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .build import BUILD, BuildFailed, environment, find_go


@dataclass(frozen=True, slots=True)
class Crds:
    """Files of one module."""

    module: str
    version: str
    sum: str
    """As in go.sum."""
    files: tuple[str, ...]

    def text(self) -> str:
        """All of them, as one document each; downloaded once."""
        kept = BUILD / f"{self.module.rsplit('/', 1)[1]}-{self.version}.yaml"
        if not kept.exists():
            folder = self._folder()
            texts = [(folder / file).read_text() for file in self.files]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text("\n---\n".join(texts))
        return kept.read_text()

    def _folder(self) -> Path:
        done = subprocess.run(
            [find_go(), "mod", "download", "-json", f"{self.module}@{self.version}"],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        found = json.loads(done.stdout or "{}")
        if done.returncode != 0 or found.get("Sum") != self.sum:
            raise BuildFailed(f"{self.module}: {found.get('Error', done.stderr)}")
        return Path(found["Dir"])


INFERENCE = Crds(
    "sigs.k8s.io/gateway-api-inference-extension", "v1.3.0",
    "h1:Ng2Qs1Oum4WycuWyi3rOkAC7pZ2aDqgN2ku6Lr/mryQ=",
    ("config/crd/bases/inference.networking.k8s.io_inferencepools.yaml",),
)  # fmt: skip
MONITORING = Crds(
    "github.com/prometheus-operator/prometheus-operator", "v0.85.0",
    "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
    tuple(
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml"
        for kind in ("servicemonitors", "podmonitors", "prometheusrules")
    ),
)  # fmt: skip
