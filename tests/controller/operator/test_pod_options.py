"""What a spec says of its Pods: caches, tokens, claims, templates, budgets, policies, routing."""

import json
from dataclasses import replace
from typing import Any

from controller.api import parse_service
from controller.api.llmservice import (
    EndpointPickerSpec,
    EngineType,
    ModelCacheSpec,
    RouterSpec,
    RouterType,
    SecretKeySpec,
)
from controller.operator import labels
from controller.operator.engine_pod import claim_template, engine_pod, template_hash
from controller.operator.guards import disruption_budget, network_policies
from controller.operator.manifests import Images, Owner
from controller.operator.routing import endpoint, routing_objects, unwanted_routing
from controller.service import PodOptions, Service, resolve_service
from tests.controller.builders import a_manifest, a_service

OWNER, IMAGES = Owner("chat", "uid-1"), Images("whaleflux:1", "vllm:1")


def pod(**options: Any) -> dict[str, Any]:
    return engine_pod(vllm(**options), OWNER, IMAGES)


def vllm(**options: Any) -> Service:
    return a_service(engine=EngineType.VLLM, pods=PodOptions(**options))


def engine(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["spec"]["containers"][0]
    return found


def test_weights_are_kept_on_a_claim_and_the_token_is_a_reference() -> None:
    made = pod(cache=ModelCacheSpec(claim_name="weights"), token_secret=SecretKeySpec(name="hub"))
    (volume,) = made["spec"]["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "weights"}
    assert engine(made)["volumeMounts"] == [{"name": "model-cache", "mountPath": "/model-cache"}]
    env = {each["name"]: each for each in engine(made)["env"]}
    assert env["HF_HOME"]["value"] == "/model-cache"
    assert env["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}


def test_a_revision_is_asked_of_the_engine() -> None:
    assert "--revision=v2" in engine(pod(revision="v2"))["command"]
    assert not [flag for flag in engine(pod())["command"] if flag.startswith("--revision")]


def test_gpus_are_counted_or_claimed_of_a_device_class() -> None:
    counted, claimed = pod(), pod(device_class="gpu.nvidia.com")
    assert engine(counted)["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert "resourceClaims" not in counted["spec"]
    (claim,) = claimed["spec"]["resourceClaims"]
    assert engine(claimed)["resources"] == {"claims": [{"name": claim["name"]}]}
    assert "nodeSelector" not in claimed["spec"]
    template = claim_template(vllm(device_class="gpu.nvidia.com"), OWNER)
    assert template["metadata"]["name"] == claim["resourceClaimTemplateName"]
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"]["deviceClassName"] == "gpu.nvidia.com"
    assert request["exactly"]["count"] == 1


def test_a_template_is_laid_over_the_pod_and_cannot_hide_it_from_the_operator() -> None:
    template = {
        "metadata": {"labels": {"team": "nlp", labels.SERVICE: "mine"}, "annotations": {"a": "b"}},
        "spec": {
            "priorityClassName": "high",
            "restartPolicy": "Always",
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [{"name": "engine", "resources": {"requests": {"cpu": "8"}}}],
        },
    }
    made = pod(template=json.dumps(template))
    assert made["spec"]["priorityClassName"] == "high"
    assert made["spec"]["restartPolicy"] == "Never"
    assert made["metadata"]["labels"]["team"] == "nlp"
    assert made["metadata"]["labels"][labels.SERVICE] == "chat"
    assert made["metadata"]["annotations"] == {"a": "b"}
    assert engine(made)["resources"] == {
        "limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "8"},
    }  # fmt: skip
    changed = vllm(template=json.dumps(template))
    assert template_hash(changed, IMAGES) != template_hash(vllm(), IMAGES)


def test_a_start_gets_four_times_what_starts_took_and_that_is_no_rollout() -> None:
    slow = engine_pod(vllm(), OWNER, IMAGES, start_up_s=200.0)
    assert engine(slow)["startupProbe"]["failureThreshold"] == 800
    assert engine(pod())["startupProbe"]["failureThreshold"] == 120
    assert slow["metadata"]["labels"] == pod()["metadata"]["labels"]


def test_one_serving_replica_may_be_evicted_at_a_time() -> None:
    for serving, kept in ((5, 4), (1, 0), (0, 0)):
        budget = disruption_budget(a_service(), OWNER, serving)
        assert budget["spec"]["minAvailable"] == kept
    assert budget["spec"]["selector"]["matchLabels"][labels.ROLE] == labels.ROLE_SERVING


def test_engines_are_reached_by_their_router_and_by_those_who_read_metrics_alone() -> None:
    engines, router = network_policies(a_service(), OWNER, ("whaleflux-system",))
    ((rule,), name) = engines["spec"]["ingress"], "kubernetes.io/metadata.name"
    own, watcher = rule["from"]
    assert own["podSelector"]["matchLabels"][labels.SERVICE] == "chat"
    assert watcher["namespaceSelector"]["matchLabels"] == {name: "whaleflux-system"}
    assert "from" not in router["spec"]["ingress"][0]


def test_a_gateway_routes_where_it_is_asked_to_and_the_other_way_is_cleared() -> None:
    picker = EndpointPickerSpec(name="epp")
    router = RouterSpec(type=RouterType.INFERENCE_POOL, endpoint_picker=picker)
    service = vllm(router=router)
    (pool,) = routing_objects(service, OWNER, IMAGES)
    assert pool["spec"]["selector"]["matchLabels"] == {
        labels.SERVICE: "chat", labels.ROLE: labels.ROLE_SERVING,
    }  # fmt: skip
    assert pool["spec"]["targetPorts"] == [{"number": 8000}]
    assert endpoint(service) == ""
    assert "Deployment" in {thing["kind"] for thing in unwanted_routing(service, OWNER)}
    assert [t["kind"] for t in unwanted_routing(vllm(), OWNER)] == ["InferencePool"]


def test_the_manifest_says_all_of_it() -> None:
    manifest = a_manifest(
        model={
            "uri": "meta-llama/Llama-3.2-1B-Instruct", "revision": "main",
            "cache": {"claimName": "weights"}, "tokenSecret": {"name": "hub"},
        },
        placement={"gpu": "L4", "deviceClass": "gpu.nvidia.com"},
        router={"replicas": 3},
    )  # fmt: skip
    manifest["spec"]["engine"]["podTemplate"] = {"spec": {"priorityClassName": "high"}}
    options = resolve_service(parse_service(manifest, "test"), {}).pods
    assert replace(options, template="{}") == PodOptions(
        revision="main",
        cache=ModelCacheSpec(claim_name="weights"),
        token_secret=SecretKeySpec(name="hub"),
        device_class="gpu.nvidia.com",
        router=RouterSpec(replicas=3),
    )
    assert json.loads(options.template) == {"spec": {"priorityClassName": "high"}}
