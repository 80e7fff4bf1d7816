"""LLMServices as a fuzzer would write them: a valid one with a few fields made hostile."""

from __future__ import annotations

import asyncio
import copy
import os
import random
from typing import TYPE_CHECKING, Any

import aiohttp

from controller.kube.client import Credentials, KubeClient, KubeError
from profiler.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .cluster import Cluster

Json = dict[str, Any]
_BASE: Json = {
    "model": {"uri": "meta-llama/Llama-3.2-1B-Instruct", "servedName": "m"},
    "engine": {"type": "emulated", "maxNumSeqs": 16, "maxModelLen": 4096},
    "slo": {"ttftMs": 1000, "itlMs": 60},
    "workload": {"requestsPerSecond": "2", "inputTokens": 128, "outputTokens": 32},
    "scaling": {"min": 1, "max": 3},
    "placement": {"gpu": "L4"},
    "resilience": {"standbys": 1},
}
_HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63 - 1, 1.5, "", "x", "-1", "NaN", "1e400", "../../etc/passwd",
    "$(rm -rf /)", "{{7*7}}", "é\u202e\u0000".replace("\u0000", ""), "a" * 5000, [], ["--port=1"],
    [None], {}, {"a": 1}, {"$patch": "replace"}, [{"name": "engine", "$patch": "delete"}],
    "meta-llama/Llama-3.1-405B-Instruct", "no-such/model", "H100-SXM", "no-such-gpu", "9" * 20,
)  # fmt: skip
_FIELDS: tuple[tuple[str, ...], ...] = (
    ("model",), ("model", "uri"), ("model", "servedName"), ("model", "revision"),
    ("model", "cache"), ("model", "cache", "claimName"), ("model", "tokenSecret"), ("engine",),
    ("engine", "type"), ("engine", "args"), ("engine", "command"), ("engine", "image"),
    ("engine", "maxNumSeqs"), ("engine", "maxModelLen"), ("engine", "tensorParallelSize"),
    ("engine", "podTemplate"), ("engine", "podTemplate", "spec"),
    ("engine", "podTemplate", "metadata"), ("engine", "podTemplate", "spec", "containers"),
    ("engine", "gpuMemoryUtilizationPercent"), ("slo",), ("slo", "ttftMs"), ("slo", "percentile"),
    ("workload", "requestsPerSecond"), ("workload", "inputTokens"), ("workload", "burstiness"),
    ("scaling",), ("scaling", "min"), ("scaling", "max"), ("scaling", "mode"),
    ("scaling", "budgetGpus"), ("scaling", "zeroAfterSeconds"), ("replicas",), ("placement",),
    ("placement", "gpu"), ("placement", "gpus"), ("placement", "profile"), ("router",),
    ("placement", "deviceClass"), ("router", "replicas"), ("router", "type"), ("resilience",),
    ("resilience", "standbys"), ("unknown",),
)  # fmt: skip


def hostile_specs(count: int, seed: int) -> Iterator[Json]:
    """Specs with one to four hostile fields each."""
    rng = random.Random(seed)
    for _ in range(count):
        spec = copy.deepcopy(_BASE)
        for path in rng.sample(_FIELDS, rng.randint(1, 4)):
            _put(spec, path, copy.deepcopy(rng.choice(_HOSTILE)))
        yield spec


def _put(spec: Json, path: tuple[str, ...], value: Any) -> None:
    at: Any = spec
    for key in path[:-1]:
        at = at.setdefault(key, {}) if isinstance(at, dict) else {}
    if isinstance(at, dict):
        at[path[-1]] = value


def create_all(cluster: Cluster, namespace: str, specs: Iterator[Json]) -> int:
    """Create an LLMService of each; how many the API server took."""
    os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
    return asyncio.run(_create_all(namespace, specs))


async def _create_all(namespace: str, specs: Iterator[Json]) -> int:
    path = f"/apis/serving.whaleflux.io/v1alpha1/namespaces/{namespace}/llmservices"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client, accepted = KubeClient(session, Credentials()), 0
        numbered = enumerate(specs)

        async def worker() -> None:
            nonlocal accepted
            for i, spec in numbered:
                body = {
                    "apiVersion": "serving.whaleflux.io/v1alpha1", "kind": "LLMService",
                    "metadata": {"name": f"h{i}"}, "spec": spec,
                }  # fmt: skip
                try:
                    await client.create(path, body)
                    accepted += 1
                except (KubeError, RetryLater):
                    continue

        await asyncio.gather(*(worker() for _ in range(16)))
        return accepted
