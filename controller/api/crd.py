"""Write the CRDs from the pydantic types: `crds/*.yaml` are this module's output.

Pydantic's JSON schema is made structural: references inlined, nulls dropped, bounds
inclusive. What one object can say about itself beyond that is a CEL rule.
"""

from typing import Any

import yaml
from pydantic import BaseModel

from controller.api.llmservice import GROUP, VERSION, LLMServiceSpec
from controller.api.status import LLMServiceStatus
from profiler.document import EngineProfileSpec

_RULES: dict[str, list[dict[str, str]]] = {
    "LLMServiceSpec": [
        {
            "rule": "!(has(self.replicas) && has(self.scaling))",
            "message": "give replicas or scaling, not both",
        },
        {
            "rule": "!has(self.scaling) || (has(self.slo) && (has(self.slo.ttftMs) || "
            "has(self.slo.itlMs) || has(self.slo.e2eMs)))",
            "message": "scaling needs an slo: give slo.ttftMs, slo.itlMs or slo.e2eMs",
        },
        {
            "rule": "!(has(self.scaling) && has(self.scaling.zeroAfterSeconds) && "
            "has(self.router) && has(self.router.type) && self.router.type == 'InferencePool')",
            "message": "scaling.zeroAfterSeconds needs router.type VllmRouter, which holds "
            "requests while nobody serves",
        },
    ],
    "PlacementSpec": [
        {"rule": "has(self.gpu) != has(self.gpus)", "message": "give gpu or gpus, and not both"},
        {
            "rule": "!has(self.gpus) || !has(self.profile) || self.profile == ''",
            "message": "a profile is for one GPU type: give gpu instead of gpus",
        },
        {
            "rule": "!has(self.gpus) || !has(self.deviceClass) || self.deviceClass == ''",
            "message": "a deviceClass is for one GPU type: give gpu instead of gpus",
        },
    ],
    "RouterSpec": [
        {
            "rule": "(has(self.type) && self.type == 'InferencePool') == has(self.endpointPicker)",
            "message": "give endpointPicker with type InferencePool, and only then",
        }
    ],
    "EngineProfileSpec": [
        {
            "rule": "self.model == oldSelf.model && self.gpu == oldSelf.gpu",
            "message": "model and gpu cannot be changed: make another profile",
        }
    ],
    "EngineType": [
        {"rule": "self == oldSelf", "message": "cannot be changed: make another service"}
    ],
    "ScalingSpec": [
        {"rule": "self.min <= self.max", "message": "min exceeds max: lower min or raise max"}
    ],
}
_KEPT = (
    "type", "description", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "maxProperties", "default", "format",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
)  # fmt: skip


def _structural(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Make one schema node structural."""
    if "anyOf" in schema:  # optional: X or null
        (real,) = (option for option in schema["anyOf"] if option.get("type") != "null")
        schema = {**real, **{k: v for k, v in schema.items() if k != "anyOf"}}
    rules: list[dict[str, str]] = []
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        rules = _RULES.get(name, [])
        schema = {**definitions[name], **{k: v for k, v in schema.items() if k != "$ref"}}
    if "const" in schema:
        schema = {**schema, "enum": [schema["const"]]}
    node = {key: schema[key] for key in _KEPT if key in schema and schema[key] is not None}
    if "exclusiveMinimum" in schema:
        node["minimum"] = max(schema["exclusiveMinimum"] + 1, schema.get("minimum", 0))
    if node.get("type") == "integer":
        node["format"] = "int64"
    node |= _inside(schema, definitions)
    if rules:
        node["x-kubernetes-validations"] = rules
    return node


def _inside(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Make what a map or a list holds structural."""
    node: dict[str, Any] = {}
    if isinstance(schema.get("additionalProperties"), dict):
        node["additionalProperties"] = _structural(schema["additionalProperties"], definitions)
    if "properties" in schema:
        node["properties"] = {
            name: _structural(child, definitions) for name, child in schema["properties"].items()
        }
        if schema.get("required"):
            node["required"] = schema["required"]
    if "items" in schema:
        node["items"] = _structural(schema["items"], definitions)
    return node


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    definitions = {**schema.pop("$defs", {}), model.__name__: schema}
    return _structural({"$ref": f"#/$defs/{model.__name__}"}, definitions)


def _crd(kind: str, plural: str, short: list[str], version: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": short,
                "categories": ["whaleflux"],
            },
            "scope": "Namespaced",
            "versions": [{"name": VERSION, "served": True, "storage": True, **version}],
        },
    }


def _root(spec: dict[str, Any], status: dict[str, Any] | None, what: str) -> dict[str, Any]:
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": spec,
    }
    if status is not None:
        properties["status"] = status
    return {
        "openAPIV3Schema": {
            "type": "object",
            "description": what,
            "required": ["spec"],
            "properties": properties,
        }
    }


def _column(name: str, path: str, kind: str = "string", priority: int = 0) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return {**column, "priority": priority} if priority else column


def llmservice_crd() -> dict[str, Any]:
    """Make the CRD of LLMService, with `/status` and `/scale`."""
    ready = '.status.conditions[?(@.type=="Ready")]'
    spec, status = _schema_of(LLMServiceSpec), _schema_of(LLMServiceStatus)
    return _crd("LLMService", "llmservices", ["llms"], {
        "schema": _root(spec, status, str(LLMServiceSpec.__doc__)),
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            _column("Model", ".spec.model.uri"),
            _column("Ready", f"{ready}.status"),
            _column("Replicas", ".status.replicas", "integer"),
            _column("Desired", ".status.desiredReplicas", "integer"),
            _column("SLO%", ".status.sloAttainmentPercent"),
            _column("Reason", f"{ready}.reason"),
            _column("Decision", ".status.lastDecision.message", priority=1),
            _column("Age", ".metadata.creationTimestamp", "date"),
        ],
    })  # fmt: skip


def engineprofile_crd() -> dict[str, Any]:
    """Make the CRD of EngineProfile."""
    return _crd("EngineProfile", "engineprofiles", ["eprof"], {
        "schema": _root(_schema_of(EngineProfileSpec), None, str(EngineProfileSpec.__doc__)),
        "additionalPrinterColumns": [
            _column("Model", ".spec.model"),
            _column("GPU", ".spec.gpu"),
            _column("TP", ".spec.tensorParallelSize", "integer"),
            _column("Engine", ".spec.engineVersion"),
            _column("Source", ".spec.source"),
            _column("Age", ".metadata.creationTimestamp", "date"),
        ],
    })  # fmt: skip


def crd_files() -> dict[str, str]:
    """File name → YAML of every CRD."""
    crds = (llmservice_crd(), engineprofile_crd())
    return {
        f"{crd['metadata']['name']}.yaml": "# Generated by `whaleflux crds`; do not edit.\n"
        + yaml.safe_dump(crd, sort_keys=False, width=100)
        for crd in crds
    }
