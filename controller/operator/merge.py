"""Strategic merge: a user's template laid over a Pod, as `kubectl patch --type=strategic` does.

Maps are merged key by key, `null` takes a key away. Lists whose items have a name of their own are
merged item by item, others are replaced. Kubernetes publishes these keys in its OpenAPI document
(`x-kubernetes-patch-merge-key`); those of Pods are few and do not change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "env": "name",
    "resourceClaims": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "tolerations": "key",
}
"""What tells the items of a list in a Pod apart; tolerations are ours: Kubernetes replaces them,
and a user's would take away what gives lost nodes up."""


def merged(base: Any, over: Any, field: str = "") -> Any:
    """Lay `over` over `base`; `field`: the name of the field that both are."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return _map(base, over)
    if isinstance(base, Sequence) and isinstance(over, Sequence) and field in _KEYS:
        return _list(base, over, _KEYS[field])
    return over


def _map(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(base.get(key), value, key)
    return result


def _list(base: Sequence[Any], over: Sequence[Any], key: str) -> list[Any]:
    """Merge items of the same name; `$patch: delete` drops one, new ones come last."""
    if not all(isinstance(item, Mapping) for item in (*base, *over)):
        return list(over)
    result = {item.get(key): dict(item) for item in base}
    for item in over:
        name = item.get(key)
        if item.get("$patch") == "delete":
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name, {}), item)
    return list(result.values())
