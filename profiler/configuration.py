"""The engine options that decide what a replica can carry."""

from dataclasses import dataclass
from enum import StrEnum

from profiler.errors import Refused
from profiler.layout import Layout
from profiler.operators import KvDtype

_AT_LEAST_ONE = (
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "max_num_seqs",
    "max_num_batched_tokens",
)  # fmt: skip


class Quantization(StrEnum):
    """What the engine does to the weights as it loads them (`--quantization`)."""

    NONE = "none"
    """Served as the checkpoint has them."""
    FP8 = "fp8"
    """Linear layers and experts of a 16-bit checkpoint are stored and multiplied in FP8."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One replica's engine configuration, in vLLM's own terms."""

    tensor_parallel_size: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    gpu_memory_utilization: float = 0.9
    """Share of the card's memory that the engine may use, 0 to 1."""
    max_model_len: int | None = None
    """Longest prompt and answer together, tokens; None: what the model allows."""
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    kv_cache_dtype: KvDtype = KvDtype.AUTO
    block_size: int = 16
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    priority_scheduling: bool = False
    """`--scheduling-policy priority`: the lowest number first, instead of first come."""
    async_scheduling: bool = False
    """Schedule the next step while one runs."""
    quantization: Quantization = Quantization.NONE

    def __post_init__(self) -> None:
        """Refuse what no engine would start with."""
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise Refused(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise Refused(
                f"gpu_memory_utilization must lie in (0, 1], got {self.gpu_memory_utilization}"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise Refused(
                f"max_num_batched_tokens {self.max_num_batched_tokens} must be at least "
                f"max_num_seqs {self.max_num_seqs}: a step gives every sequence one token"
            )

    @property
    def layout(self) -> Layout:
        """How the replica's work is shared out."""
        return Layout(
            self.tensor_parallel_size,
            self.pipeline_parallel_size,
            self.data_parallel_size,
            self.enable_expert_parallel,
        )

    def engine_args(self) -> tuple[str, ...]:
        """Give the flags of `vllm serve` that set it."""
        args = [
            f"--tensor-parallel-size={self.tensor_parallel_size}",
            f"--max-num-seqs={self.max_num_seqs}",
            f"--max-num-batched-tokens={self.max_num_batched_tokens}",
            f"--gpu-memory-utilization={self.gpu_memory_utilization:g}",
        ]
        if self.max_model_len is not None:
            args.append(f"--max-model-len={self.max_model_len}")
        if self.pipeline_parallel_size > 1:
            args.append(f"--pipeline-parallel-size={self.pipeline_parallel_size}")
        if self.data_parallel_size > 1:
            args.append(f"--data-parallel-size={self.data_parallel_size}")
        if self.enable_expert_parallel:
            args.append("--enable-expert-parallel")
        if self.kv_cache_dtype is not KvDtype.AUTO:
            args.append(f"--kv-cache-dtype={self.kv_cache_dtype}")
        if self.quantization is not Quantization.NONE:
            args.append(f"--quantization={self.quantization}")
        if not self.enable_chunked_prefill:
            args.append("--no-enable-chunked-prefill")
        if not self.enable_prefix_caching:
            args.append("--no-enable-prefix-caching")
        if self.priority_scheduling:
            args.append("--scheduling-policy=priority")
        return tuple(args)
