"""The search for a configuration: how long it takes, and what it misses.

python -m benchmarks.search [--models N] [--exhaustive no] [--regimes N]

One node of 8 GPUs, chat of 1,024 tokens in and 256 out within TTFT 1 s and ITL 50 ms at the
95th percentile, the most goodput per GPU. The same candidates (every layout of the node, every
batch limit) are then all run through the twin, none left out by a closed form, and the
choice's goodput is held against the best of them. With `--regimes`, the same for so many other
models, GPUs, lengths, bursts and objectives, drawn at random. `aiconfigurator` is asked the same
in the same run where `--aiconfigurator PYTHON` names the interpreter of an environment that has it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figure import tell
from profiler.architecture import bundled_models, load_architecture
from profiler.configuration import Configuration, Quantization
from profiler.errors import Refused
from profiler.hardware import find_gpu
from profiler.operators import KvDtype
from profiler.profile import EngineProfile, profile_of
from profiler.slo import Slo
from recommender import Found, Pins, Station, Workload, find_capacity, search
from recommender import workload_from_hints as hints
from recommender.capacity import expected_rps
from recommender.race import part_of_one
from recommender.space import NODE_GPUS, batchings, plain, variants

CASES = (
    ("meta-llama/Llama-3.1-8B-Instruct", "H100-SXM", "h100_sxm"),
    ("meta-llama/Llama-3.3-70B-Instruct", "H100-SXM", "h100_sxm"),
    ("Qwen/Qwen3-32B", "H200", "h200_sxm"),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", "H100-SXM", "h100_sxm"),
    ("deepseek-ai/DeepSeek-V3", "H200", "h200_sxm"),
)
INPUT, OUTPUT, TTFT_MS, ITL_MS = 1024, 256, 1000, 50
MANY_RPS = 1000.0
"""A rate of many nodes: what counts is the goodput per GPU, not how replicas round."""
ANY_FORMAT = Pins(kv_cache_dtypes=tuple(KvDtype), quantizations=tuple(Quantization))
USUAL = Slo(TTFT_MS / 1e3, ITL_MS / 1e3)
RUNS = 7
GOAL_S, GOAL_REGRET = 0.2, 0.03

OTHERS = (
    ("meta-llama/Llama-3.1-8B-Instruct", ("H100-SXM", "L40S", "L4", "A100-80GB")),
    ("Qwen/Qwen3-32B", ("H100-SXM", "H200", "A100-80GB")),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", ("H100-SXM", "H200")),
    ("meta-llama/Llama-3.3-70B-Instruct", ("H200", "H100-SXM")),
    ("deepseek-ai/DeepSeek-V3", ("H200", "B200")),
    ("Qwen/Qwen3-30B-A3B", ("H100-SXM", "L40S")),
)
OBJECTIVES = (
    Slo(1.0, 0.05), Slo(0.5, 0.03), Slo(2.0, 0.1), Slo(3.0), Slo(None, 0.06),
    Slo(5.0, 0.08, 30.0, 0.9), Slo(1.0, 0.05, None, 0.99),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is asked."""

    model: str
    gpu: str
    workload: Workload = field(default_factory=lambda: hints(MANY_RPS, INPUT, OUTPUT))
    slo: Slo = USUAL
    pins: Pins = field(default_factory=Pins)

    def search(self) -> Found:
        """Ask it."""
        return search(self.model, self.gpu, self.workload, self.slo, self.pins)


def drawn(rng: np.random.Generator) -> tuple[str, Case]:
    """Draw a case of another kind."""
    model, gpus = OTHERS[rng.integers(len(OTHERS))]
    gpu = gpus[rng.integers(len(gpus))]
    prompt = round(float(np.exp(rng.uniform(np.log(150), np.log(6000)))))
    answer = round(float(np.exp(rng.uniform(np.log(20), np.log(1000)))))
    cv = float(rng.choice([0.7, 1.0, 2.0]))
    slo = OBJECTIVES[rng.integers(len(OBJECTIVES))]
    bounds = ", ".join(f"{b:g} s" for b in (slo.ttft_s, slo.itl_s, slo.e2e_s) if b is not None)
    name = f"{model.split('/')[-1]} on {gpu}, {prompt} to {answer}, cv {cv:g}, {bounds}"
    return name, Case(model, gpu, hints(MANY_RPS, prompt, answer, cv), slo)


def candidates(case: Case) -> Iterator[tuple[EngineProfile, Configuration]]:
    """Give everything that may be chosen and fits."""
    architecture, card = load_architecture(case.model), find_gpu(case.gpu)
    for way in variants(architecture, card, case.pins, NODE_GPUS)[0]:
        profile = profile_of(architecture, card, way.layout, way.kv_dtype, way.quantization)
        for configuration in batchings(plain(profile, case.workload, case.pins), case.pins):
            try:
                profile.limits(configuration)
            except Refused:
                continue
            yield profile, configuration


def exhaustive(case: Case) -> tuple[float, Configuration | None, int]:
    """Run all of them, each at the best rate per GPU so far; the best, and how many there are."""
    best, chosen, count = 0.0, None, 0
    for profile, configuration in candidates(case):
        count += 1
        gpus = profile.layout.gpus
        station = Station.of(profile, configuration)
        expected = expected_rps(station, case.workload, case.slo)
        part = part_of_one(case.workload, expected)
        try:
            found = find_capacity(station, part, case.slo, at_least_rps=best * gpus)
        except Refused:  # a request that it could never hold
            continue
        if found is not None and found.rate_rps > best * gpus:
            best, chosen = found.rate_rps / gpus, configuration
    return best, chosen, count


def timed(case: Case) -> tuple[Found, list[float]]:
    """Search again and again; the first run, which compiles and fills caches, is not counted."""
    found = case.search()
    took = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        case.search()
        took.append(time.perf_counter() - begun)
    return found, took


def compare(case: Case, name: str, *, against_all: bool) -> None:
    """Tell time and size of one search, and its regret."""
    found, took = timed(case)
    tell(name, "wall time, warm, median", statistics.median(took), "s", GOAL_S, "lower")
    tell(name, "wall time, warm, longest", max(took), "s", GOAL_S, "lower")
    tell(name, "candidates priced in closed form", found.priced, "candidates", 0, "higher")
    tell(name, "candidates run by the twin", found.scored, "candidates", 0, "higher")
    print(f"{name}: {' '.join(found.best.configuration.engine_args())}", file=sys.stderr)
    if not against_all:
        return
    begun = time.perf_counter()
    best, configuration, count = exhaustive(case)
    tell(name, "candidates of the exhaustive search", count, "candidates", 0, "higher")
    tell(name, "exhaustive search", time.perf_counter() - begun, "s", 0, "lower")
    tell(name, "goodput per GPU", found.best.rps_per_gpu, "req/s", best, "higher")
    tell(name, "goodput below the exhaustive best", regret(found, best), "ratio", GOAL_REGRET,
         "lower")  # fmt: skip
    if configuration is not None:
        print(f"{name}, exhaustive: {' '.join(configuration.engine_args())}", file=sys.stderr)


def regret(found: Found, best: float) -> float:
    """Share of the best goodput that the choice leaves; both are known to 2 % alone."""
    return max(1.0 - found.best.rps_per_gpu / best, 0.0)


def compare_regimes(count: int) -> None:
    """Tell the regrets of cases drawn at random; those that nothing meets are passed over."""
    rng = np.random.default_rng(0)
    regrets: list[float] = []
    took: list[float] = []
    while len(regrets) < count:
        name, case = drawn(rng)
        begun = time.perf_counter()
        try:
            found = case.search()
        except Refused:
            continue
        took.append(time.perf_counter() - begun)
        regrets.append(regret(found, exhaustive(case)[0]))
        tell(name, "goodput below the exhaustive best", regrets[-1], "ratio", GOAL_REGRET, "lower")
    name = f"{count} cases drawn at random"
    for statistic, value in (("mean", np.mean(regrets)), ("worst", np.max(regrets))):
        metric = f"goodput below the exhaustive best, {statistic}"
        tell(name, metric, float(value), "ratio", GOAL_REGRET, "lower")
    tell(name, "wall time, median", float(np.median(took)), "s", GOAL_S, "lower")
    tell(name, "wall time, longest", max(took), "s", GOAL_S, "lower")


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
    parser.add_argument("--regimes", type=int, default=0, help="so many other cases too")
    parser.add_argument("--aiconfigurator", type=Path, help="interpreter that has it")
    asked = parser.parse_args()
    against_all = asked.exhaustive == "yes"
    for model, gpu, system in CASES[: asked.models]:
        name = f"{model.split('/')[-1]} on 8 {gpu}"
        compare(Case(model, gpu), name, against_all=against_all)
        any_format = Case(model, gpu, pins=ANY_FORMAT)
        compare(any_format, f"{name}, any format", against_all=False)
        if asked.aiconfigurator is not None:
            ask_aiconfigurator(asked.aiconfigurator, model, system, name)
    if asked.regimes:
        compare_regimes(asked.regimes)


if __name__ == "__main__":
    main()
