"""The search for a configuration: how long it takes, and what it misses.

python -m benchmarks.search [--models N] [--exhaustive no]

One node of 8 GPUs, chat of 1,024 tokens in and 256 out within TTFT 1 s and ITL 50 ms at the
95th percentile, the most goodput per GPU. The same candidates (every layout of the node, every
batch limit) are then all run through the twin, none left out by a closed form, and the
choice's goodput is held against the best of them. `aiconfigurator`, where `--aiconfigurator
PYTHON` names the interpreter of an environment that has it, is asked the same in the same run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figure import tell
from profiler.architecture import bundled_models, load_architecture
from profiler.configuration import Configuration, Quantization
from profiler.errors import Refused
from profiler.hardware import find_gpu
from profiler.operators import KvDtype
from profiler.profile import EngineProfile, profile_of
from profiler.slo import Slo
from recommender import Found, Pins, Station, find_capacity, search, workload_from_hints
from recommender.space import NODE_GPUS, batchings, plain, variants

CASES = (
    ("meta-llama/Llama-3.1-8B-Instruct", "H100-SXM", "h100_sxm"),
    ("meta-llama/Llama-3.3-70B-Instruct", "H100-SXM", "h100_sxm"),
    ("Qwen/Qwen3-32B", "H200", "h200_sxm"),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", "H100-SXM", "h100_sxm"),
    ("deepseek-ai/DeepSeek-V3", "H200", "h200_sxm"),
)
INPUT, OUTPUT, TTFT_MS, ITL_MS = 1024, 256, 1000, 50
WORKLOAD = workload_from_hints(1000.0, INPUT, OUTPUT)
"""A rate of many nodes: what counts is the goodput per GPU, not how replicas round."""
SLO = Slo(TTFT_MS / 1e3, ITL_MS / 1e3)
ANY_FORMAT = Pins(kv_cache_dtypes=tuple(KvDtype), quantizations=tuple(Quantization))
RUNS = 7
GOAL_S, GOAL_REGRET = 0.2, 0.03


def candidates(model: str, gpu: str, pins: Pins) -> Iterator[tuple[EngineProfile, Configuration]]:
    """Give everything that may be chosen and fits."""
    architecture, card = load_architecture(model), find_gpu(gpu)
    for way in variants(architecture, card, pins, NODE_GPUS)[0]:
        profile = profile_of(architecture, card, way.layout, way.kv_dtype, way.quantization)
        for configuration in batchings(plain(profile, WORKLOAD, pins), pins):
            try:
                profile.limits(configuration)
            except Refused:
                continue
            yield profile, configuration


def exhaustive(model: str, gpu: str, pins: Pins) -> tuple[float, Configuration | None, int]:
    """Run all of them, each at the best rate per GPU so far; the best, and how many there are."""
    best, chosen, count = 0.0, None, 0
    for profile, configuration in candidates(model, gpu, pins):
        count += 1
        gpus = profile.layout.gpus
        station = Station.of(profile, configuration)
        found = find_capacity(station, WORKLOAD, SLO, at_least_rps=best * gpus)
        if found is not None and found.rate_rps > best * gpus:
            best, chosen = found.rate_rps / gpus, configuration
    return best, chosen, count


def timed(model: str, gpu: str, pins: Pins) -> tuple[Found, list[float]]:
    """Search again and again; the first run, which compiles and fills caches, is not counted."""
    found = search(model, gpu, WORKLOAD, SLO, pins)
    took = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        search(model, gpu, WORKLOAD, SLO, pins)
        took.append(time.perf_counter() - begun)
    return found, took


def compare(model: str, gpu: str, pins: Pins, case: str, *, against_all: bool) -> None:
    """Tell time and size of one search, and its regret."""
    found, took = timed(model, gpu, pins)
    tell(case, "wall time, warm, median", statistics.median(took), "s", GOAL_S, "lower")
    tell(case, "wall time, warm, longest", max(took), "s", GOAL_S, "lower")
    tell(case, "candidates priced in closed form", found.priced, "candidates", 0, "higher")
    tell(case, "candidates run by the twin", found.scored, "candidates", 0, "higher")
    print(f"{case}: {' '.join(found.best.configuration.engine_args())}", file=sys.stderr)
    if not against_all:
        return
    begun = time.perf_counter()
    best, configuration, count = exhaustive(model, gpu, pins)
    tell(case, "candidates of the exhaustive search", count, "candidates", 0, "higher")
    tell(case, "exhaustive search", time.perf_counter() - begun, "s", 0, "lower")
    regret = max(1.0 - found.best.rps_per_gpu / best, 0.0)
    tell(case, "goodput per GPU", found.best.rps_per_gpu, "req/s", best, "higher")
    tell(case, "goodput below the exhaustive best", regret, "ratio", GOAL_REGRET, "lower")
    if configuration is not None:
        print(f"{case}, exhaustive: {' '.join(configuration.engine_args())}", file=sys.stderr)


ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM", "mixtral": "MixtralForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}  # fmt: skip
"""What a config.json must name for that tool."""

AICONFIGURATOR = """
import json, sys, time
from aiconfigurator.cli.api import cli_default
case = json.loads(sys.argv[1])
took = []
for _ in range(2):
    begun = time.perf_counter()
    result = cli_default(model_path=case["model"], total_gpus=8, system=case["system"],
        backend="vllm", isl=case["isl"], osl=case["osl"], ttft=case["ttft"], tpot=case["tpot"])
    took.append(time.perf_counter() - begun)
print("FIGURE", json.dumps({"first_s": took[0], "warm_s": took[1], "chosen": result.chosen_exp}))
"""


def ask_aiconfigurator(python: Path, model: str, system: str, case: str) -> None:
    """Let it search for the same; silent about what it cannot do but for a line."""
    config = bundled_models()[model]
    architectures = [ARCHITECTURES[config["model_type"]]]
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(
            json.dumps({"architectures": architectures} | config)
        )
        asked = {"model": folder, "system": system, "isl": INPUT, "osl": OUTPUT,
                 "ttft": TTFT_MS, "tpot": ITL_MS}  # fmt: skip
        ran = subprocess.run(
            [str(python), "-c", AICONFIGURATOR, json.dumps(asked)],
            cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    line = next((x for x in ran.stdout.splitlines() if x.startswith("FIGURE ")), None)
    if line is None:
        last = (ran.stderr.strip().splitlines() or ["no word"])[-1]
        print(f"{case}: aiconfigurator gave no answer: {last}", file=sys.stderr)
        return
    figure = json.loads(line.removeprefix("FIGURE "))
    for name in ("first_s", "warm_s"):
        metric = f"aiconfigurator, wall time, {name.removesuffix('_s')}"
        tell(case, metric, figure[name], "s", GOAL_S, "lower")


def main() -> None:
    """Search for each model, then for all formats of the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=len(CASES), help="only the first so many")
    parser.add_argument("--exhaustive", choices=("yes", "no"), default="yes")
    parser.add_argument("--aiconfigurator", type=Path, help="interpreter that has it")
    asked = parser.parse_args()
    for model, gpu, system in CASES[: asked.models]:
        name = f"{model.split('/')[-1]} on 8 {gpu}"
        compare(model, gpu, Pins(), name, against_all=asked.exhaustive == "yes")
        compare(model, gpu, ANY_FORMAT, f"{name}, any format", against_all=False)
        if asked.aiconfigurator is not None:
            ask_aiconfigurator(asked.aiconfigurator, model, system, name)


if __name__ == "__main__":
    main()
