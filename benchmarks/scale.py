"""The operator at size: a real API server, KWOK's nodes, and fixed services of ten replicas.

    python -m benchmarks.scale [--services 1000] [--pods 10000] [--pages 1000] [--addresses]

Engine Pods are Ready and run nothing. Without `--addresses` they have none, so that nothing is
scraped and the figures are the control plane's alone; with it each answers with a refusal. What a
scrape costs is measured apart (`benchmarks.scale_scrape`). Beside every latency stands that of a
bare Pod, created by hand at the same moment on the same API server.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from benchmarks.figure import tell
from benchmarks.scale_changes import Times, change_and_wait, create_services, settled
from benchmarks.scale_rig import HOME, Rig, rig
from benchmarks.scale_scrape import scrape_ms

CHANGES, REST_S = 50, 60.0
_COLD_S = 3600.0


def say(text: str) -> None:
    """Tell how far it is, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, a figure a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=CHANGES)
    parser.add_argument("--rest-s", type=float, default=REST_S)
    parser.add_argument("--addresses", action="store_true", help="Pods have addresses that refuse.")
    asked = parser.parse_args()
    if asked.pages:
        for metric, value in scrape_ms(asked.pages).items():
            tell(f"{asked.pages} pages", metric, value, "ms", 1.0, "lower")
    if not asked.services:
        return
    case = f"{asked.services} services, {asked.pods} pods"
    case += ", refusing" if asked.addresses else ""
    with rig(asked.pods + 4 * asked.services + 100, addresses=asked.addresses) as running:
        _cold(running, case, asked.services, asked.pods // asked.services)
        _at_rest(running, case, asked.rest_s)
        _changes(running, case, min(asked.changes, asked.services))
        _restart(running, case, asked.services)


def _cold(running: Rig, case: str, services: int, replicas: int) -> None:
    """From the operator's start, with every service there, to all replicas serving."""
    asyncio.run(create_services(running.cluster.kubeconfig, services, replicas))
    say(f"{services} services are there")
    began_s = time.monotonic()
    running.operator.start()
    running.until_resolved(services, _COLD_S)
    tell(case, "first start to all resolved", time.monotonic() - began_s, "s", 60, "lower")
    told = [began_s]

    def tend(serving: int) -> None:
        running.tend()
        if time.monotonic() - told[-1] > 20:
            told.append(time.monotonic())
            say(f"{serving} of {services * replicas} serve")

    asyncio.run(settled(running.cluster.kubeconfig, services * replicas, _COLD_S, tend))
    tell(case, "first start to all serving", time.monotonic() - began_s, "s", 600, "lower")
    tell(case, "operator ended by itself", running.restarts, "1", 0, "lower")
    for name, used_s in sorted(running.cpu_by_process_s().items()):
        tell(case, f"CPU of {name} until all serve", used_s, "CPU-s", 0, "lower")
    running.until_quiet(120)


def _at_rest(running: Rig, case: str, seconds: float) -> None:
    say(f"watching it rest for {seconds:.0f} s")
    cpu_s, requests, began_s = running.cpu_s(), running.audited(), time.monotonic()
    time.sleep(seconds)
    took_s, after = time.monotonic() - began_s, running.audited()
    used = (running.cpu_s() - cpu_s) / took_s
    tell(case, "operator CPU at rest", used, "CPU-s/s", 0.5, "lower")
    tell(case, "operator memory", running.memory_mib(), "MiB", 500, "lower")
    tell(case, "operator memory at most", running.peak_mib(), "MiB", 500, "lower")
    for kind in ("lease", "watch", "other"):
        count = 60 * (after[kind] - requests[kind]) / took_s
        goal = {"lease": 60.0, "watch": 2.0, "other": 0.0}[kind]
        tell(case, f"requests at rest: {kind}", count, "1/min", goal, "lower")


def _changes(running: Rig, case: str, count: int) -> None:
    """One replica more, service by service, and a bare Pod at the same moment."""
    say(f"{count} changes")
    times: Times = asyncio.run(change_and_wait(running.cluster.kubeconfig, count))
    for name, goal in (("change to its objects", 1.0), ("bare pod", 0.1)):
        for share in (0.5, 0.99):
            value = times.quantile(name, share)
            tell(case, f"{name}, p{round(100 * share)}", value, "s", goal, "lower")
    if times.missed:
        say(f"{times.missed} changes had no effect within 30 s")
    running.until_quiet(60)


def _restart(running: Rig, case: str, services: int) -> None:
    """From a start with everything there to synced caches, and to a loop for every service."""
    running.operator.stop()
    began_s = time.monotonic()
    cpu = running.audited()["other"]
    running.operator.start()
    running.until_ready(_COLD_S)
    tell(case, "restart to in sync", time.monotonic() - began_s, "s", 30, "lower")
    running.until_resolved(services, _COLD_S)
    tell(case, "restart to all resolved", time.monotonic() - began_s, "s", 60, "lower")
    running.until_quiet(60)
    tell(case, "requests of a restart", running.audited()["other"] - cpu, "1", 100, "lower")
    log = Path(running.operator.log_file).read_text(errors="replace").splitlines()
    warned = sum('"level": "warning"' in line or '"level": "error"' in line for line in log)
    tell(case, "warnings in the operator's log", warned, "1", 0, "lower")
    say(f"namespace of the operator: {HOME}")


if __name__ == "__main__":
    main()
