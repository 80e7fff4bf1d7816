"""End-to-end measurements of real deployments, as exposures of a step cost.

A row says: this model in this precision on so many GPUs, so many clients that each ask again
when answered, prompts and answers of these lengths; and the TTFT and TPOT that came of it.
"""

import csv
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from profiler.analytical import analytical_cost
from profiler.architecture import Architecture, served_as
from profiler.closed_loop import closed_loop
from profiler.configuration import Configuration
from profiler.efficiencies import members
from profiler.errors import Refused
from profiler.exposure import Exposure
from profiler.hardware import Gpu, find_gpu
from profiler.layout import Layout
from profiler.memory import predict_memory
from profiler.operators import KvDtype, Replica
from profiler.scheduler import Limits

GPUS = {
    "h100_sxm": "H100-SXM", "h200_sxm": "H200", "b200_sxm": "B200", "a100_sxm": "A100-80GB",
    "l40s": "L40S",
}  # fmt: skip
SEQUENCES, BATCHED_TOKENS = 1024, 8192
"""The engines' own defaults on these GPUs; rows do not say."""
LEAST_BLOCKS = 2000
ROUNDS, ROUNDS_LONG, LONG_ANSWER = 6, 3, 4000
"""Requests a client sends; fewer where answers are long."""
QUEUED_S = 10.0
"""Rows with a longer TTFT sat behind limits that the file does not give."""
SPREADS = {"dump": (0.8, 1.0), "file": (0.8, 1.2), "aic": (0.9, 1.1)}
"""Lengths drawn by each kind of load generator, as shares of the nominal ones."""
MIDDLE = (0.35, 0.65)
"""Requests around the median TTFT."""


@dataclass(frozen=True)
class Row:
    """One measurement; latencies in seconds."""

    id: str
    replica: Replica
    members: Mapping[str, str]
    client: str
    """Kind of load generator; see `SPREADS`."""
    deployment: str
    lengths: tuple[int, int]
    """Tokens of a prompt and of an answer, nominal."""
    clients: int
    """Of one scheduler."""
    ttft_s: float
    tpot_s: float
    first: Exposure
    """Mean TTFT of the clients' first requests, sent all at once."""
    later: Exposure
    middle: Exposure
    tpot: Exposure

    @property
    def queued(self) -> bool:
        """Whether its TTFT says nothing of the step cost."""
        return self.ttft_s > QUEUED_S


def read_rows(file: Path, backends: tuple[str, ...]) -> list[Row]:
    """Read all rows of the backends that serve prefill and decode together."""
    with file.open(newline="", encoding="utf-8") as handle:
        wanted = [r for r in csv.DictReader(handle) if r["backend"] in backends]
    rows, skipped = [], 0
    for raw in wanted:
        try:
            rows.append(_row(raw))
        except Refused as error:
            skipped += 1
            print(f"{raw['id']}: left out: {error}", file=sys.stderr)
    return rows


def _row(raw: Mapping[str, str]) -> Row:
    if raw["mode"] != "agg":
        raise Refused("prefill and decode are on separate GPUs")
    if raw["system"] not in GPUS:
        raise Refused(f"system {raw['system']} is not in the catalogue")
    gpu = find_gpu(GPUS[raw["system"]])
    linear = raw["gemm_quant_mode"] or raw["precision"]
    architecture = served_as(raw["model_path"], linear, raw["moe_quant_mode"] or raw["precision"])
    layout = _layout(raw, architecture)
    client = _client(raw["silicon_data_source"])
    # the schedule comes from the defaults, so that no fit on a row leaks into its exposures
    replica = Replica(architecture, gpu, layout, _kv_dtype(raw, client))
    asked = re.search(r"silicon_concurrency=(\d+)", raw["silicon_data_source"])
    clients = max(int(asked[1] if asked else raw["batch_size"]) // layout.data, 1)
    first, later, middle, tpot = _exposures(replica, gpu, clients, raw, client)
    belongs = members(architecture, gpu.name, raw["backend"], raw["backend_version"])
    return Row(
        id=raw["id"],
        replica=replica,
        members=belongs,
        client=client,
        deployment=f"{belongs['deployment']} {belongs['version']} {linear} {layout}",
        lengths=(int(raw["isl"]), int(raw["osl"])),
        clients=clients,
        ttft_s=float(raw["silicon_ttft_ms"]) / 1e3,
        tpot_s=float(raw["silicon_tpot_ms"]) / 1e3,
        first=first,
        later=later,
        middle=middle,
        tpot=tpot,
    )


def _layout(raw: Mapping[str, str], architecture: Architecture) -> Layout:
    """GPUs of the replica; where attention is data-parallel, `tp_size` counts all of them."""
    tensor = int(raw["tp_size"])
    if architecture.experts is None:
        return Layout(tensor)
    sharers = int(raw["moe_tp_size"] or 1) * int(raw["moe_ep_size"] or 1)
    expert = int(raw["moe_ep_size"] or 1) > 1
    data = int(raw["attention_dp_size"] or 0)
    if data == 0:
        return Layout(tensor, 1, max(sharers // tensor, 1), expert)
    return Layout(max(tensor // data, 1), 1, data, expert)


def _client(source: str) -> str:
    if source.startswith("db-dump"):
        return "dump"
    return "aic" if "aic-auto-gap-analysis" in source else "file"


def _kv_dtype(raw: Mapping[str, str], client: str) -> KvDtype:
    """FP8 where the load test's recipes for quantised checkpoints set it."""
    quantised = raw["precision"] in {"fp8", "fp4"} and "gpt-oss" not in raw["model_path"]
    return KvDtype.FP8 if quantised and client != "aic" else KvDtype.AUTO


def _exposures(
    replica: Replica, gpu: Gpu, clients: int, raw: Mapping[str, str], client: str
) -> tuple[Exposure, Exposure, Exposure, Exposure]:
    memory = predict_memory(replica.architecture, gpu, replica.layout, replica.kv_dtype)
    blocks = memory.kv_blocks(Configuration(max_num_batched_tokens=BATCHED_TOKENS))
    limits = Limits(SEQUENCES, BATCHED_TOKENS, max(blocks, LEAST_BLOCKS))
    answer = int(raw["osl"])
    n = clients * (ROUNDS if answer < LONG_ANSWER else ROUNDS_LONG)
    rng = np.random.default_rng(0)
    inputs, outputs = (
        np.maximum(np.array(length * rng.uniform(*SPREADS[client], n), np.int64), least)
        for length, least in ((int(raw["isl"]), 1), (answer, 2))
    )
    cost = analytical_cost(replica)
    first = np.arange(n) < clients
    ran = closed_loop(cost, limits, clients, inputs, outputs)
    low, high = np.quantile(ran.ttft_s, MIDDLE)
    middle = (ran.ttft_s >= low) & (ran.ttft_s <= high)
    ran = closed_loop(cost, limits, clients, inputs, outputs, np.array([first, ~first, middle]))
    first_, later_, middle_ = ran.ttft_exposures
    return first_, later_, middle_, ran.tpot_exposure
