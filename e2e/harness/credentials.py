"""Users, tokens and keys of the end-to-end cluster, written as the servers read them.

Called by `cluster` once per start, and by the node for its pods' kubeconfigs.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "https://kubernetes.default.svc.cluster.local"

# Each its own name, so that an audit log tells who asked; all are administrators.
USERS = ("e2e-admin", "e2e-scheduler", "e2e-controller-manager", "e2e-node")

AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


def write_tokens(path: Path) -> dict[str, str]:
    """Write the static token file; return the token of each user."""
    tokens = {user: secrets.token_hex(16) for user in USERS}
    lines = [f"{token},{user},{user},system:masters" for user, token in tokens.items()]
    path.write_text("\n".join(lines) + "\n")
    return tokens


def write_service_account_key(path: Path) -> None:
    """Write the key that signs and checks service-account tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )


def write_ca(served: Path, ca_file: Path) -> None:
    """Write the authority's certificate, the last of those that the API server made itself."""
    marker = "-----BEGIN CERTIFICATE-----"
    ca_file.write_text(marker + served.read_text().rpartition(marker)[2])


def kubeconfig(url: str, ca_file: Path, token: str, namespace: str) -> dict[str, Any]:
    """A kubeconfig with one cluster, one user and one context."""
    cluster = {"server": url, "certificate-authority": str(ca_file)}
    context = {"cluster": "e2e", "user": "e2e", "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": cluster}],
        "users": [{"name": "e2e", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": context}],
        "current-context": "e2e",
    }
