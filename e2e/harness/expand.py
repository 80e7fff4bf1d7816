"""What a container is told: its environment, and `$(VAR)` in its command.

Pure functions over the pod's JSON; called by `container` before each start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]
Lookup = Callable[[str, str], Mapping[str, str] | None]
"""(kind, name) → the decoded data of a ConfigMap or Secret; None when it is not there."""

_REFERENCE = re.compile(r"\$(\$|\(([A-Za-z_.-][A-Za-z0-9_.-]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class NotConfigured(RuntimeError):
    """A ConfigMap, Secret or key that the container needs is not there."""


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; `$$` stands for `$`, and an unknown name stays as it is."""

    def put(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return values.get(found[2], found[0])

    return _REFERENCE.sub(put, text)


def field(pod: Json, path: str) -> str:
    """A downward-API field of a pod, as text."""
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript:
        return str(pod["metadata"].get(subscript[1], {}).get(subscript[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        found = pod["metadata"].get(path.split(".")[1], {})
        return "\n".join(f'{key}="{value}"' for key, value in sorted(found.items()))
    if path == "status.podIPs":
        return ",".join(each["ip"] for each in pod["status"].get("podIPs", []))
    node: Any = pod
    for part in path.split("."):
        node = node.get(part, "") if isinstance(node, dict) else ""
    return str(node)


def environment(pod: Json, container: Json, lookup: Lookup) -> dict[str, str]:
    """The variables that the pod's spec gives a container, in order, expanded."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        values.update(_from_whole(source, lookup))
    for entry in container.get("env", ()):
        if "valueFrom" in entry:
            text = _from_one(pod, container, entry["valueFrom"], lookup)
            if text is not None:
                values[entry["name"]] = text
        else:
            values[entry["name"]] = expand(entry.get("value", ""), values)
    return values


def replace_paths(text: str, places: Mapping[str, str]) -> str:
    """Put real folders where mount paths stand, whole path parts only."""
    if not places:
        return text
    longest_first: Sequence[str] = sorted(places, key=len, reverse=True)
    paths = "|".join(re.escape(path) for path in longest_first)
    return re.sub(rf"(?<![\w./-])(?:{paths})(?![\w.-])", lambda at: places[at[0]], text)


def _from_whole(source: Json, lookup: Lookup) -> dict[str, str]:
    kind = "ConfigMap" if "configMapRef" in source else "Secret"
    reference = source.get("configMapRef") or source["secretRef"]
    data = lookup(kind, reference["name"])
    if data is None:
        if reference.get("optional"):
            return {}
        raise NotConfigured(f'{kind.lower()} "{reference["name"]}" not found')
    prefix = source.get("prefix", "")
    return {f"{prefix}{key}": value for key, value in data.items()}


def _from_one(pod: Json, container: Json, source: Json, lookup: Lookup) -> str | None:
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return _resource(container, source["resourceFieldRef"]["resource"])
    kind = "ConfigMap" if "configMapKeyRef" in source else "Secret"
    reference = source.get("configMapKeyRef") or source["secretKeyRef"]
    data = lookup(kind, reference["name"])
    if data is not None and reference["key"] in data:
        return data[reference["key"]]
    if reference.get("optional"):
        return None
    missing = f"key {reference['key']} in " if data is not None else ""
    raise NotConfigured(f'{missing}{kind.lower()} "{reference["name"]}" not found')


def _resource(container: Json, name: str) -> str:
    """A limit or request as it is written in the spec: no divisor is applied."""
    kind, _, resource = name.partition(".")
    return str(container.get("resources", {}).get(kind, {}).get(resource, "0"))
