"""The emulated engine over HTTP against the twin that drives it, same arrivals.

    python -m benchmarks.emulator_fidelity [--trace FILE --until 60]

Sends the requests to a `whaleflux emulate` process and runs the same requests through
`simulate`; compares medians and 95th percentiles of TTFT and of mean ITL per request.
"""

import argparse
import asyncio
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine_process import emulated_engine
from benchmarks.figure import need, tell
from controller.clock import monotonic_s
from profiler.configuration import Configuration
from profiler.measure import Outcome, Status, Target, open_session, replay
from profiler.profile import resolve_profile
from profiler.trace import Lengths, Trace, poisson, read_trace
from profiler.twin import simulate

MODEL, GPU = "meta-llama/Llama-3.1-8B-Instruct", "H100-SXM"
CONFIGURATION = Configuration(max_num_seqs=64, max_model_len=16_384)
GOAL = 0.05


def main() -> None:
    """Compare on Poisson arrivals, and on a trace where one is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--until", type=float, default=60.0, help="seconds of the trace")
    asked = parser.parse_args()
    rng = np.random.default_rng(1)
    cases = {"poisson 4 req/s": poisson(4.0, 60.0, Lengths.fixed(1024, 128), rng)}
    if asked.trace is not None:
        cases[asked.trace.name] = read_trace(need(asked.trace)).until(asked.until)
    for case, trace in cases.items():
        asyncio.run(compare(case, trace))


async def compare(case: str, trace: Trace) -> None:
    """Run both and tell the relative differences."""
    profile = resolve_profile(MODEL, GPU)
    predicted = simulate(trace, profile.cost, profile.limits(CONFIGURATION))
    flags = (f"--model={MODEL}", f"--gpu={GPU}", *CONFIGURATION.engine_args(), "--start-up-s=0")
    async with emulated_engine(flags) as url, open_session(None) as session:
        outcomes = await replay(session, Target(url, MODEL), trace, monotonic_s, warmup=2)
    bad = [outcome for outcome in outcomes if outcome.status is not Status.OK]
    if bad:
        raise SystemExit(f"{case}: {len(bad)} requests failed: {bad[0].error}")
    ttft_s, itl_s = measured(outcomes)
    for name, there, here in (("ttft", ttft_s, predicted.ttft_s), ("itl", itl_s, predicted.itl_s)):
        for q in (0.5, 0.95):
            known = np.isfinite(here)
            error = np.nanquantile(there[known], q) / np.quantile(here[known], q) - 1
            tell(
                case, f"{name}_p{q * 100:.0f}_difference", abs(float(error)), "ratio", GOAL, "lower"
            )


def measured(outcomes: tuple[Outcome, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """TTFT from the sending, and mean gap; [requests] in order of arrival."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.index)
    ttft = [(o.first_token_s or np.nan) - (o.sent_s or np.nan) for o in ordered]
    return np.array(ttft), np.array([np.nan if o.tpot_s is None else o.tpot_s for o in ordered])


if __name__ == "__main__":
    main()
