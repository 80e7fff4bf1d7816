"""The operator's own metrics, beside those of the services: requests, watches, reconciles, lease.

Labels are bounded: HTTP verbs and codes, kinds that are watched, services and reasons.
"""

from prometheus_client import Counter, Gauge, Histogram

from controller.metrics import Metrics

_REQUEST_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_RECONCILE_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Instruments:
    """What the operator counts and times of itself."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = Counter(
            "whaleflux_kubernetes_requests",
            "Requests to the API server but watches; code 0: no answer.",
            ("verb", "code"),
            registry=None,
        )
        self._request_s = Histogram(
            "whaleflux_kubernetes_request_duration_seconds",
            "Time that requests to the API server took.",
            ("verb",),
            buckets=_REQUEST_BUCKETS_S,
            registry=None,
        )
        self.watch_restarts = Counter(
            "whaleflux_watch_restarts",
            "Watches that ended in an error and began anew.",
            ("resource",),
            registry=None,
        )
        self.reconcile_s = Histogram(
            "whaleflux_reconcile_duration_seconds",
            "Time that the search behind a spec took.",
            buckets=_RECONCILE_BUCKETS_S,
            registry=None,
        )
        self.queued = Gauge(
            "whaleflux_reconcile_queue_depth", "Services that wait to be resolved.", registry=None
        )
        self.leads = Gauge(
            "whaleflux_leader", "1 where this process leads, 0 where it waits.", registry=None
        )
        self._errors: dict[tuple[str, str], set[str]] = {}
        self._reconcile_errors = Counter(
            "whaleflux_reconcile_errors",
            "Specs that could not be resolved or applied.",
            ("namespace", "service", "reason"),
            registry=None,
        )
        for instrument in (
            self._requests, self._request_s, self.watch_restarts, self.reconcile_s,
            self.queued, self.leads, self._reconcile_errors,
        ):  # fmt: skip
            metrics.add(instrument)

    def asked(self, verb: str, status: int, took_s: float) -> None:
        """Count a request to the API server."""
        self._requests.labels(verb, str(status)).inc()
        self._request_s.labels(verb).observe(took_s)

    def failed(self, namespace: str, service: str, reason: str) -> None:
        """Count a reconcile that failed."""
        self._errors.setdefault((namespace, service), set()).add(reason)
        self._reconcile_errors.labels(namespace, service, reason).inc()

    def forget(self, namespace: str, service: str) -> None:
        """Drop the counts of a service that is gone."""
        for reason in self._errors.pop((namespace, service), ()):
            self._reconcile_errors.remove(namespace, service, reason)
