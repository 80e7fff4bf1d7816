"""Who may sleep beside whom: a standby in vLLM's sleep mode on a GPU that somebody serves from.

Level 1: the weights wait in host memory, the KV cache is gone, and the process with its
context and graphs stays on the GPU, on which alone it can wake.
"""

from dataclasses import dataclass

from profiler.errors import Refused
from profiler.hardware import GIB
from recommender.sharing.footprint import asleep_bytes, awake_bytes
from recommender.sharing.tenant import Tenant

_GEN5 = ("H100", "H200", "B200", "RTX-PRO-6000")
_GEN5_BYTES_S = 55e9
_GEN4_BYTES_S = 24.8e9
"""Pinned host memory to a GPU in a slot of 16 lanes, as nvbandwidth reports it:
55.4–56.5 GB/s on PCIe 5.0, 24.8 on the PCIe 4.0 of an A100-SXM4-80GB
(forums.developer.nvidia.com, thread 352186)."""
_WAKE_FIXED_S = 0.5
"""Mapping memory again: 0.47 s where no weights were copied (Qwen3-32B on an H20, level 2,
vLLM#45648)."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Whether a standby may sleep beside a neighbour that serves."""

    allowed: bool
    because: str
    resident_bytes: float
    """What it keeps of each GPU while it sleeps."""
    wake_up_s: float
    """Until its weights are back: copied, or what the profile says if that is longer."""
    host_bytes: float
    """Weights in host memory, of the sleeper and of whoever must sleep for it to wake."""
    asleep_first: str | None = None
    """Who must go to sleep before it can wake; None: they fit side by side."""


def may_sleep(sleeper: Tenant, neighbour: Tenant, host_memory_bytes: float) -> Sleep:
    """Say whether `sleeper` may wait asleep beside `neighbour`, and what waking it takes.

    Both as they are configured: awake each holds its `gpu_memory_utilization`. Where the two
    do not fit awake, the one of lower priority sleeps; equals do not displace each other.
    Whether both may serve at once, should they fit, is for `share` to say.
    `host_memory_bytes`: free on the node. Weights that woke stay there, too (vLLM#16663).
    Raises `Refused` for profiles of different GPUs.
    """
    if sleeper.profile.gpu != neighbour.profile.gpu:
        raise Refused(
            f"{sleeper.name} is for {sleeper.profile.gpu}, {neighbour.name} for "
            f"{neighbour.profile.gpu}: only replicas on the same GPU can sleep for each other"
        )
    card = min(sleeper.profile.memory.total_bytes, neighbour.profile.memory.total_bytes)
    beside = awake_bytes(sleeper) + awake_bytes(neighbour) <= card
    first = None if beside else neighbour.name
    host = host_copy_bytes(sleeper) + (0.0 if beside else host_copy_bytes(neighbour))
    why_not = (
        _no_room(sleeper, neighbour, card)
        or (None if beside else _not_displaced(sleeper, neighbour, card))
        or _no_host_memory(sleeper, first, host, host_memory_bytes)
    )
    return Sleep(
        allowed=why_not is None,
        because=why_not or _allowed(sleeper, first),
        resident_bytes=asleep_bytes(sleeper),
        wake_up_s=wake_up_s(sleeper),
        host_bytes=host,
        asleep_first=first,
    )


def host_copy_bytes(tenant: Tenant) -> float:
    """Weights of all its GPUs in host memory; those of several nodes as if of one."""
    return tenant.profile.memory.weights_bytes * tenant.profile.layout.gpus


def wake_up_s(tenant: Tenant) -> float:
    """Seconds to wake, each GPU copying its own weights; at least what the profile says."""
    gen5 = tenant.profile.gpu.startswith(_GEN5)
    rate_bytes_s = _GEN5_BYTES_S if gen5 else _GEN4_BYTES_S
    copied_s = _WAKE_FIXED_S + tenant.profile.memory.weights_bytes / rate_bytes_s
    return max(copied_s, tenant.profile.wake_up_s)


def _no_room(sleeper: Tenant, neighbour: Tenant, card: float) -> str | None:
    """Say so when even asleep it is too much beside the neighbour."""
    left = card - awake_bytes(neighbour)
    if asleep_bytes(sleeper) <= left:
        return None
    utilization = (card - asleep_bytes(sleeper) - awake_bytes(neighbour)) / card
    lower = neighbour.configuration.gpu_memory_utilization + utilization
    return (
        f"memory: asleep {sleeper.name} holds {asleep_bytes(sleeper) / GIB:.1f} GiB, beside "
        f"{neighbour.name} {max(left, 0) / GIB:.1f} are free: set its gpu_memory_utilization "
        f"to {max(int(1000 * lower), 0) / 1000:g} or less"
    )


def _not_displaced(sleeper: Tenant, neighbour: Tenant, card: float) -> str | None:
    """Say so when the sleeper could not wake: the two do not fit awake, and none gives way."""
    if neighbour.priority >= sleeper.priority:
        return (
            f"priority: awake {sleeper.name} needs {awake_bytes(sleeper) / GIB:.1f} GiB, which "
            f"do not fit beside {neighbour.name}, and that does not give way: its priority "
            f"{neighbour.priority} is not below {sleeper.priority}"
        )
    if awake_bytes(sleeper) + asleep_bytes(neighbour) > card:
        lower = (card - asleep_bytes(neighbour) - awake_bytes(sleeper)) / card
        utilization = sleeper.configuration.gpu_memory_utilization + lower
        return (
            f"memory: awake {sleeper.name} does not fit beside {neighbour.name} even asleep: set "
            f"its gpu_memory_utilization to {max(int(1000 * utilization), 0) / 1000:g} or less"
        )
    return None


def _no_host_memory(
    sleeper: Tenant, first: str | None, host: float, free_bytes: float
) -> str | None:
    if host <= free_bytes:
        return None
    whose = sleeper.name if first is None else f"{sleeper.name} and {first}"
    return (
        f"host memory: the weights of {whose} take {host / GIB:.1f} GiB, "
        f"{free_bytes / GIB:.1f} are free: give the node more or keep the standby elsewhere"
    )


def _allowed(sleeper: Tenant, first: str | None) -> str:
    how = "wakes beside it" if first is None else f"wakes once {first} sleeps"
    return f"{sleeper.name} {how}, in {wake_up_s(sleeper):.1f} s"
