"""Conditions in plain words, and what a person does about those that are false."""

from controller.api.status import Condition

_PLAIN = {
    "Ready": ("enough replicas serve", "fewer replicas serve than are needed"),
    "Accepted": ("the spec can be served", "the spec cannot be served; what ran before goes on"),
    "Available": ("at least one replica serves", "no replica serves"),
    "Placed": ("every replica has its place", "replicas that are asked for do not run"),
    "Observed": ("metrics are read", "metrics of serving replicas cannot be read: scaling holds"),
    "SLOAttained": (
        "requests are within the objective",
        "fewer requests than asked for are within the objective",
    ),
    "Healthy": ("nothing harmful is found", "something harmful is found"),
    "Predicted": ("forecasts are close to what came", "forecasts are far from what came"),
}
"""By type: when true, when false."""

_MENDS = {
    "InvalidSpec": "correct the field that the message names",
    "DoesNotFit": "give a replica more or larger GPUs, or a shorter spec.engine.maxModelLen",
    "ObjectiveUnreachable": "loosen spec.slo or take a faster GPU: more replicas do not help",
    "ApiRefused": "give the operator's ServiceAccount the right, or raise the quota",
    "ReplicasStarting": "wait for the start to end",
    "ReplicasFailing": "read the replica's log: kubectl logs POD",
    "NoReplicaServes": "see the replicas' trouble below",
    "SignalsMissing": "let the operator's Pod reach port 8000 of the engines' Pods",
    "ObjectiveMissed": "raise spec.scaling.max where it is reached; otherwise compare profile and "
    "engine: kubectl whaleflux plan",
    "LoadErratic": "raise spec.resilience.standbys",
    "CapacityOff": "recalibrate the profile: whaleflux profile recalibrate",
}
"""By reason. Others bring the mend in their message."""


def in_plain_words(condition: Condition) -> str:
    """Say what the condition means as it is."""
    holds, fails = _PLAIN.get(condition.type, (condition.type, f"not {condition.type}"))
    if condition.status == "Unknown":
        return f"not known whether {holds}"
    return holds if condition.status == "True" else fails


def mend_of(condition: Condition) -> str:
    """Say what mends it; empty where nothing is wrong, or where the message says it."""
    return _MENDS.get(condition.reason, "") if condition.status == "False" else ""
