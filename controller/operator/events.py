"""Events on an LLMService: what was decided, and what is wrong with it."""

import hashlib
import socket
from typing import Any

from controller.api import GROUP, VERSION
from controller.kube.objects import Meta
from controller.loop import Logged
from monitor.findings import Finding, Severity

_NOTE_LIMIT = 1024
CONTROLLER = f"{GROUP}/operator"
DECISION = f"{GROUP}/decision"
"""Annotation of a decision's event: the id that its log lines carry."""


def decision_event(meta: Meta, made: Logged, now: str) -> dict[str, Any]:
    """Tell a decision; `now` is RFC 3339 in whole seconds."""
    event = _event(meta, "Normal", str(made.decision.reason), made.decision.message, now)
    event["metadata"]["annotations"] = {DECISION: made.id}
    return event


def finding_event(meta: Meta, finding: Finding, now: str) -> dict[str, Any]:
    """Tell what the detector found."""
    kind = "Normal" if finding.severity is Severity.INFO else "Warning"
    note = finding.message + (f"; {finding.mend}" if finding.mend else "")
    return _event(meta, kind, finding.cause, note, now)


def configuration_event(meta: Meta, why: str, now: str) -> dict[str, Any]:
    """Tell that replicas are to be replaced by those of another configuration."""
    note = f"replicas of another configuration are rolled out: {why}"
    return _event(meta, "Normal", "ConfigurationChanged", note, now)


def warning_event(meta: Meta, reason: str, message: str, now: str) -> dict[str, Any]:
    """Tell what a person must mend."""
    return _event(meta, "Warning", reason, message, now)


def _event(meta: Meta, kind: str, reason: str, note: str, now: str) -> dict[str, Any]:
    digest = hashlib.sha256(f"{meta.uid}{reason}{note}{now}".encode()).hexdigest()[:16]
    return {  # created twice in a second it is one event: the name says so
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{meta.name}.{digest}", "namespace": meta.namespace},
        "eventTime": now.replace("Z", ".000000Z"),
        "reportingController": CONTROLLER,
        "reportingInstance": socket.gethostname()[:128],
        "action": "Decide",
        "reason": reason,
        "type": kind,
        "note": note[:_NOTE_LIMIT],
        "regarding": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "LLMService",
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
        },
    }
