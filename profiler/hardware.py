"""The GPU catalogue: what a card can do, with the source of each figure.

Memory is what CUDA reports as total, not the figure on the box. Peaks are dense (no
sparsity). `link_bytes_s` is one direction of what joins GPUs inside a node; an all-reduce
over it is priced by `operators`.
"""

import difflib
from dataclasses import dataclass
from enum import StrEnum

from profiler.errors import Refused

GIB = 1 << 30
GB = 1e9
TERA = 1e12


class Dtype(StrEnum):
    """Number formats that tensor cores multiply."""

    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    FP4 = "fp4"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU type; SI units."""

    name: str
    product: str
    """Value of the node label `nvidia.com/gpu.product`."""
    memory_bytes: float
    bandwidth_bytes_s: float
    peak_flops: tuple[tuple[Dtype, float], ...]
    link: str
    link_bytes_s: float
    link_latency_s: float
    """One all-reduce of a few bytes over the link domain."""
    link_domain: int
    """GPUs of a node that the link joins at that speed."""
    source: str

    def flops(self, dtype: Dtype) -> float:
        """Dense peak in FLOP/s; formats the card lacks run at BF16 speed."""
        peaks = dict(self.peak_flops)
        return peaks.get(dtype, peaks[Dtype.BF16])


def _peaks(**tera: float) -> tuple[tuple[Dtype, float], ...]:
    return tuple((Dtype(name), value * TERA) for name, value in tera.items())


def _nvlink(gb_s: float, latency_us: float) -> dict[str, object]:
    return {
        "link": "NVLink", "link_bytes_s": gb_s * GB, "link_latency_s": latency_us * 1e-6,
        "link_domain": 8,
    }  # fmt: skip


def _pcie(gb_s: float) -> dict[str, object]:
    # 16 GB/s and 20 µs were measured on a PCIe 4.0 slot of 32 GB/s: half the slot's rate is
    # assumed for the others too.
    return {
        "link": "PCIe", "link_bytes_s": gb_s * GB, "link_latency_s": 20e-6, "link_domain": 8,
    }  # fmt: skip


_AMPERE_NVLINK = _nvlink(300, 25)
_HOPPER_NVLINK = _nvlink(450, 15)

_ROWS: tuple[tuple[str, str, float, float, tuple[tuple[Dtype, float], ...], dict, str], ...] = (  # type: ignore[type-arg]
    ("A100-40GB", "NVIDIA-A100-SXM4-40GB", 39.39, 1555, _peaks(bf16=312, int8=624),
     _AMPERE_NVLINK, "NVIDIA A100 Tensor Core GPU datasheet, June 2021"),
    ("A100-80GB", "NVIDIA-A100-SXM4-80GB", 79.15, 2039, _peaks(bf16=312, int8=624),
     _AMPERE_NVLINK, "NVIDIA A100 Tensor Core GPU datasheet, June 2021"),
    ("H100-SXM", "NVIDIA-H100-80GB-HBM3", 79.18, 3350, _peaks(bf16=989.4, fp8=1978.9, int8=1978.9),
     _HOPPER_NVLINK, "NVIDIA H100 Tensor Core GPU datasheet"),
    ("H100-PCIe", "NVIDIA-H100-PCIe", 79.10, 2000, _peaks(bf16=756, fp8=1513, int8=1513),
     _pcie(32), "NVIDIA H100 Tensor Core GPU datasheet"),
    ("H200", "NVIDIA-H200", 139.81, 4800, _peaks(bf16=989.4, fp8=1978.9, int8=1978.9),
     _HOPPER_NVLINK, "NVIDIA H200 Tensor Core GPU datasheet"),
    ("B200", "NVIDIA-B200", 178.35, 7700, _peaks(bf16=2250, fp8=4500, int8=4500, fp4=9000),
     _nvlink(900, 15), "NVIDIA HGX B200 datasheet, per GPU"),
    ("L40S", "NVIDIA-L40S", 44.39, 864, _peaks(bf16=362, fp8=733, int8=733),
     _pcie(16), "NVIDIA L40S datasheet"),
    ("A10G", "NVIDIA-A10G", 22.19, 600, _peaks(bf16=70, int8=140),
     _pcie(16), "NVIDIA A10G datasheet; AWS G5"),
    ("L4", "NVIDIA-L4", 22.05, 300, _peaks(bf16=121, fp8=242.5, int8=242.5),
     _pcie(8), "NVIDIA L4 datasheet"),
    ("RTX-4090", "NVIDIA-GeForce-RTX-4090", 23.52, 1008, _peaks(bf16=165.2, fp8=330.3, int8=660.6),
     _pcie(16), "NVIDIA Ada GPU architecture whitepaper; FP32 accumulation"),
    ("RTX-PRO-6000", "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", 94.97, 1792,
     _peaks(bf16=503.8, fp8=1007.6, int8=1007.6, fp4=2015.2),
     _pcie(32), "NVIDIA RTX Blackwell PRO GPU architecture whitepaper"),
)  # fmt: skip

GPUS: dict[str, Gpu] = {
    name: Gpu(
        name=name,
        product=product,
        memory_bytes=memory_gib * GIB,
        bandwidth_bytes_s=bandwidth_gb_s * GB,
        peak_flops=peaks,
        source=source,
        **link,
    )
    for name, product, memory_gib, bandwidth_gb_s, peaks, link, source in _ROWS
}


def find_gpu(name: str) -> Gpu:
    """Look a GPU up by its catalogue name or node label, ignoring case.

    Raises `Refused` with the nearest names.
    """
    folded = name.strip().lower().replace("_", "-").replace(" ", "-")
    for gpu in GPUS.values():
        if folded in (gpu.name.lower(), gpu.product.lower()):
            return gpu
    near = [known for known in GPUS if known.lower().startswith(folded)] or [
        known for known in GPUS if difflib.get_close_matches(folded, [known.lower()], cutoff=0.6)
    ]
    hint = f"; did you mean {' or '.join(near)}?" if folded and near else ""
    raise Refused(f"gpu: unknown type {name!r}{hint} (known: {', '.join(GPUS)})")
