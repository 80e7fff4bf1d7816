"""The scheduling rules of vLLM and SGLang, as kernels over arrays.

Called by the twin (simulated time) and by the emulated engine (real time): both step the
very same functions, so what is planned is what is served.

    enqueue … → begin → launch → (the step runs) → commit → release …

`vllm` and `sglang` decide who computes how many tokens, over `queue` (who waits) and
`blocks` (the KV cache); `steps` carries a decided step to its end. A sequence whose tokens
are all computed samples one when the step ends.
"""

from profiler.scheduler.blocks import forget_all
from profiler.scheduler.queue import enqueue, release
from profiler.scheduler.state import (
    NO_SLOT,
    Counters,
    Limits,
    Sequence,
    Shape,
    State,
    grown,
    new_state,
    records,
    widened,
    with_hashes,
)
from profiler.scheduler.steps import (
    Ended,
    abort,
    begin,
    commit,
    has_room,
    idle,
    launch,
    next_end_s,
    room_for,
)

__all__ = [
    "NO_SLOT",
    "Counters",
    "Ended",
    "Limits",
    "Sequence",
    "Shape",
    "State",
    "abort",
    "begin",
    "commit",
    "enqueue",
    "forget_all",
    "grown",
    "has_room",
    "idle",
    "launch",
    "new_state",
    "next_end_s",
    "records",
    "release",
    "room_for",
    "widened",
    "with_hashes",
]
