"""MIG: the slices that a GPU type can be cut into, each as a GPU type of its own.

Called by the recommender to place small services; never touches a device. Names, fractions
of memory and counts are those of NVIDIA's MIG User Guide, "Supported MIG Profiles" (A100,
H100 80 GB, H200, B200). Memory and multiprocessors are what drivers report
(`nvidia-smi mig -lgip`, as published for A100-SXM4-40GB, A100 80GB, H100 80GB HBM3, H100
PCIe, H200 in NVIDIA/mig-parted#120, B200 in NVIDIA/mig-parted#166 and #187; of drivers that
differ, the least): less than the guide's fractions, for a slice has 16 of the H100's 132
multiprocessors, not a seventh. Where a slice may start is `nvidia-smi mig -lgipp`, the same
on all of them.

Left out: profiles with media engines (`+me`), which compute alike; compute instances inside
a GPU instance, which share its bandwidth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from profiler.errors import Refused
from profiler.hardware import GIB, Gpu

MEMORY_SLICES = 8
COMPUTE_SLICES = 7


@dataclass(frozen=True, slots=True)
class MigProfile:
    """A GPU instance profile of one GPU type."""

    name: str
    """As the driver has it: 1g.10gb."""
    compute_slices: int
    """Of `COMPUTE_SLICES`."""
    memory_slices: int
    """Of `MEMORY_SLICES`: memory, bandwidth and L2 alike."""
    memory_bytes: float
    count_max: int
    """Instances that one GPU holds."""
    compute_ratio: float
    """Share of the whole GPU's multiprocessors, 0 to 1."""
    starts: tuple[int, ...]
    """Memory slices at which it may start."""

    @property
    def bandwidth_ratio(self) -> float:
        """Share of the whole GPU's memory bandwidth, 0 to 1."""
        return self.memory_slices / MEMORY_SLICES


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is the same on every GPU type, by the name's first part."""

    compute_slices: int
    memory_slices: int
    count_max: int
    starts: tuple[int, ...]


_KINDS = (
    _Kind(1, 1, 7, (0, 1, 2, 3, 4, 5, 6)),
    _Kind(1, 2, 4, (0, 2, 4, 6)),
    _Kind(2, 2, 3, (0, 2, 4)),
    _Kind(3, 4, 2, (0, 4)),
    _Kind(4, 4, 1, (0,)),
    _Kind(7, 8, 1, (0,)),
)

_A100_SMS = (14, 14, 28, 42, 56, 98)
_HOPPER_SMS = (16, 26, 32, 60, 64, 132)
_B200_SMS = (18, 30, 36, 54, 72, 148)
"""Of the last three no report was found: 18 a slice, and the whole."""

_TABLE: dict[str, tuple[int, tuple[int, ...], tuple[float, ...], tuple[int, ...]]] = {
    # multiprocessors of the card; by kind: GB in the name, GiB there are, multiprocessors
    "A100-40GB": (108, (5, 10, 10, 20, 20, 40), (4.75, 9.62, 9.62, 19.5, 19.5, 39.25), _A100_SMS),
    "A100-80GB": (108, (10, 20, 20, 40, 40, 80), (9.5, 19.5, 19.5, 39.25, 39.25, 79), _A100_SMS),
    "H100-SXM": (
        132, (10, 20, 20, 40, 40, 80), (9.75, 19.62, 19.62, 39.5, 39.5, 79.25), _HOPPER_SMS,
    ),
    "H100-PCIe": (
        114, (10, 20, 20, 40, 40, 80), (9.75, 19.62, 19.62, 39.5, 39.5, 79.25),
        (14, 14, 30, 46, 62, 114),
    ),
    "H200": (132, (18, 35, 35, 71, 71, 141), (16, 32.25, 32.25, 69.5, 69.5, 139.75), _HOPPER_SMS),
    "B200": (148, (23, 45, 45, 90, 90, 180), (20.5, 44.25, 44.25, 89, 89, 178), _B200_SMS),
}  # fmt: skip


def mig_profiles(gpu: Gpu) -> tuple[MigProfile, ...]:
    """List the profiles of a GPU type, the smallest first; none where it has no MIG."""
    row = _TABLE.get(gpu.name)
    if row is None:
        return ()
    card_sms, names, memory_gib, sms = row
    return tuple(
        MigProfile(
            name=f"{kind.compute_slices}g.{gb}gb",
            compute_slices=kind.compute_slices,
            memory_slices=kind.memory_slices,
            memory_bytes=min(gib * GIB, gpu.memory_bytes),
            count_max=kind.count_max,
            compute_ratio=own / card_sms,
            starts=kind.starts,
        )
        for kind, gb, gib, own in zip(_KINDS, names, memory_gib, sms, strict=True)
    )


def find_mig_profile(gpu: Gpu, name: str) -> MigProfile:
    """Look a profile up by name; raises `Refused` with those there are."""
    known = mig_profiles(gpu)
    for profile in known:
        if profile.name == name.strip().lower():
            return profile
    names = ", ".join(profile.name for profile in known) or f"{gpu.name} has no MIG"
    raise Refused(f"mig: {gpu.name} has no profile {name!r} (known: {names})")


def as_gpu(gpu: Gpu, profile: MigProfile) -> Gpu:
    """Give the slice as a GPU type; on its own, as instances have no NVLink to each other.

    Compute and bandwidth are the slice's share of the card's peaks. The slices of a card
    still share its PCIe and its power.
    """
    return replace(
        gpu,
        name=f"{gpu.name}/{profile.name}",
        product=f"{gpu.product}-MIG-{profile.name}",
        memory_bytes=profile.memory_bytes,
        bandwidth_bytes_s=gpu.bandwidth_bytes_s * profile.bandwidth_ratio,
        peak_flops=tuple((d, flops * profile.compute_ratio) for d, flops in gpu.peak_flops),
        link_domain=1,
        source=f"{gpu.source}; NVIDIA MIG User Guide",
    )


def fits_together(gpu: Gpu, profiles: Sequence[MigProfile]) -> bool:
    """Whether one GPU can be cut into all of these at once, by the driver's placement rules."""
    known = mig_profiles(gpu)
    if any(profile not in known for profile in profiles):
        return False
    if sum(profile.compute_slices for profile in profiles) > COMPUTE_SLICES:
        return False
    widest_first = sorted(profiles, key=lambda p: (-p.memory_slices, len(p.starts)))
    return _placed(widest_first, frozenset())


def _placed(left: Sequence[MigProfile], taken: frozenset[int]) -> bool:
    """Whether those left find free memory slices; tries every start of the first."""
    if not left:
        return True
    first, *others = left
    for start in first.starts:
        slices = frozenset(range(start, start + first.memory_slices))
        if not slices & taken and _placed(others, taken | slices):
            return True
    return False


def geometries(gpu: Gpu) -> tuple[tuple[MigProfile, ...], ...]:
    """List the ways to cut a GPU to which no further slice can be added, largest slices first.

    Each is a combination; where its slices lie does not matter to who runs on them.
    """
    largest_first = tuple(reversed(mig_profiles(gpu)))
    valid = tuple(_combinations(gpu, largest_first, ()))
    return tuple(
        cut for cut in valid if not any(fits_together(gpu, (*cut, p)) for p in largest_first)
    )


def _combinations(
    gpu: Gpu, choices: Sequence[MigProfile], begun: tuple[MigProfile, ...]
) -> list[tuple[MigProfile, ...]]:
    """List all valid combinations that go on from `begun` with profiles of `choices`."""
    found = [begun] if begun else []
    for i, profile in enumerate(choices):
        longer = (*begun, profile)
        if fits_together(gpu, longer):
            found += _combinations(gpu, choices[i:], longer)
    return found
