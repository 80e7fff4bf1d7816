"""The part of a kubelet's own server that `kubectl logs` needs.

Run by `node` on its address; the API server forwards to it. It listens on a
loopback address with a certificate that nobody checks.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PORT = 10250
LOOK_S = 0.1

LogFile = Callable[[str, str, str], Path | None]
"""(namespace, pod, container) → the log; None when the node never ran it."""
Runs = Callable[[str, str], bool]
"""(namespace, pod) → whether more can follow."""


async def serve(address: str, log_file: LogFile, runs: Runs) -> web.AppRunner:
    """Start to serve logs on `address`; the caller cleans the runner up."""

    async def logs(request: web.Request) -> web.StreamResponse:
        asked = request.match_info
        path = log_file(asked["namespace"], asked["pod"], asked["container"])
        if path is None:
            raise web.HTTPNotFound(text="no such container on this node")
        answer = web.StreamResponse()
        answer.force_close()  # no idle connection may outlive the node's loop
        await answer.prepare(request)
        with path.open("rb") as opened:
            await answer.write(_tail(opened.read(), request.query.get("tailLines")))
            while request.query.get("follow") and runs(asked["namespace"], asked["pod"]):
                await asyncio.sleep(LOOK_S)
                await answer.write(opened.read())
            await answer.write(opened.read())
        return answer

    application = web.Application()
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, PORT, ssl_context=_tls()).start()
    return runner


def _tail(content: bytes, lines: str | None) -> bytes:
    if lines is None:
        return content
    return b"".join(content.splitlines(keepends=True)[-int(lines) :]) if int(lines) else b""


def _tls() -> ssl.SSLContext:
    """A server context with a fresh self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "e2e-node")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as both:
        both.write(private + certificate.public_bytes(serialization.Encoding.PEM))
        both.flush()
        context.load_cert_chain(both.name)
    return context
