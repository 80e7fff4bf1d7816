"""What may be chosen: layouts of a replica, number formats, batch limits; and what may not.

Enumerates for `recommender.search`; prices nothing. An engine's refusals are told here in
one line each, so that nothing is ever proposed that would not start.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

from profiler.architecture import Architecture
from profiler.configuration import Configuration, Quantization
from profiler.errors import Refused
from profiler.hardware import Dtype, Gpu
from profiler.layout import Layout, check_layout
from profiler.operators import KvDtype
from profiler.profile import EngineProfile
from recommender.workload import Workload

T = TypeVar("T")

_SIZES = (1, 2, 4, 8, 16)
_SEQS = (16, 32, 64, 128, 256, 512, 1024)
_BATCHED_TOKENS = (1024, 2048, 4096, 8192, 16384)
_PLAIN_SEQS, _PLAIN_BATCHED_TOKENS = 256, 8192
_PLAIN_UTILIZATION, _HIGH_UTILIZATION = 0.90, 0.95
_MODEL_LEN_STEP = 1024
NODE_GPUS = 8
"""GPUs of a node where nobody says."""


@dataclass(frozen=True, slots=True)
class Pins:
    """What the user has decided; None: left to the search.

    Formats that change what the model answers are chosen only from those allowed.
    """

    tensor_parallel_size: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    pipeline_parallel_size: int | None = None
    data_parallel_size: int | None = None
    enable_expert_parallel: bool | None = None
    enable_chunked_prefill: bool | None = None
    enable_prefix_caching: bool | None = None
    kv_cache_dtypes: tuple[KvDtype, ...] = (KvDtype.AUTO,)
    quantizations: tuple[Quantization, ...] = (Quantization.NONE,)

    def with_defaults(self) -> Configuration:
        """Give what is pinned, and the engine's own defaults for what is not."""
        seqs = self.max_num_seqs or _PLAIN_SEQS
        chunked, caching = self.enable_chunked_prefill, self.enable_prefix_caching
        return Configuration(
            tensor_parallel_size=self.tensor_parallel_size or 1,
            pipeline_parallel_size=self.pipeline_parallel_size or 1,
            data_parallel_size=self.data_parallel_size or 1,
            enable_expert_parallel=bool(self.enable_expert_parallel),
            kv_cache_dtype=self.kv_cache_dtypes[0],
            quantization=self.quantizations[0],
            max_num_seqs=seqs,
            max_num_batched_tokens=self.max_num_batched_tokens or max(_PLAIN_BATCHED_TOKENS, seqs),
            gpu_memory_utilization=self.gpu_memory_utilization or _PLAIN_UTILIZATION,
            max_model_len=self.max_model_len,
            enable_chunked_prefill=chunked is not False,
            enable_prefix_caching=caching is not False,
        )

    def allow(self, configuration: Configuration) -> bool:
        """Whether a configuration is one that the search might have chosen."""
        c = configuration
        pairs = (
            (self.max_num_seqs, c.max_num_seqs),
            (self.max_num_batched_tokens, c.max_num_batched_tokens),
            (self.gpu_memory_utilization, c.gpu_memory_utilization),
            (self.max_model_len, c.max_model_len),
            (self.enable_chunked_prefill, c.enable_chunked_prefill),
            (self.enable_prefix_caching, c.enable_prefix_caching),
        )
        return (
            self.layout_is(c.layout)
            and c.kv_cache_dtype in self.kv_cache_dtypes
            and c.quantization in self.quantizations
            and all(pin is None or pin == value for pin, value in pairs)
        )

    def layout_is(self, layout: Layout) -> bool:
        """Whether a layout is what was pinned."""
        pairs = (
            (self.tensor_parallel_size, layout.tensor),
            (self.pipeline_parallel_size, layout.pipeline),
            (self.data_parallel_size, layout.data),
            (self.enable_expert_parallel, layout.expert),
        )
        return all(pin is None or pin == value for pin, value in pairs)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to load the model onto a replica's GPUs; batch limits are chosen on top."""

    layout: Layout
    kv_dtype: KvDtype = KvDtype.AUTO
    quantization: Quantization = Quantization.NONE


def variants(
    architecture: Architecture, gpu: Gpu, pins: Pins, node_gpus: int
) -> tuple[list[Variant], list[str]]:
    """Give every way to load the model within one node, and a line for each that is refused.

    Smaller replicas first. Raises `Refused` when the pins contradict each other or the node.
    """
    wanted = list(_layouts(architecture, pins))
    fitting = [layout for layout in wanted if layout.gpus <= node_gpus]
    if not fitting:
        least = min((layout.gpus for layout in wanted), default=0)
        raise Refused(
            f"{_pinned(pins)}: asks for {least} GPUs a replica, and a node has {node_gpus}: "
            "lower it, or give nodes of more GPUs"
            if least
            else f"{_pinned(pins)}: no replica can be laid out so: {_why_none(architecture)}"
        )
    formats = product(pins.quantizations, pins.kv_cache_dtypes)
    found, refused = [], []
    for layout, (quantization, kv_dtype) in product(fitting, list(formats)):
        variant = Variant(layout, kv_dtype, quantization)
        why = refusal(architecture, gpu, variant)
        if why is None:
            found.append(variant)
        elif why not in refused:
            refused.append(why)
    return found, refused


def _layouts(architecture: Architecture, pins: Pins) -> Iterator[Layout]:
    """Layouts that the pins allow, the fewest GPUs first.

    Pipeline stages are not combined with data parallelism: engines support it in places only.
    """
    has_experts = architecture.experts is not None
    axes = product(
        _axis(pins.tensor_parallel_size, _SIZES),
        _axis(pins.pipeline_parallel_size, _SIZES),
        _axis(pins.data_parallel_size, _SIZES if has_experts else (1,)),
        _axis(pins.enable_expert_parallel, (False, True) if has_experts else (False,)),
    )
    layouts = [Layout(*axis) for axis in axes]
    kept = [
        layout
        for layout in layouts
        if (layout.pipeline == 1 or layout.data == 1 or pins.data_parallel_size)
        and (not layout.expert or layout.expert_gpus > 1 or pins.enable_expert_parallel)
    ]
    return iter(sorted(kept, key=lambda each: (each.gpus, each.pipeline, each.data, each.expert)))


def _axis(pin: T | None, values: tuple[T, ...]) -> tuple[T, ...]:
    return values if pin is None else (pin,)


def _pinned(pins: Pins) -> str:
    """Name the layout's options that were pinned."""
    names = (
        "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size",
        "enable_expert_parallel",
    )  # fmt: skip
    given = [f"{name} {getattr(pins, name)}" for name in names if getattr(pins, name) is not None]
    return ", ".join(given) or "layout"


def _why_none(architecture: Architecture) -> str:
    if architecture.experts is None:
        return f"{architecture.name} has no experts to share"
    return "pipeline stages and data parallelism are not combined; drop one of them"


def refusal(architecture: Architecture, gpu: Gpu, variant: Variant) -> str | None:
    """Say in a line why vLLM would not start so; None where it would."""
    try:
        check_layout(architecture, gpu, variant.layout)
    except Refused as error:
        return str(error)
    formats = dict(gpu.peak_flops)
    if variant.kv_dtype is KvDtype.FP8 and Dtype.FP8 not in formats:
        return f"kv_cache_dtype: fp8 needs a GPU that computes in FP8, and {gpu.name} does not"
    already = min(architecture.weights.linear_bits, architecture.weights.expert_bits) < 16
    if variant.quantization is Quantization.FP8:
        if already:
            return f"quantization: {architecture.name} is quantised already"
        if Dtype.FP8 not in formats:
            return f"quantization: fp8 needs a GPU that computes in FP8, and {gpu.name} does not"
    return _heads_refusal(architecture, variant.layout) or _block_refusal(
        architecture, variant.layout
    )


def _heads_refusal(a: Architecture, layout: Layout) -> str | None:
    """Key-value heads are shared out evenly, or copied evenly."""
    if a.latent is None and layout.tensor % a.kv_heads and a.kv_heads % layout.tensor:
        return (
            f"tensor_parallel_size: {layout.tensor} neither divides the {a.kv_heads} key-value "
            f"heads of {a.name} nor is a multiple of them"
        )
    return None


def _block_refusal(a: Architecture, layout: Layout) -> str | None:
    """Each GPU's slice of a matrix is whole blocks of scales (vLLM: fp8.py, create_weights)."""
    block = a.weights.block
    if not block:
        return None
    slices = [("intermediate_size", a.intermediate_size, layout.tensor, a.dense_layers > 0)]
    if a.experts is not None:
        own = 1 if layout.expert else layout.expert_gpus
        slices.append(("moe_intermediate_size", a.experts.intermediate_size, own, True))
    for name, width, parts, used in slices:
        if used and width % (parts * block):
            return (
                f"tensor_parallel_size: {layout} cuts the {name} {width} of {a.name} into parts "
                f"that are no multiple of its quantisation blocks of {block}"
            )
    return None


# --- batch limits ---


def plain(profile: EngineProfile, workload: Workload, pins: Pins) -> Configuration:
    """Give the usual configuration of a profile, with what was pinned."""
    layout = profile.layout
    seqs = pins.max_num_seqs or min(_PLAIN_SEQS, pins.max_num_batched_tokens or _PLAIN_SEQS)
    longest = pins.max_model_len or model_len(profile, workload)
    chunked = pins.enable_chunked_prefill is not False
    tokens = pins.max_num_batched_tokens or max(_PLAIN_BATCHED_TOKENS, seqs)
    if not chunked and pins.max_num_batched_tokens is None:
        tokens = max(tokens, longest)
    return Configuration(
        tensor_parallel_size=layout.tensor,
        pipeline_parallel_size=layout.pipeline,
        data_parallel_size=layout.data,
        enable_expert_parallel=layout.expert,
        kv_cache_dtype=profile.kv_dtype,
        quantization=profile.quantization,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        gpu_memory_utilization=pins.gpu_memory_utilization or _PLAIN_UTILIZATION,
        max_model_len=longest,
        enable_chunked_prefill=chunked,
        enable_prefix_caching=pins.enable_prefix_caching is not False,
    )


def model_len(profile: EngineProfile, workload: Workload) -> int:
    """Room for the longest request seen and half as much again, in steps of 1,024 tokens."""
    wanted = -(-int(1.5 * workload.longest_tokens) // _MODEL_LEN_STEP) * _MODEL_LEN_STEP
    return min(wanted, profile.max_model_len)


def batchings(start: Configuration, pins: Pins) -> list[Configuration]:
    """Give every choice of batch limits around a plain configuration, itself first."""
    longest = start.max_model_len or 0
    tokens_axis = set(_axis(pins.max_num_batched_tokens, _BATCHED_TOKENS))
    chunked_axis = _axis(pins.enable_chunked_prefill, (True, False))
    choices = product(
        _axis(pins.max_num_seqs, _SEQS),
        sorted(tokens_axis | {start.max_num_batched_tokens}),
        _axis(pins.gpu_memory_utilization, (_PLAIN_UTILIZATION, _HIGH_UTILIZATION)),
        chunked_axis,
    )
    found = [start]
    for seqs, tokens, utilization, chunked in choices:
        if tokens < seqs or (not chunked and tokens < longest):
            continue
        one = replace(
            start,
            max_num_seqs=seqs,
            max_num_batched_tokens=tokens,
            gpu_memory_utilization=utilization,
            enable_chunked_prefill=chunked,
        )
        if one != start:
            found.append(one)
    return found
