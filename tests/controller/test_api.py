"""The API at its edge: manifests there and back, one line a fault, CRDs made from the types."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api import LLMService, Manifests, parse_service, read_manifests
from controller.api.crd import crd_files, engineprofile_crd, llmservice_crd
from controller.api.llmservice import EngineType
from controller.service import Bounds, resolve_service
from profiler.document import to_document
from profiler.errors import DoesNotFit, Refused
from profiler.slo import Slo
from tests.controller.builders import a_manifest, a_profile

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]


def written(folder: Path, *documents: Any, name: str = "service.yaml") -> Path:
    file = folder / name
    file.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return file


def read(folder: Path, *documents: Any) -> Manifests:
    return read_manifests([written(folder, *documents)])


def profile_document(name: str = "mine", **changes: Any) -> Json:
    return to_document(a_profile(**changes), name)


def refusal(read_it: Callable[[], object]) -> str:
    """The one line that a person gets."""
    with pytest.raises(Refused) as caught:
        read_it()
    line = str(caught.value)
    assert "\n" not in line
    return line


# -- there and back ---------------------------------------------------------------------


def test_a_manifest_says_the_same_there_and_back() -> None:
    first = LLMService.model_validate(a_manifest())
    document = first.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert document == a_manifest()
    assert LLMService.model_validate(document) == first


def test_what_is_left_out_has_the_promised_defaults() -> None:
    spec = LLMService.model_validate(
        a_manifest(
            engine=None, slo=None, workload=None, scaling=None, resilience=None,
            model={"uri": "org/model"},
        )
    ).spec  # fmt: skip
    assert spec.engine.type is EngineType.VLLM
    assert (spec.engine.image, spec.engine.args, spec.engine.max_num_seqs) == ("", [], None)
    assert (spec.slo.ttft_ms, spec.slo.itl_ms, spec.slo.e2e_ms) == (None, None, None)
    assert spec.slo.percentile == 95
    assert (spec.workload.requests_per_second, spec.workload.burstiness) == ("1", "1")
    assert (spec.workload.input_tokens, spec.workload.output_tokens) == (1024, 256)
    assert (spec.replicas, spec.scaling, spec.resilience.standbys) == (None, None, 0)


def test_several_documents_files_and_folders_are_read_in_order(tmp_path: Path) -> None:
    written(tmp_path, a_manifest(name="b"), None, a_manifest(name="a"), name="1.yaml")
    written(tmp_path, a_manifest(name="c"), name="2.yml")
    (tmp_path / "notes.txt").write_text("no manifest")
    other = tmp_path / "other"
    other.mkdir()
    file = written(other, profile_document(), a_manifest(name="d"))
    found = read_manifests([tmp_path, file])
    assert [service.metadata.name for service in found.services] == ["b", "a", "c", "d"]
    assert list(found.profiles) == ["mine"]


def test_fields_of_the_cluster_are_accepted() -> None:
    """`kubectl get -o yaml` can be applied again."""
    document = a_manifest() | {"status": {"replicas": 3}}
    document["metadata"] |= {"namespace": "team", "labels": {"a": "b"}, "managedFields": []}
    assert parse_service(document, "here").metadata.namespace == "team"


# -- one line a fault -------------------------------------------------------------------

SPEC_FAULTS: dict[str, tuple[Json, str]] = {
    "unknown field": ({"engine": {"typ": "vllm"}}, "spec.engine.typ: Extra inputs are not"),
    "replicas and scaling": ({"replicas": 2}, "spec: give replicas or scaling, not both"),
    "min above max": (
        {"scaling": {"min": 4, "max": 2}},
        "spec.scaling: min 4 exceeds max 2: lower min or raise max",
    ),
    "scaling without slo": (
        {"slo": None},
        "spec: scaling needs an slo: give slo.ttftMs, slo.itlMs or slo.e2eMs",
    ),
    "slo without a bound": ({"slo": {"percentile": 90}}, "spec: scaling needs an slo"),
    "scaling without max": ({"scaling": {"min": 1}}, "spec.scaling.max: Field required"),
    "no model": ({"model": None}, "spec.model: Field required"),
    "no placement": ({"placement": None}, "spec.placement: Field required"),
    "unknown engine": (
        {"engine": {"type": "tgi"}},
        "spec.engine.type: Input should be 'vllm' or 'emulated'",
    ),
    "negative replicas": (
        {"scaling": None, "replicas": -1},
        "spec.replicas: Input should be greater than or equal to 0",
    ),
    "a float": ({"slo": {"ttftMs": 0.5}}, "spec.slo.ttftMs: Input should be a valid integer"),
    "a rate in words": (
        {"workload": {"requestsPerSecond": "many"}},
        "spec.workload.requestsPerSecond: String should match pattern",
    ),
    "a rate as a number": (
        {"workload": {"requestsPerSecond": 2}},
        "spec.workload.requestsPerSecond: Input should be a valid string",
    ),
    "percentile 100": ({"slo": {"ttftMs": 1, "percentile": 100}}, "spec.slo.percentile: Input"),
    "too many standbys": ({"resilience": {"standbys": 11}}, "spec.resilience.standbys: Input"),
}


@pytest.mark.parametrize("fault", SPEC_FAULTS)
def test_a_fault_names_file_document_field_and_mend(tmp_path: Path, fault: str) -> None:
    spec, said = SPEC_FAULTS[fault]
    file = written(tmp_path, a_manifest(name="fine"), a_manifest(**spec))
    line = refusal(lambda: read_manifests([file]))
    assert line.startswith(f"{file} document 2: {said}")


@pytest.mark.parametrize("name", ["Chat", "chat_1", "-chat", "chat-", "1chat", "", "c" * 41, "a.b"])
def test_a_name_that_no_service_can_have_is_refused(tmp_path: Path, name: str) -> None:
    line = refusal(lambda: read(tmp_path, a_manifest(name=name)))
    assert "document 1: metadata.name: String should" in line


@pytest.mark.parametrize("version", ["serving.whaleflux.io/v1", "v1", None, 1])
@pytest.mark.parametrize("kind", ["LLMService", "EngineProfile"])
def test_another_version_is_refused(tmp_path: Path, version: object, kind: str) -> None:
    document = a_manifest() if kind == "LLMService" else profile_document()
    line = refusal(lambda: read(tmp_path, document | {"apiVersion": version}))
    assert "document 1: apiVersion must be serving.whaleflux.io/v1alpha1, got" in line


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "\tkey: value",
        "a: b: c",
        "when: 2026-13-45",
        "? [a]\n: 1\n{",
        "a: !python/object x",
    ],
)
def test_what_is_not_yaml_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    assert refusal(lambda: read_manifests([file])).startswith(f"{file}: is not YAML: ")


def test_bytes_that_are_no_text_are_not_yaml(tmp_path: Path) -> None:
    file = tmp_path / "binary.yaml"
    file.write_bytes(b"\xff\xfe\x00\x81")
    assert "is not YAML" in refusal(lambda: read_manifests([file]))


@pytest.mark.parametrize("document", ["just text", 7, ["a", "list"]])
def test_a_document_that_is_no_object_is_refused(tmp_path: Path, document: object) -> None:
    line = refusal(lambda: read(tmp_path, document))
    assert line.endswith("document 1: is no Kubernetes object")


@pytest.mark.parametrize("kind", ["Deployment", None, 3, ["LLMService"]])
def test_another_kind_is_refused(tmp_path: Path, kind: object) -> None:
    line = refusal(lambda: read(tmp_path, a_manifest() | {"kind": kind}))
    assert f"kind {kind!r} is neither LLMService nor EngineProfile" in line


def test_an_empty_folder_a_missing_file_and_an_empty_file_are_told(tmp_path: Path) -> None:
    assert refusal(lambda: read_manifests([tmp_path])) == f"{tmp_path}: no YAML file in this folder"
    missing = tmp_path / "missing.yaml"
    line = refusal(lambda: read_manifests([missing]))
    assert line == f"{missing}: cannot be read: No such file or directory"
    missing.write_text("")
    assert refusal(lambda: read_manifests([missing])) == (
        "the manifests hold no LLMService: add one"
    )


def test_names_given_twice_are_refused(tmp_path: Path) -> None:
    line = refusal(lambda: read(tmp_path, a_manifest(), a_manifest()))
    assert line == "LLMService 'chat' is given twice: rename one"
    line = refusal(lambda: read(tmp_path, profile_document(), profile_document(), a_manifest()))
    assert line.endswith("document 2: EngineProfile 'mine' is given twice: rename one")


@pytest.mark.parametrize("metadata", [None, {}, "mine", ["mine"], {"name": 3}, {"name": ""}])
def test_a_profile_without_a_name_is_refused(tmp_path: Path, metadata: object) -> None:
    document = profile_document() | {"metadata": metadata}
    line = refusal(lambda: read(tmp_path, document, a_manifest()))
    assert line.endswith("document 1: metadata.name: give the EngineProfile a name")


def test_a_fault_of_a_profile_names_its_field(tmp_path: Path) -> None:
    document = profile_document()
    document["spec"]["stepCost"]["dense"][0]["s"] = "soon"
    line = refusal(lambda: read(tmp_path, document, a_manifest()))
    assert "document 1: spec.stepCost.dense.0.s: String should match pattern" in line


def test_a_file_larger_than_any_manifest_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    file.write_bytes(b"#" * (5 << 20))
    assert "larger than 4 MiB" in refusal(lambda: read_manifests([file]))


# -- resolved ---------------------------------------------------------------------------


def unresolved(profiles: Json | None = None, **spec: Any) -> str:
    manifest = parse_service(a_manifest(**spec), "here")
    return refusal(lambda: resolve_service(manifest, profiles or {}))


def test_an_unknown_gpu_is_told_with_the_nearest_names() -> None:
    line = unresolved(placement={"gpu": "H100"})
    assert line.startswith("gpu: unknown type 'H100'; did you mean H100-SXM or H100-PCIe?")


def test_an_unknown_profile_is_told_with_the_known_ones() -> None:
    placement = {"gpu": "L4", "profile": "theirs"}
    assert unresolved(placement=placement) == (
        "spec.placement.profile: no EngineProfile 'theirs' (none is given)"
    )
    known = {"mine": a_profile()}
    assert unresolved(known, placement=placement).endswith("'theirs' (mine)")


def test_a_model_that_cannot_fit_says_what_takes_the_room() -> None:
    big = {"uri": "meta-llama/Llama-3.1-70B-Instruct"}
    manifest = parse_service(
        a_manifest(
            model=big,
            engine={"tensorParallelSize": 1, "pipelineParallelSize": 1},
            placement={"gpu": "L4"},
        ),
        "here",
    )
    with pytest.raises(DoesNotFit, match=r"does not fit: .*weights take 131.4.*raise tensor_par"):
        resolve_service(manifest, {})


def test_an_objective_that_nothing_meets_says_what_the_best_reaches() -> None:
    line = unresolved(slo={"ttftMs": 1})
    assert "nothing meets it, even idle" in line
    assert "loosen TTFT to at least" in line


def test_pinned_parallelism_that_contradicts_the_profile_is_refused() -> None:
    line = unresolved(
        {"mine": a_profile()},
        placement={"gpu": "L4", "profile": "mine"},
        engine={"type": "emulated", "tensorParallelSize": 2},
    )
    assert line == (
        "spec.engine: its parallel sizes are not those of profile 'mine' (TP1): drop one of them"
    )


@pytest.mark.parametrize("field", ["requestsPerSecond", "burstiness"])
def test_a_rate_of_zero_is_refused(field: str) -> None:
    assert "must be a positive number" in unresolved(workload={field: "0"})


@pytest.mark.parametrize(
    ("counts", "bounds"),
    [
        ({"scaling": {"min": 2, "max": 3}}, Bounds(2, 3)),
        ({"scaling": None, "replicas": 4}, Bounds(4, 4)),
        ({"scaling": None, "replicas": 0}, Bounds(0, 0)),
        ({"scaling": None}, Bounds(1, 1)),
    ],
)
def test_the_manifest_resolves_once_into_seconds_and_bounds(counts: Json, bounds: Bounds) -> None:
    placement = {"gpu": "L4", "profile": "mine"}
    manifest = parse_service(a_manifest(placement=placement, **counts), "here")
    service = resolve_service(manifest, {"mine": a_profile()})
    assert service.bounds == bounds
    assert service.slo == Slo(ttft_s=1.0, itl_s=0.06, percentile=0.95)
    assert (service.id, service.served_name, service.standbys) == ("default/chat", "small", 1)
    assert (service.configuration.max_num_seqs, service.configuration.max_model_len) == (16, 4096)
    assert service.capacity.rate_rps > 0


# -- the CRDs ---------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["crds", "deploy/helm/whaleflux/files/crds"])
def test_the_crds_in_the_repository_are_those_that_the_types_make(folder: str) -> None:
    """Stale? `make crds` writes them anew."""
    files = {file.name: file.read_text() for file in (ROOT / folder).glob("*.yaml")}
    assert files == crd_files()


def nodes(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def schema_of(crd: Json) -> Json:
    found: Json = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


CRDS = (llmservice_crd(), engineprofile_crd())


@pytest.mark.parametrize("crd", CRDS)
def test_every_node_of_a_crd_is_structural(crd: Json) -> None:
    known = {"string", "integer", "boolean", "object", "array"}
    for path, node in nodes(schema_of(crd)):
        assert node.get("type") in known, path  # no floats, no nulls
        assert not {"$ref", "anyOf", "allOf", "oneOf", "$defs", "const", "title"} & set(node), path
        assert node["type"] != "array" or "items" in node, path
        assert None not in node.values(), path


@pytest.mark.parametrize("crd", CRDS)
def test_every_field_of_a_spec_is_described(crd: Json) -> None:
    for path, node in nodes(schema_of(crd)["properties"]["spec"], "spec"):
        assert path.endswith("[]") or node.get("description"), path


@pytest.mark.parametrize("crd", CRDS)
def test_required_fields_exist_and_defaults_keep_their_own_bounds(crd: Json) -> None:
    for path, node in nodes(schema_of(crd)):
        assert set(node.get("required", ())) <= set(node.get("properties", {})), path
        if "default" in node and "minimum" in node:
            assert node["default"] >= node["minimum"], path
        if "default" in node and "enum" in node:
            assert node["default"] in node["enum"], path


def test_integers_carry_inclusive_bounds() -> None:
    fields = schema_of(llmservice_crd())["properties"]["spec"]["properties"]
    assert fields["replicas"] | {"description": ""} == {
        "description": "", "type": "integer", "minimum": 0, "maximum": 1000, "format": "int64",
    }  # fmt: skip
    assert fields["scaling"]["properties"]["max"]["minimum"] == 1


def test_rules_across_fields_are_in_the_crd() -> None:
    spec = schema_of(llmservice_crd())["properties"]["spec"]
    told = [rule["message"] for rule in spec["x-kubernetes-validations"]]
    assert told == [
        "give replicas or scaling, not both",
        "scaling needs an slo: give slo.ttftMs, slo.itlMs or slo.e2eMs",
        "scaling.zeroAfterSeconds needs router.type VllmRouter, which holds requests while nobody "
        "serves",
    ]
    assert spec["properties"]["scaling"]["x-kubernetes-validations"][0]["rule"]


def test_the_resource_scales_prints_and_is_short() -> None:
    spec = llmservice_crd()["spec"]
    version = spec["versions"][0]
    assert spec["names"]["shortNames"] == ["llms"]
    assert version["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert columns == [
        "Model", "Ready", "Replicas", "Desired", "SLO%", "Reason", "Decision", "Age",
    ]  # fmt: skip


def test_conditions_are_a_map_keyed_by_type() -> None:
    status = schema_of(llmservice_crd())["properties"]["status"]
    conditions = status["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def unknown_fields(value: Any, schema: Json, path: str = "") -> Iterator[str]:
    """Fields that the API server would prune."""
    if isinstance(value, dict) and "properties" in schema:
        for name, child in value.items():
            if name not in schema["properties"]:
                yield f"{path}.{name}"
            else:
                yield from unknown_fields(child, schema["properties"][name], f"{path}.{name}")


EXAMPLES = [
    file
    for file in sorted((ROOT / "examples").rglob("*.yaml"))
    if "whaleflux.io" in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_examples_are_valid_and_nothing_in_them_would_be_pruned(file: Path) -> None:
    schemas = {crd["spec"]["names"]["kind"]: schema_of(crd) for crd in CRDS}
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        spec = schemas[document["kind"]]["properties"]["spec"]
        assert list(unknown_fields(document["spec"], spec, "spec")) == []
    read_manifests([file.parent])
