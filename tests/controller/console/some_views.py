"""Builders of what the console and the metrics show, and a console on a free port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession

from controller.console import serve_console
from controller.view import DecisionView, ReplicaView, ServiceView


def a_replica(**changes: Any) -> ReplicaView:
    fields: dict[str, Any] = {
        "id": "chat-1",
        "phase": "Serving",
        "gpu": "L4",
        "age_s": 300.0,
        "running": 12.0,
        "waiting": 3.0,
        "kv_usage_ratio": 0.64,
        "message": "",
    }
    return ReplicaView(**{**fields, **changes})


def a_decision(**changes: Any) -> DecisionView:
    fields: dict[str, Any] = {
        "ago_s": 42.0,
        "serving": 2,
        "standby": 1,
        "reason": "DemandRising",
        "message": "from 1 to 2 serving: 8.1 requests/s forecast",
    }
    return DecisionView(**{**fields, **changes})


def a_view(**changes: Any) -> ServiceView:
    fields: dict[str, Any] = {
        "name": "chat",
        "namespace": "default",
        "model": "org/tiny",
        "gpu": "1 × h100",
        "endpoint": "http://127.0.0.1:8000",
        "configuration": "--max-num-seqs 256",
        "replicas": (a_replica(), a_replica(id="chat-2", phase="Standby", running=0.0)),
        "serving": 1,
        "serving_wanted": 1,
        "standby": 1,
        "standby_wanted": 1,
        "arrival_rps": 7.25,
        "forecast_rps": 8.5,
        "capacity_rps": 10.0,
        "attained_ratio": 0.995,
        "slo_ratio": 0.99,
        "slo_ttft_s": 1.0,
        "slo_itl_s": 0.05,
        "ttft_s": 0.4,
        "itl_s": 0.02,
        "reason": "Steady",
        "message": "1 serving carries 8.5 requests/s",
        "fault": None,
        "decisions": (a_decision(),),
    }
    return ServiceView(**{**fields, **changes})


def an_unknown_view(**changes: Any) -> ServiceView:
    """A service of which nothing was measured yet."""
    names = ("endpoint", "arrival_rps", "forecast_rps", "attained_ratio", "slo_ttft_s",
             "slo_itl_s", "ttft_s", "itl_s")  # fmt: skip
    blank = a_replica(running=None, waiting=None, kv_usage_ratio=None)
    return a_view(**{**dict.fromkeys(names), "replicas": (blank,), **changes})


@dataclass(slots=True)
class Fleet:
    """Views that a test changes."""

    seen: tuple[ServiceView, ...] = ()
    ready: bool = True
    asked: int = field(default=0)

    def views(self) -> tuple[ServiceView, ...]:
        self.asked += 1
        return self.seen


@asynccontextmanager
async def a_console(fleet: Fleet, **options: Any) -> AsyncIterator[ClientSession]:
    """Serve the fleet on a free port; a client whose base is the page's URL."""
    async with (
        serve_console(fleet.views, 0, ready=lambda: fleet.ready, **options) as url,
        ClientSession(url) as client,
    ):
        yield client
