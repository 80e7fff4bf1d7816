"""The engine options that decide what a replica can carry."""

from dataclasses import dataclass

from profiler.errors import Refused


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
    block_size: int = 16
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True

    def __post_init__(self) -> None:
        """Refuse what no engine would start with."""
        for name in ("tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens"):
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
        return tuple(args)
