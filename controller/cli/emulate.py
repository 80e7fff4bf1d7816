"""`whaleflux emulate`: the emulated engine, started with vLLM's own flags.

Flags that change timing are options below; vLLM flags that do not are accepted and named
in one log line, so that a manifest written for vLLM starts the emulator unchanged.
"""

import difflib
import logging
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Literal

import typer

from controller.cli.options import (
    BlockSize,
    Caching,
    Chunked,
    ExpertParallel,
    GpuName,
    MaxBatched,
    MaxLen,
    MaxSeqs,
    PipelineParallel,
    ProfileDocument,
    TensorParallel,
    Utilization,
    find_profile,
)
from profiler import emulator
from profiler.configuration import Configuration, Quantization
from profiler.errors import Refused
from profiler.operators import KvDtype
from profiler.profile import EngineProfile
from profiler.scheduler import Limits

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}

IGNORED_WITH_VALUE = frozenset({
    "--chat-template", "--code-revision", "--config-format", "--cpu-offload-gb",
    "--distributed-executor-backend", "--download-dir", "--dtype", "--generation-config",
    "--hf-config-path", "--hf-overrides", "--hf-token", "--load-format",
    "--max-log-len", "--model-impl", "--reasoning-parser", "--response-role", "--revision",
    "--root-path", "--runner", "--swap-space", "--tokenizer", "--tokenizer-mode",
    "--tokenizer-revision", "--tool-call-parser",
    "--uvicorn-log-level",
})  # fmt: skip
IGNORED_SWITCHES = frozenset({
    "--async-scheduling", "--disable-access-log-for-endpoints", "--disable-custom-all-reduce",
    "--disable-fastapi-docs", "--disable-log-requests", "--disable-log-stats",
    "--disable-uvicorn-access-log", "--enable-auto-tool-choice",
    "--enable-force-include-usage", "--enable-log-requests", "--enable-prompt-tokens-details",
    "--enable-request-id-headers", "--enable-server-load-tracking", "--enforce-eager",
    "--no-async-scheduling", "--no-enable-log-requests", "--trust-remote-code",
})  # fmt: skip
"""Of vLLM's flags, those whose effect on timing the profile holds or the twin has none for."""

HTTP_S = 2e-3
"""What the emulator's own HTTP takes of a request's API time: measured over loopback as time
to first token with step costs of nothing, 1.6 to 2.1 ms for prompts of 16 to 1,024 tokens."""

log = logging.getLogger("profiler.emulator.cli")

Model = Annotated[
    str, typer.Option(help="Model to emulate: a bundled name, or a folder with config.json.")
]
ServedName = Annotated[list[str] | None, typer.Option(help="Name in the API; may be repeated.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)]
KvCache = Annotated[str, typer.Option(help="As vLLM; fp8 and its dialects change timing.")]
Quantized = Annotated[str, typer.Option(help="As vLLM; fp8 changes timing.")]
Blocks = Annotated[int | None, typer.Option(help="KV blocks, instead of what fits.", min=1)]
SleepMode = Annotated[bool, typer.Option("--enable-sleep-mode", help="Serve /sleep and /wake_up.")]
Timeout = Annotated[
    float, typer.Option(help="Seconds for requests in flight after SIGTERM.", min=0)
]
Seed = Annotated[int, typer.Option(help="Decides answers and their lengths.")]
ApiKey = Annotated[str | None, typer.Option(help="Key that /v1 asks for.")]
StartUp = Annotated[
    float | None, typer.Option(help="Seconds until it listens; default: the profile's.", min=0)
]
Speed = Annotated[float, typer.Option(help="Engine seconds in a real second.", min=0.001)]
FaultsOn = Annotated[bool, typer.Option("--enable-faults", help="Serve POST /faults.")]
AtStart = Annotated[Literal["out-of-memory"] | None, typer.Option(help="Fail while starting.")]


def emulate(
    ctx: typer.Context,
    model: Model,
    served_model_name: ServedName = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    tensor_parallel_size: TensorParallel = 1,
    pipeline_parallel_size: PipelineParallel = 1,
    enable_expert_parallel: ExpertParallel = False,
    kv_cache_dtype: KvCache = "auto",
    quantization: Quantized = "",
    max_num_seqs: MaxSeqs = 256,
    max_num_batched_tokens: MaxBatched = 8192,
    gpu_memory_utilization: Utilization = 0.9,
    max_model_len: MaxLen = None,
    block_size: BlockSize = 16,
    num_gpu_blocks_override: Blocks = None,
    enable_sleep_mode: SleepMode = False,
    shutdown_timeout: Timeout = 0.0,
    enable_chunked_prefill: Chunked = True,
    enable_prefix_caching: Caching = True,
    seed: Seed = 0,
    api_key: ApiKey = None,
    gpu: GpuName = "H100-SXM",
    profile: ProfileDocument = None,
    start_up_s: StartUp = None,
    speed: Speed = 1.0,
    enable_faults: FaultsOn = False,
    fault_at_start: AtStart = None,
) -> None:
    """Serve an emulated vLLM: its API and metrics, the twin's timing, no GPU."""
    ignored = tuple(ignored_flags(ctx.args, known_flags(ctx)))
    clock = emulator.RealClock(speed)
    begun_s = clock.now_s()
    configuration = Configuration(
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
        enable_expert_parallel=enable_expert_parallel,
        kv_cache_dtype=KvDtype.FP8 if kv_cache_dtype.startswith("fp8") else KvDtype.AUTO,
        quantization=Quantization.FP8 if quantization == "fp8" else Quantization.NONE,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len,
        block_size=block_size,
        enable_chunked_prefill=enable_chunked_prefill,
        enable_prefix_caching=enable_prefix_caching,
    )
    known = find_profile(model, gpu, profile, configuration)
    limits = find_limits(known, configuration, num_gpu_blocks_override)
    options = emulator.Options(
        model=model,
        served_names=tuple(served_model_name or ()),
        max_model_len=max_model_len or known.max_model_len,
        gpu=known.gpu,
        gpu_memory_utilization=gpu_memory_utilization,
        kv_cache_bytes=int(known.memory.kv_bytes(configuration)),
        num_gpu_blocks_override=num_gpu_blocks_override,
        sleep_mode=enable_sleep_mode,
        wake_up_s=known.wake_up_s,
        faults=enable_faults,
        seed=seed,
        api_key=api_key,
    )
    serving = emulator.Serving(
        host=host,
        port=port,
        start_up_s=known.start_up_s if start_up_s is None else start_up_s,
        shutdown_timeout_s=shutdown_timeout,
        out_of_memory=fault_at_start is not None,
    )
    log_to_stderr(ignored)
    cost = known.cost._replace(request_s=max(known.cost.request_s - HTTP_S * speed, 0.0))
    build = partial(emulator.build_app, cost, limits, options, clock=clock)
    code = emulator.run_process(build, serving, clock, begun_s)
    raise typer.Exit(code)


def known_flags(ctx: typer.Context) -> frozenset[str]:
    """Name every option that the command itself has."""
    return frozenset(flag for param in ctx.command.params for flag in param.opts)


def ignored_flags(args: Sequence[str], known: frozenset[str]) -> Iterator[str]:
    """Give the vLLM flags among `args` that do not change timing; refuse any other."""
    left = iter(args)
    for arg in left:
        name, equals, _ = arg.partition("=")
        if name in IGNORED_WITH_VALUE:
            if not equals:
                next(left, None)
        elif name not in IGNORED_SWITCHES:
            raise Refused(_unknown(name, known))
        yield name


def _unknown(name: str, known: frozenset[str]) -> str:
    if not name.startswith("-"):
        return f"{name}: an argument where a flag was expected; the model goes to --model"
    close = difflib.get_close_matches(name, known | IGNORED_WITH_VALUE | IGNORED_SWITCHES, 1)
    hint = f"did you mean {close[0]}?" if close else "see `whaleflux emulate --help`"
    return f"{name}: no such flag of the emulated engine; {hint}"


def find_limits(profile: EngineProfile, configuration: Configuration, blocks: int | None) -> Limits:
    """Bound the scheduler, with as many KV blocks as fit or as were asked for."""
    limits = profile.limits(configuration)
    return limits if blocks is None else limits._replace(num_blocks=blocks)


def log_to_stderr(ignored: Sequence[str]) -> None:
    """Log as vLLM does, and say what was accepted without effect."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s",
        datefmt="%m-%d %H:%M:%S",
    )
    if ignored:
        log.info("Accepted without effect on timing: %s", " ".join(ignored))
