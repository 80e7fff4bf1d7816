"""A real vLLM on this machine's CPU: profiled, then predicted in a run it has not seen.

    python -m e2e.real_engine.install      # once: vLLM into build/vllm, 6 GB
    python -m benchmarks.real_vllm [--minutes 8] [--seconds 180] [--utilisation 0.6]

Starts one engine on one core, profiles it as `whaleflux profile` does, draws Poisson
arrivals of mixed lengths at a share of the rate that the twin says it carries, sends them,
and prints what the twin made of the same arrivals beside what came.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import tell
from controller.cli.profile.engine_metrics import EngineMetrics
from controller.cli.profile.measure import Asked, run
from controller.clock import monotonic_s
from controller.runtimes.processes import free_port
from e2e.real_engine.install import PYTHON, REPOSITORY, installed
from e2e.real_engine.services import MODEL, make_model
from profiler.configuration import Configuration
from profiler.document import write_profile
from profiler.layout import Layout
from profiler.measure import Outcome, PromptKind, Status, Target, open_session, replay
from profiler.measure.profiling import Phases, Progress
from profiler.operators import KvDtype
from profiler.profile import EngineProfile
from profiler.recalibrate import Window, expected
from profiler.scheduler import Limits
from profiler.trace import Lengths, Trace, poisson
from profiler.twin import simulate

NAME = "noise"
CONFIGURATION = Configuration(
    max_num_seqs=8, max_num_batched_tokens=2048, max_model_len=1024, block_size=32
)
START_S = 300.0
GOAL = 0.10
LENGTHS = Lengths(
    np.array([24, 48, 64, 96, 128, 160, 256, 384, 512, 700]),
    np.array([32, 64, 48, 96, 24, 80, 40, 64, 32, 16]),
)
"""Prompt and answer, each pair as likely: chats, and a few long documents."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Arrays are [requests], seconds; NaN where there is none."""

    ttft_s: NDArray[np.float64]
    itl_s: NDArray[np.float64]
    e2e_s: NDArray[np.float64]


def main() -> None:
    """Run it, or say in one line why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="to profile")
    parser.add_argument("--seconds", type=float, default=180.0, help="of arrivals")
    parser.add_argument("--utilisation", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write profile and outcomes into this folder")
    given = parser.parse_args()
    if not installed():
        print(
            "skipped: no vLLM in build/vllm: run python -m e2e.real_engine.install", file=sys.stderr
        )
        return
    make_model()
    _say_load("before")
    asyncio.run(compare(given))
    _say_load("after")


def _say_load(when: str) -> None:
    """A busy machine is measured with the engine: three processes here want two cores."""
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"load average {when}: {loads} on {os.cpu_count()} cores", file=sys.stderr, flush=True)


async def compare(given: argparse.Namespace) -> None:
    """Profile, predict, measure, tell."""
    with TemporaryDirectory() as folder:
        kept = given.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        async with real_engine() as url:
            profile = await run(asked(url, kept, given.minutes), _say)
            _keep(profile, kept)
            limits = profile.limits(CONFIGURATION)
            trace = load(profile, limits, given)
            timings = simulate(trace, profile.cost, limits)
            predicted = Figures(timings.ttft_s, timings.itl_s, timings.e2e_s)
            async with open_session() as session:
                target = Target(url, NAME, seed=given.seed + 1000)
                metrics = EngineMetrics(session, f"{url}/metrics")
                before, begun_s = await metrics.phases(), monotonic_s()
                outcomes = await replay(session, target, trace, monotonic_s, warmup=3)
                after, ended_s = await metrics.phases(), monotonic_s()
    bad = [outcome for outcome in outcomes if outcome.status is not Status.OK]
    if bad:
        raise SystemExit(f"{len(bad)} requests failed: {bad[0].error}")
    report(f"poisson {trace.rate_rps or 0:.2f} req/s", predicted, measured(outcomes))
    tell("profile", "left_out_error", _left_out(profile), "ratio", 0.05, "lower")
    if before is not None and after is not None:
        _say_drift(profile, limits, window(before, after, ended_s - begun_s))


def window(before: Phases, after: Phases, duration_s: float) -> Window:
    """The whole run as one window of the engine's own counters."""
    return Window(
        duration_s=duration_s,
        ttft=after.ttft.since(before.ttft) if after.ttft else None,
        itl=after.itl.since(before.itl) if after.itl else None,
        prompt_tokens=(after.prompt_tokens or 0.0) - (before.prompt_tokens or 0.0),
        generation_tokens=(after.generation_tokens or 0.0) - (before.generation_tokens or 0.0),
    )


def _say_drift(profile: EngineProfile, limits: Limits, seen: Window) -> None:
    """Whether the engine was as fast as when it was profiled: gaps at the batches it had.

    Away from 1, something else used the machine in one of the two runs.
    """
    made = expected(profile.cost, limits, seen)
    if made is not None and seen.itl is not None:
        line = {"case": "engine", "metric": "itl_at_its_own_load", "unit": "ratio",
                "value": round(seen.itl.mean / made.itl_s, 4)}  # fmt: skip
        print(json.dumps(line), flush=True)


def _left_out(profile: EngineProfile) -> float:
    return float(np.mean([abs(r.error_ratio) for r in profile.residuals]))


def asked(url: str, folder: Path, minutes: float) -> Asked:
    """What a person would write after `whaleflux profile`."""
    return Asked(
        url=url,
        model=str(MODEL),
        gpu="CPU",
        served_name=NAME,
        layout=Layout(),
        kv_dtype=KvDtype.AUTO,
        profile=None,
        output=folder / "engineprofile.yaml",
        minutes=minutes,
        max_num_seqs=CONFIGURATION.max_num_seqs,
        max_num_batched_tokens=CONFIGURATION.max_num_batched_tokens,
        max_model_len=None,
        share=False,
        api_key=None,
        prompt=PromptKind.TOKENS,
        seed=0,
    )


def load(profile: EngineProfile, limits: Limits, given: argparse.Namespace) -> Trace:
    """Poisson arrivals at a share of the rate at which the twin works off a backlog."""
    rng = np.random.default_rng(given.seed)
    backlog = LENGTHS.at(np.zeros(200), rng)
    carried_rps = len(backlog) / simulate(backlog, profile.cost, limits).end_s
    return poisson(given.utilisation * carried_rps, given.seconds, LENGTHS, rng)


def measured(outcomes: tuple[Outcome, ...]) -> Figures:
    """From the sending, in order of arrival."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    return Figures(
        np.array([(o.first_token_s or np.nan) - o.sent_s for o in ordered]),
        np.array([np.nan if o.tpot_s is None else o.tpot_s for o in ordered]),
        np.array([(o.last_token_s or np.nan) - o.sent_s for o in ordered]),
    )


def report(case: str, predicted: Figures, came: Figures) -> None:
    """Print both, and the error of the median against the goal."""
    for name in ("ttft", "itl", "e2e"):
        there, here = getattr(came, f"{name}_s"), getattr(predicted, f"{name}_s")
        pairs = {
            "mean": (np.nanmean(here), np.nanmean(there)),
            "p50": (np.nanquantile(here, 0.5), np.nanquantile(there, 0.5)),
            "p90": (np.nanquantile(here, 0.9), np.nanquantile(there, 0.9)),
        }
        for place, (expected_s, came_s) in pairs.items():
            line = {
                "case": case,
                "metric": f"{name}_{place}",
                "predicted_s": round(float(expected_s), 5),
                "measured_s": round(float(came_s), 5),
                "error_ratio": round(float(expected_s / came_s - 1), 4),
            }
            print(json.dumps(line), flush=True)
        expected_s, came_s = pairs["p50"]
        tell(case, f"{name}_p50_error", abs(float(expected_s / came_s - 1)), "ratio", GOAL, "lower")


def _keep(profile: EngineProfile, folder: Path) -> None:
    write_profile(profile, folder / "engineprofile.yaml")


def _say(step: Progress) -> None:
    print(f"{step.spent_s:.0f} s: {step.done} points; now {step.now}", file=sys.stderr, flush=True)


@asynccontextmanager
async def real_engine() -> AsyncIterator[str]:
    """A vLLM on one core, on a free port of 127.0.0.1, until the block ends."""
    port = free_port()
    command = (
        str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", f"--model={MODEL}",
        f"--served-model-name={NAME}", "--host=127.0.0.1", f"--port={port}", "--enforce-eager",
        "--load-format=dummy", "--kv-cache-memory-bytes=1073741824",
        f"--block-size={CONFIGURATION.block_size}", f"--max-num-seqs={CONFIGURATION.max_num_seqs}",
        f"--max-num-batched-tokens={CONFIGURATION.max_num_batched_tokens}",
        f"--max-model-len={CONFIGURATION.max_model_len}",
    )  # fmt: skip
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=REPOSITORY, start_new_session=True,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await _answers(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        await _end(process)


async def _answers(url: str, process: asyncio.subprocess.Process) -> None:
    deadline_s = monotonic_s() + START_S
    async with aiohttp.ClientSession() as session:
        while process.returncode is None and monotonic_s() < deadline_s:
            try:
                async with session.get(f"{url}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
    raise SystemExit(f"vLLM did not start within {START_S:g} s")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask it to stop, then stop the whole family it leads."""
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 30)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


if __name__ == "__main__":
    main()
