"""Read manifests: YAML files or folders with LLMService and EngineProfile documents."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from controller.api.llmservice import GROUP, VERSION, LLMService
from profiler.document import first_fault, parse_profile_document
from profiler.errors import Refused
from profiler.profile import EngineProfile

_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Manifests:
    """What was asked for: services in the order given, profiles by name."""

    services: tuple[LLMService, ...]
    profiles: Mapping[str, EngineProfile]


def read_manifests(paths: list[Path]) -> Manifests:
    """Read every document; `Refused` names file, document and field of the first fault."""
    services: list[LLMService] = []
    profiles: dict[str, EngineProfile] = {}
    for path in paths:
        for place, document in _documents(path):
            kind = document.get("kind")
            if kind == "LLMService":
                services.append(parse_service(document, place))
            elif kind == "EngineProfile":
                name = _profile_name(document, place)
                if name in profiles:
                    raise Refused(f"{place}: EngineProfile {name!r} is given twice: rename one")
                profiles[name] = parse_profile_document(document, place)
            else:
                raise Refused(f"{place}: kind {kind!r} is neither LLMService nor EngineProfile")
    names = [service.metadata.name for service in services]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Refused(f"LLMService {twice!r} is given twice: rename one")
    if not services:
        raise Refused("the manifests hold no LLMService: add one")
    return Manifests(tuple(services), profiles)


def parse_service(document: Mapping[str, Any], place: str) -> LLMService:
    """Validate one LLMService; `Refused` names the field and what is wrong with it."""
    _require_version(document, place)
    try:
        return LLMService.model_validate(document)
    except ValidationError as error:
        raise Refused(f"{place}: {first_fault(error)}") from error


def _require_version(document: Mapping[str, Any], place: str) -> None:
    expected, given = f"{GROUP}/{VERSION}", document.get("apiVersion")
    if given != expected:
        raise Refused(f"{place}: apiVersion must be {expected}, got {given!r}")


def _profile_name(document: Mapping[str, Any], place: str) -> str:
    _require_version(document, place)
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        raise Refused(f"{place}: metadata.name: give the EngineProfile a name")
    return name


def _documents(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    files = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    if not files:
        raise Refused(f"{path}: no YAML file in this folder")
    for file in files:
        for number, document in enumerate(_load(file), start=1):
            place = f"{file} document {number}"
            if document is None:
                continue
            if not isinstance(document, dict):
                raise Refused(f"{place}: is no Kubernetes object")
            yield place, document


def _load(file: Path) -> list[Any]:
    try:
        if file.stat().st_size > _LIMIT_BYTES:
            raise Refused(f"{file}: larger than {_LIMIT_BYTES >> 20} MiB, so it is no manifest")
        return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise Refused(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date of month 13 is one
        raise Refused(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
