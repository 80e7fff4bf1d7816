"""What the emulated server is told at its start, besides step cost and limits."""

from dataclasses import dataclass, field

from profiler.errors import DoesNotFit, Refused
from profiler.scheduler import Limits

VLLM_VERSION = "0.32.0"
"""The release whose API and metrics the emulator speaks."""


@dataclass(frozen=True, slots=True)
class Options:
    """Frozen settings; times in engine seconds."""

    model: str
    served_names: tuple[str, ...] = ()
    """Names that requests may use; the first is answered with. Empty: the model's."""
    max_model_len: int | None = None
    """Longest prompt and answer together, tokens; None: what the KV cache holds."""
    gpu: str = "H100-SXM"
    gpu_memory_utilization: float = 0.9
    kv_cache_bytes: int | None = None
    """What `cache_config_info` states; None: unknown."""
    num_gpu_blocks_override: int | None = None
    sleep_mode: bool = False
    """Whether `/sleep` and `/wake_up` are there."""
    wake_up_s: float = 3.0
    """From `/wake_up` to the next step."""
    faults: bool = False
    """Whether `/faults` is there."""
    seed: int = 0
    api_key: str | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the model, the one it answers with first."""
        return self.served_names or (self.model,)


def longest_request(options: Options, limits: Limits) -> int:
    """Tokens that one request may span; `DoesNotFit` when the KV cache cannot hold them."""
    held = limits.num_blocks * limits.block_size
    if options.max_model_len is None:
        return held
    if options.max_model_len < 1:
        raise Refused(f"--max-model-len must be at least 1, got {options.max_model_len}")
    if options.max_model_len > held:
        raise DoesNotFit(
            f"--max-model-len {options.max_model_len} exceeds the KV cache of {held} tokens: "
            f"lower it, or raise --gpu-memory-utilization or --tensor-parallel-size"
        )
    return options.max_model_len
