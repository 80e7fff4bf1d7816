"""The objects that the operator makes: owned, labelled, locked down, hashed by what runs."""

from dataclasses import replace
from typing import Any

import pytest

from controller.api.llmservice import EngineType
from controller.engine_command import SHUTDOWN_TIMEOUT_S
from controller.operator import labels
from controller.operator.engine_pod import engine_pod, template_hash
from controller.operator.manifests import Images, Owner
from controller.operator.paths import path_of
from controller.operator.routing import endpoint, router_objects
from controller.service import Bounds, Service
from profiler.configuration import Configuration
from profiler.slo import Slo
from tests.controller.builders import a_capacity, a_profile, a_service

OWNER = Owner("chat", "uid-1")
IMAGES = Images("whaleflux:1", "vllm:1")
SERVICE = a_service()
VLLM = a_service(engine=EngineType.VLLM, configuration=Configuration(tensor_parallel_size=2))


def everything() -> list[dict[str, Any]]:
    return [engine_pod(SERVICE, OWNER, IMAGES), *router_objects(SERVICE, OWNER, IMAGES)]


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["spec"]["containers"]
    return dict(found)


def test_everything_is_owned_so_that_deleting_the_service_leaves_nothing() -> None:
    for thing in everything():
        (owner,) = thing["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("LLMService", "chat", "uid-1")
        assert owner["controller"] is True
        assert thing["metadata"]["namespace"] == "default"


def test_everything_is_labelled_as_ours_and_the_services() -> None:
    for thing in everything():
        found = thing["metadata"]["labels"]
        assert found[labels.MANAGED_BY] == "whaleflux"
        assert found[labels.SERVICE] == found["app.kubernetes.io/instance"] == "chat"


def test_a_pod_is_born_a_standby_and_has_no_fixed_name() -> None:
    meta = engine_pod(SERVICE, OWNER, IMAGES)["metadata"]
    assert meta["labels"][labels.ROLE] == labels.ROLE_STANDBY
    assert meta["labels"][labels.TEMPLATE] == template_hash(SERVICE, IMAGES)
    assert meta["generateName"] == "chat-"


def test_no_pod_carries_rights_it_does_not_need() -> None:
    pod = engine_pod(SERVICE, OWNER, IMAGES)
    deployment = next(t for t in everything() if t["kind"] == "Deployment")
    router = deployment["spec"]["template"]["spec"]["containers"][0]
    for secured in (container(pod)["securityContext"], router["securityContext"]):
        assert secured["allowPrivilegeEscalation"] is False
        assert secured["capabilities"] == {"drop": ["ALL"]}
        assert secured["runAsNonRoot"] is True
        assert secured["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["restartPolicy"] == "Never"


def test_the_grace_period_outlasts_the_engines_own_draining() -> None:
    spec = engine_pod(SERVICE, OWNER, IMAGES)["spec"]
    pre_stop_s = container({"spec": spec})["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > SHUTDOWN_TIMEOUT_S + pre_stop_s


def test_a_start_may_take_several_times_what_the_profile_predicts() -> None:
    slow = a_service(profile=a_profile(start_up_s=600.0))
    probe = container(engine_pod(slow, OWNER, IMAGES))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 2400
    quick = container(engine_pod(SERVICE, OWNER, IMAGES))["startupProbe"]
    assert quick["periodSeconds"] * quick["failureThreshold"] == 120


def test_a_vllm_pod_asks_for_its_gpus_by_product() -> None:
    pod = engine_pod(VLLM, OWNER, IMAGES)
    assert container(pod)["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    assert pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert "--tensor-parallel-size=2" in container(pod)["command"]


def test_an_emulated_pod_asks_for_none() -> None:
    pod = engine_pod(SERVICE, OWNER, IMAGES)
    assert "resources" not in container(pod)
    assert "nodeSelector" not in pod["spec"]
    assert container(pod)["command"][:2] == ["whaleflux", "emulate"]


@pytest.mark.parametrize(
    ("service", "image"),
    [
        (SERVICE, "whaleflux:1"),
        (VLLM, "vllm:1"),
        (replace(VLLM, image="mine:2"), "mine:2"),
        (replace(SERVICE, image="mine:2"), "mine:2"),
    ],
)
def test_a_services_own_image_goes_before_the_operators(service: Any, image: str) -> None:
    assert container(engine_pod(service, OWNER, IMAGES))["image"] == image


SAME: dict[str, Any] = {
    "bounds": Bounds(2, 9),
    "standbys": 3,
    "generation": 8,
    "capacity": a_capacity(9.0),
    "slo": Slo(ttft_s=9.0),
}
OTHER: dict[str, Any] = {
    "image": "mine:2",
    "args": ("--seed=1",),
    "served_name": "other",
    "model": "org/other",
    "configuration": Configuration(max_num_seqs=32),
    "engine": EngineType.VLLM,
}


@pytest.mark.parametrize("field", SAME)
def test_what_does_not_run_in_a_replica_is_no_rollout(field: str) -> None:
    changed = replace(SERVICE, **{field: SAME[field]})
    assert template_hash(changed, IMAGES) == template_hash(SERVICE, IMAGES)


@pytest.mark.parametrize("field", OTHER)
def test_what_runs_in_a_replica_is_a_rollout(field: str) -> None:
    changed = replace(SERVICE, **{field: OTHER[field]})
    assert template_hash(changed, IMAGES) != template_hash(SERVICE, IMAGES)


def test_a_pod_keeps_away_from_nodes_only_where_it_can_and_that_is_no_rollout() -> None:
    pod = engine_pod(SERVICE, OWNER, IMAGES, ("n1", "n2"))
    ((preferred,),) = pod["spec"]["affinity"]["nodeAffinity"].values()
    fields = preferred["preference"]["matchFields"]
    assert [(f["key"], f["operator"], f["values"]) for f in fields] == [
        ("metadata.name", "NotIn", ["n1"]),
        ("metadata.name", "NotIn", ["n2"]),
    ]
    assert pod["metadata"]["labels"][labels.TEMPLATE] == template_hash(SERVICE, IMAGES)
    assert "nodeAffinity" not in engine_pod(SERVICE, OWNER, IMAGES)["spec"]["affinity"]


def test_services_with_fallbacks_route_by_the_shortest_queue() -> None:
    def policy(service: Service) -> str:
        deployment = router_objects(service, OWNER, IMAGES)[3]
        command = deployment["spec"]["template"]["spec"]["containers"][0]["command"]
        return next(str(flag) for flag in command if flag.startswith("--policy="))

    assert policy(SERVICE) == "--policy=round_robin"
    assert policy(replace(SERVICE, fallbacks=(VLLM,))) == "--policy=cache_aware"


def test_another_image_of_the_operator_is_a_rollout_of_who_uses_it() -> None:
    images = Images("whaleflux:1", "vllm:2")
    assert template_hash(SERVICE, images) == template_hash(SERVICE, IMAGES)
    assert template_hash(VLLM, images) != template_hash(VLLM, IMAGES)


def test_the_router_follows_the_serving_pods_of_its_service_alone() -> None:
    objects = {thing["kind"]: thing for thing in router_objects(SERVICE, OWNER, IMAGES)}
    assert list(objects) == [
        "ServiceAccount", "Role", "RoleBinding", "Deployment", "Service", "PodDisruptionBudget",
    ]  # fmt: skip
    assert objects["Deployment"]["spec"]["replicas"] == 2
    pod = objects["Deployment"]["spec"]["template"]
    command = pod["spec"]["containers"][0]["command"]
    place = command.index("--selector")
    assert command[place + 1 : place + 3] == [
        f"{labels.SERVICE}=chat",
        f"{labels.ROLE}={labels.ROLE_SERVING}",
    ]
    assert "--service-discovery-namespace=default" in command
    selector = objects["Deployment"]["spec"]["selector"]["matchLabels"]
    assert selector.items() <= pod["metadata"]["labels"].items()
    assert objects["Service"]["spec"]["selector"] == selector
    assert labels.TEMPLATE not in pod["metadata"]["labels"]  # it is no replica
    (rule,) = objects["Role"]["rules"]
    assert (rule["resources"], set(rule["verbs"])) == (["pods"], {"get", "list", "watch"})


def test_clients_find_the_service_under_its_own_name() -> None:
    assert endpoint(SERVICE) == "http://chat.default.svc"


def test_objects_have_paths_in_the_api() -> None:
    paths = [path_of(thing) for thing in router_objects(SERVICE, OWNER, IMAGES)]
    assert paths[0] == "/api/v1/namespaces/default/serviceaccounts/chat-router"
    assert paths[1] == ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/chat-router")
    assert paths[3] == "/apis/apps/v1/namespaces/default/deployments/chat-router"


def test_replicas_are_spread_over_zones_and_nodes_where_there_is_room() -> None:
    spec = engine_pod(a_service(), OWNER, IMAGES)["spec"]
    (nodes,) = spec["topologySpreadConstraints"]
    assert (nodes["topologyKey"], nodes["whenUnsatisfiable"]) == (
        "kubernetes.io/hostname", "ScheduleAnyway",
    )  # fmt: skip
    ((zones,),) = spec["affinity"]["podAntiAffinity"].values()
    term = zones["podAffinityTerm"]
    assert term["topologyKey"] == "topology.kubernetes.io/zone"
    assert term["labelSelector"] == nodes["labelSelector"]
    assert nodes["labelSelector"]["matchLabels"][labels.SERVICE] == "chat"


def test_where_a_pod_may_stand_and_how_it_is_probed_is_no_rollout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = template_hash(SERVICE, IMAGES)
    monkeypatch.setattr("controller.operator.engine_pod._LOST_NODE_S", 7)
    monkeypatch.setattr("controller.operator.engine_pod._GRACE_S", 7)
    monkeypatch.setattr("controller.operator.engine_pod.spread", lambda *_: {"maxSkew": 2})
    assert template_hash(SERVICE, IMAGES) == before
