"""How far two processes on one GPU slow each other, against what sharing predicts.

python -m benchmarks.interference [--seconds 3]

Wants a GPU and torch. One process runs steps without a pause; its neighbour runs steps of its own
at Poisson moments, so often that they would take a quarter or half of the time on a GPU of their
own. Steps are a decode's (16 rows through 6 GiB of weights: bound by bandwidth), a chunk's or a
prefill's (512 and 2,048 rows: bound by compute). Predicted from the work that the neighbour got
done, by `recommender.sharing.use.factors`. With MPS, which sharing assumes, and with the turns that
processes take without it, for comparison.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import product

import numpy as np

from benchmarks.figure import tell
from recommender.sharing.use import Use, factors

ROWS = {"decode": 16, "chunk": 512, "prefill": 2048}
WIDTH, LAYERS = 8192, 48
BUSY_RATIOS = (0.25, 0.5)
GOAL_PERCENT = 10.0
"""The headroom that sharing keeps of each bound for what its model ignores."""
_DAEMON = "nvidia-cuda-mps-control"


class Worker:
    """One process on the GPU; its steps are asked for by a line and told of by a line."""

    def __init__(self, kind: str, environment: dict[str, str]) -> None:
        self.kind = kind
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.interference", "--worker", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        self.alone_s = float("nan")

    def ask(self, seconds: float, period_s: float = 0.0) -> None:
        """Run steps for so long, one after the other or `period_s` apart on average."""
        assert self._process.stdin is not None
        print(json.dumps([seconds, period_s]), file=self._process.stdin, flush=True)

    def answer(self) -> tuple[float, float]:
        """Mean seconds of a step, and how many there were in a second."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.kind} process ended: see its message above")
        step_s, rate = json.loads(line)
        return step_s, rate

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def work(kind: str) -> None:
    """Be a worker: read what to run, a line each, until there is no more."""
    import torch  # noqa: PLC0415  (only those who run steps need it)

    rng = np.random.default_rng(os.getpid())
    weights = [
        torch.randn(WIDTH, WIDTH, dtype=torch.bfloat16, device="cuda") / WIDTH**0.5
        for _ in range(LAYERS)
    ]
    rows = torch.randn(ROWS[kind], WIDTH, dtype=torch.bfloat16, device="cuda")

    halves = [torch.empty_like(rows) for _ in range(2)]

    def multiply() -> None:
        x = rows
        for i, weight in enumerate(weights):
            torch.matmul(x, weight, out=halves[i % 2])
            x = halves[i % 2]

    multiply()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        multiply()

    def step() -> None:
        graph.replay()
        torch.cuda.synchronize()

    for line in sys.stdin:
        seconds, period_s = json.loads(line)
        print(json.dumps(_run(step, seconds, period_s, rng)), flush=True)


def _run(
    step: Callable[[], None], seconds: float, period_s: float, rng: np.random.Generator
) -> tuple[float, float]:
    began_s = time.perf_counter()
    due_s, took_s = began_s, []
    while (now_s := time.perf_counter()) - began_s < seconds:
        if now_s < due_s:
            time.sleep(min(due_s - now_s, 0.001))
            continue
        step()
        took_s.append(time.perf_counter() - now_s)
        due_s += rng.exponential(period_s)
    return float(np.mean(took_s)), len(took_s) / (time.perf_counter() - began_s)


@contextmanager
def multi_process_service() -> Iterator[dict[str, str]]:
    """MPS in a directory of its own: the environment of its clients."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "CUDA_MPS_PIPE_DIRECTORY": folder,
            "CUDA_MPS_LOG_DIRECTORY": folder,
        }
        subprocess.run([_DAEMON, "-d"], env=environment, check=True)
        try:
            yield environment
        finally:
            subprocess.run([_DAEMON], input="quit\n", env=environment, text=True, check=False)


def compare(how: str, environment: dict[str, str], seconds: float) -> None:
    """Tell the slowdown of every pair, and how far the model is from it."""
    with ExitStack() as stack:
        kinds = list(ROWS)
        victims, neighbours = ([Worker(k, environment) for k in kinds] for _ in range(2))
        workers = (*victims, *neighbours)
        for worker in workers:
            stack.callback(worker.close)
            worker.ask(seconds)
        for worker in workers:
            worker.answer()  # all have started, and are warm
        for worker in workers:
            worker.ask(seconds)
            worker.alone_s, _ = worker.answer()
            tell(f"{worker.kind} alone, {how}", "step", worker.alone_s * 1e3, "ms", 0, "lower")
        for victim, neighbour, busy in product(victims, neighbours, BUSY_RATIOS):
            neighbour.ask(seconds, neighbour.alone_s / busy)
            victim.ask(seconds)
            step_s, _ = victim.answer()
            _, rate = neighbour.answer()
            done = rate * neighbour.alone_s
            predicted = _predicted(victim.kind, neighbour.kind, done)
            slowdown = step_s / victim.alone_s
            case = f"{victim.kind} beside {neighbour.kind} at {busy:.0%}, {how}"
            tell(case, "work of the neighbour", 100.0 * done, "%", 100.0 * busy, "higher")
            tell(case, "slowdown", slowdown, "x", predicted, "lower")
            error = 100.0 * abs(predicted / slowdown - 1.0)
            tell(case, "error of the prediction", error, "%", GOAL_PERCENT, "lower")


def _predicted(victim: str, neighbour: str, busy: float) -> float:
    use = Use(bandwidth_ratio=busy) if neighbour == "decode" else Use(compute_ratio=busy)
    to_bandwidth, to_compute = factors(use)
    return to_bandwidth if victim == "decode" else to_compute


def main() -> None:
    """Run what the machine has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--worker", choices=ROWS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked.worker)
        return
    if find_spec("torch") is None or shutil.which("nvidia-smi") is None:
        print("skipped: wants a GPU and torch", file=sys.stderr)
        return
    if shutil.which(_DAEMON) is None:
        print(f"skipped: MPS: there is no {_DAEMON}", file=sys.stderr)
    else:
        with multi_process_service() as environment:
            compare("MPS", environment, asked.seconds)
    compare("in turns", dict(os.environ), asked.seconds)


if __name__ == "__main__":
    main()
