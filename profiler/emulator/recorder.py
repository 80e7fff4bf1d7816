"""What the emulated engine counts while it runs: plain integers and lists.

The engine writes here at every step, so nothing allocates more than it must; `metrics`
turns it into vLLM's families when somebody scrapes.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from profiler.emulator.jobs import Finish, Job

ITERATION_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
PARAMS_N = (1, 2, 5, 10, 20)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
TTFT_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20,
    40, 80, 160, 640, 2560,
)  # fmt: skip
ITL_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
REQUEST_S = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
HTTP_FINE_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10,
    30, 60,
)  # fmt: skip
HTTP_COARSE_S = (0.1, 0.5, 1)


def token_bounds(longest: int) -> tuple[int, ...]:
    """Bounds of token histograms: 1, 2, 5, 10, … up to the longest request, as vLLM's."""
    bounds, power = [], 1
    while power <= longest:
        bounds += [m * power for m in (1, 2, 5) if m * power <= longest]
        power *= 10
    return tuple(bounds)


class Histogram:
    """Counts per bucket, not cumulated, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, in the histogram's unit, `times` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The scheduler's moments of a finished request, engine seconds."""

    scheduled_s: float
    first_token_s: float
    last_token_s: float
    preemptions: int


class Recorder:
    """Counters and histograms of one engine, named as vLLM names their families."""

    def __init__(self, longest: int) -> None:
        tokens = token_bounds(longest)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.late = 0
        """Times the engine fell behind real time and was re-anchored."""
        self.finished = dict.fromkeys(Finish, 0)
        self.iteration_tokens = Histogram(ITERATION_TOKENS)
        self.time_to_first_token = Histogram(TTFT_S)
        self.inter_token_latency = Histogram(ITL_S)
        self.time_per_output_token = Histogram(ITL_S)
        self.e2e = Histogram(REQUEST_S)
        self.queue = Histogram(REQUEST_S)
        self.inference = Histogram(REQUEST_S)
        self.prefill = Histogram(REQUEST_S)
        self.decode = Histogram(REQUEST_S)
        self.request_prompt_tokens = Histogram(tokens)
        self.request_generation_tokens = Histogram(tokens)
        self.request_max_generation_tokens = Histogram(tokens)
        self.params_max_tokens = Histogram(tokens)
        self.prefill_kv_computed = Histogram(tokens)
        self.params_n = Histogram(PARAMS_N)
        self.request_preemptions = Histogram(PREEMPTIONS)

    def step(self, prompt_tokens: int, tokens: int, gaps: Mapping[float, int]) -> None:
        """Count a step: prompts it completed, tokens it made, gaps in seconds and how often."""
        if tokens == 0:  # a step that ends no prompt reports nothing, in vLLM too
            return
        self.prompt_tokens += prompt_tokens
        self.generation_tokens += tokens
        self.iteration_tokens.observe(prompt_tokens + tokens)
        for gap_s, times in gaps.items():
            self.inter_token_latency.observe(gap_s, times)

    def first_token(self, job: Job, at_s: float) -> None:
        """Count the prompt's cache hits and the wait for its first token."""
        self.cached_tokens += job.hit_tokens
        self.time_to_first_token.observe(at_s - job.arrival_s)

    def done(self, job: Job, life: Lifetime, finish: Finish) -> None:
        """Count a request that made all its tokens."""
        self.finished[finish] += 1
        ran_s = life.last_token_s - life.scheduled_s
        decode_s = life.last_token_s - life.first_token_s
        self.e2e.observe(life.last_token_s - job.arrival_s)
        self.queue.observe(life.scheduled_s - job.visible_s)
        self.inference.observe(ran_s)
        self.prefill.observe(life.first_token_s - life.scheduled_s)
        self.decode.observe(decode_s)
        self.time_per_output_token.observe(decode_s / max(job.generated - 1, 1))
        self._tokens(job)
        self.request_preemptions.observe(life.preemptions)

    def cut(self, finish: Finish) -> None:
        """Count a request that was aborted or failed; its times would only mislead."""
        self.finished[finish] += 1

    def _tokens(self, job: Job) -> None:
        prompt = len(job.generation.prompt)
        self.request_prompt_tokens.observe(prompt)
        self.request_generation_tokens.observe(job.generated)
        self.request_max_generation_tokens.observe(job.generated)
        self.prefill_kv_computed.observe(prompt - job.hit_tokens)
        self.params_n.observe(1)
        self.params_max_tokens.observe(job.generation.max_tokens)
