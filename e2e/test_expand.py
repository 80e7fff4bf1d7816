"""What a container is told: variables, fields and paths, without a cluster."""

from __future__ import annotations

import pytest

from e2e.harness.expand import NotConfigured, environment, expand, field, replace_paths

POD = {
    "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app.kubernetes.io/name": "web"}},
    "spec": {"nodeName": "gpu-1"},
    "status": {"podIP": "127.20.1.2", "podIPs": [{"ip": "127.20.1.2"}]},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--host=$(POD_IP)", "--host=127.0.0.9"),
        ("$(POD_IP):$(PORT)", "127.0.0.9:80"),
        ("$$(POD_IP)", "$(POD_IP)"),
        ("$(ABSENT) $HOME $", "$(ABSENT) $HOME $"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expected: str) -> None:
    assert expand(text, {"POD_IP": "127.0.0.9", "PORT": "80"}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/etc/app", "/tmp/v1"),
        ("--config=/etc/app/a.yaml", "--config=/tmp/v1/a.yaml"),
        ("open('/etc/app/tls/key')", "open('/tmp/v2/key')"),
        ("/etc/apple /srv/etc/app", "/etc/apple /srv/etc/app"),
        ("/etc/app:/etc/app/tls", "/tmp/v1:/tmp/v2"),
    ],
)
def test_mount_paths_are_replaced_as_whole_parts(text: str, expected: str) -> None:
    assert replace_paths(text, {"/etc/app": "/tmp/v1", "/etc/app/tls": "/tmp/v2"}) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "web-0"),
        ("metadata.labels['app.kubernetes.io/name']", "web"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "gpu-1"),
        ("status.podIPs", "127.20.1.2"),
    ],
)
def test_fields_are_read_from_the_pod(path: str, expected: str) -> None:
    assert field(POD, path) == expected


def test_later_variables_see_earlier_ones() -> None:
    container = {
        "envFrom": [{"prefix": "S_", "secretRef": {"name": "keys"}}],
        "env": [
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "URL", "value": "http://$(HOST)/$(S_TOKEN)"},
        ],
    }
    found = environment(POD, container, lambda kind, name: {"TOKEN": f"{kind}-{name}"})
    assert found["URL"] == "http://127.20.1.2/Secret-keys"


def test_a_missing_key_is_named_unless_it_is_optional() -> None:
    reference = {"name": "settings", "key": "level"}
    container = {"env": [{"name": "LEVEL", "valueFrom": {"configMapKeyRef": reference}}]}
    with pytest.raises(NotConfigured, match='key level in configmap "settings" not found'):
        environment(POD, container, lambda kind, name: {})
    with pytest.raises(NotConfigured, match='configmap "settings" not found'):
        environment(POD, container, lambda kind, name: None)
    reference["optional"] = True  # type: ignore[assignment]
    assert environment(POD, container, lambda kind, name: None) == {}
