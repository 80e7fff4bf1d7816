"""The operator's rights: each one is needed, none is missing, and secrets are out of reach.

Every right that the chart grants is seen used in the audit log, with success, while services of
every kind come and go: taking any rule away would have refused one of those requests.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.conftest import control_plane
from e2e.harness.cluster import Cluster, CommandFailed
from e2e.harness.crds import INFERENCE
from e2e.harness.operators import OperatorProcess, operators
from e2e.harness.wait import eventually
from e2e.test_loop import EXAMPLE, condition, service

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]
ACCOUNT = "system:serviceaccount:rights-system:rights-operator"
UNSEEN = {
    ("serving.whaleflux.io", "llmservices/finalizers", "update"),
    ("", "pods", "get"),
}
"""Checked by admission and by the rule that nobody grants what he does not have: never asked."""


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """A control plane of which every request is known."""
    with control_plane() as running:
        running.kubectl("apply", "-f", "-", input=INFERENCE.text())
        running.add_node("n1", gpus=8, gpu_product="NVIDIA-L40S", backoff_s=1, heartbeat_s=5)
        yield running


@pytest.fixture(scope="module")
def operator(own: Cluster) -> Iterator[OperatorProcess]:
    flags = ("--network-policy-from=rights-system",)
    with operators(own, "rights", "a", flags=flags) as (one,):
        yield one


def manifest(name: str, **spec: Any) -> Json:
    made: Json = yaml.safe_load(EXAMPLE.read_text())
    made["metadata"]["name"] = name
    del made["spec"]["scaling"]
    made["spec"] |= {"replicas": 1, "resilience": {"standbys": 0}} | spec
    return made


def accepted(own: Cluster, namespace: str, name: str) -> bool:
    return bool(condition(service(own, namespace, name), "Accepted").get("status") == "True")


def used(own: Cluster) -> set[tuple[str, str, str]]:
    """Group, resource and verb of every request of the operator's that was let through."""
    found = set()
    for event in own.audited():
        told = event.get("objectRef", {})
        if event["user"]["username"] != ACCOUNT:
            continue
        if event.get("annotations", {}).get("authorization.k8s.io/decision") != "allow":
            continue
        sub = f"/{told['subresource']}" if told.get("subresource") else ""
        what = told.get("apiGroup", ""), f"{told.get('resource', '')}{sub}"
        found.add((*what, event["verb"]))
        if event.get("responseStatus", {}).get("code") == 201:  # an apply that makes is asked both
            found.add((*what, "create"))
    return found


def granted(own: Cluster) -> set[tuple[str, str, str]]:
    """The same, as the chart's roles say."""
    name = "rights-system:rights-operator"
    rules = json.loads(own.kubectl("get", "clusterrole", name, "-o", "json"))["rules"]
    lease = own.kubectl("get", "role", "-n", "rights-system", "-o", "json")
    for role in json.loads(lease)["items"]:
        rules += role["rules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_every_right_is_used_and_every_use_is_granted(
    own: Cluster, operator: OperatorProcess
) -> None:
    own.kubectl("create", "namespace", "rights")
    engine = {"type": "vllm", "maxNumSeqs": 16, "maxModelLen": 8192}
    gateway = {"type": "InferencePool", "endpointPicker": {"name": "epp"}}
    own.apply("rights", manifest("chat"))
    own.apply("rights", manifest("claims", engine=engine, placement={
        "gpu": "L40S", "deviceClass": "gpu.nvidia.com",
    }))  # fmt: skip
    own.apply("rights", manifest("pool", router=gateway))
    for name in ("chat", "claims", "pool"):
        eventually(partial(accepted, own, "rights", name), 90, f"{name} accepted")
    pool = json.loads(own.kubectl("get", "inferencepool", "pool", "-n", "rights", "-o", "json"))
    assert pool["spec"]["selector"]["matchLabels"]["serving.whaleflux.io/role"] == "serving"
    own.apply("rights", manifest("chat", router=gateway))  # its router goes, a pool comes
    eventually(
        lambda: not own.items("deployments", "rights", "app.kubernetes.io/instance=chat"),
        60, "no router of its own",
    )  # fmt: skip
    own.apply("rights", manifest("pool"))
    eventually(
        lambda: not own.items("inferencepools", "rights", "app.kubernetes.io/instance=pool"),
        60, "no pool",
    )  # fmt: skip
    own.apply("rights", manifest("pool", replicas=0))
    eventually(lambda: used(own) >= granted(own) - UNSEEN, 60, "every right is used")
    assert not _refused(own), "something was refused"


def _refused(own: Cluster) -> list[str]:
    return [
        f"{event['verb']} {event['requestURI']}"
        for event in own.audited()
        if event["user"]["username"] == ACCOUNT
        and event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
    ]


def test_neither_operator_nor_router_can_read_a_secret(
    own: Cluster, operator: OperatorProcess
) -> None:
    router = "system:serviceaccount:rights:pool-router"
    for who in (ACCOUNT, router):
        for verb in ("get", "list", "watch"):
            with pytest.raises(CommandFailed, match=r"exit 1"):  # it says "no" by its exit code
                own.kubectl("auth", "can-i", verb, "secrets", "-A", "--as", who)


@pytest.mark.parametrize(
    ("name", "spec", "told"),
    [
        (
            "no-node",
            {"engine": {"type": "emulated", "podTemplate": {
                "spec": {"nodeSelector": {"nvidia.com/gpu.product": "B200"}}}}},
            ("Placed", "NoSuchNode", "spec.placement.gpu"),
        ),
        (
            "no-claim",
            {"model": {"uri": "meta-llama/Llama-3.2-1B-Instruct", "cache": {"claimName": "none"}}},
            ("Placed", "VolumeNotBound", "spec.model.cache.claimName"),
        ),
        (
            "no-image", {"engine": {"type": "emulated", "image": "registry.invalid/engine:1"}},
            ("Placed", "ImagePullFailed", "spec.engine.image"),
        ),
        (
            "too-large",
            {"model": {"uri": "meta-llama/Llama-3.3-70B-Instruct"},
             "engine": {"type": "emulated", "tensorParallelSize": 1, "pipelineParallelSize": 1}},
            ("Accepted", "DoesNotFit", "does not fit"),
        ),
        (
            "no-kind-of-model", {"model": {"uri": "nobody/knows-it"}},
            ("Accepted", "InvalidSpec", "nobody/knows-it"),
        ),
    ],
)  # fmt: skip
def test_what_is_valid_and_impossible_is_told_with_its_mend(
    own: Cluster, operator: OperatorProcess, name: str, spec: Json, told: tuple[str, str, str]
) -> None:
    kind, reason, mend = told
    own.kubectl("create", "namespace", f"bad-{name}")
    own.apply(f"bad-{name}", manifest("chat", **spec))
    eventually(
        lambda: condition(service(own, f"bad-{name}"), kind).get("status") == "False", 30,
        f"{kind} is False",
    )  # fmt: skip
    found = condition(service(own, f"bad-{name}"), kind)
    assert found["reason"] == reason, found
    assert mend in found["message"]
    own.apply(f"bad-{name}", manifest("chat"))  # put right, without a restart of anything
    eventually(
        lambda: condition(service(own, f"bad-{name}"), "Ready").get("status") == "True", 60,
        "ready once it is put right",
    )  # fmt: skip
    own.kubectl("delete", "namespace", f"bad-{name}", "--wait=false")


def test_a_quota_that_refuses_is_told_and_waited_for(
    own: Cluster, operator: OperatorProcess
) -> None:
    own.kubectl("create", "namespace", "bad-quota")
    quota: Json = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"},
        "spec": {"hard": {"pods": "0"}},
    }  # fmt: skip
    own.apply("bad-quota", quota)
    own.apply("bad-quota", manifest("chat"))
    eventually(
        lambda: condition(service(own, "bad-quota"), "Placed").get("reason") == "QuotaExceeded",
        30, "the quota is told",
    )  # fmt: skip
    own.kubectl("delete", "-n", "bad-quota", "resourcequota/pods")
    eventually(
        lambda: condition(service(own, "bad-quota"), "Ready").get("status") == "True", 60, "ready"
    )
    own.kubectl("delete", "namespace", "bad-quota", "--wait=false")
