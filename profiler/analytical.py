"""Step cost from the GPU catalogue and the architecture alone, nothing measured.

Adds up the operators of `operators.Replica` into the constants of a `StepCost`. A prior: an
`EngineProfile` that was measured takes its place.
"""

from profiler.hardware import Dtype
from profiler.operators import Replica
from profiler.scheduler import Shape
from profiler.step_cost import NO_WINDOW, StepCost

_NOTHING = Shape(0, 0, 0, 0.0, 0.0, 0.0, 0.0)


def analytical_cost(replica: Replica) -> StepCost:
    """Constants for one replica; exact sums of its operators where one bound holds."""
    a, gpu, e = replica.architecture, replica.gpu, replica.efficiency
    tp = replica.tensor_parallel_size
    linear = 2.0 * a.active_parameters / tp / (gpu.flops(a.weights.compute) * e.compute)
    head_flops = 2.0 * a.head_parameters / tp / (gpu.flops(Dtype.BF16) * e.compute)
    read_s = 1.0 / (gpu.bandwidth_bytes_s * e.weights * tp)
    weights = a.always_read_parameters * a.weights.linear_bits / 8
    head = a.head_parameters * a.weights.other_bits / 8
    return StepCost(
        step_overhead_s=e.step_s + e.layer_s * a.layers + replica.all_reduce(_NOTHING).seconds,
        sequence_s=e.sequence_s + head_flops,
        token_compute_s=linear,
        weights_s=(weights + head) * read_s,
        expert_weights_s=a.expert_parameters * a.weights.expert_bits / 8 * read_s,
        expert_miss_ratio=1.0 - a.experts.per_token / a.experts.count if a.experts else 0.0,
        token_link_s=replica.all_reduce(_NOTHING._replace(tokens=1)).seconds
        - replica.all_reduce(_NOTHING).seconds,
        prefill_pair_s=replica.prefill_attention(_NOTHING._replace(prefill_token_pairs=1)).seconds,
        prefill_window_pair_s=replica.prefill_attention(
            _NOTHING._replace(prefill_window_token_pairs=1)
        ).seconds,
        kv_token_s=replica.decode_attention(_NOTHING._replace(kv_tokens=1)).seconds,
        kv_window_token_s=replica.decode_attention(_NOTHING._replace(kv_window_tokens=1)).seconds,
        mixed_kv_ratio=e.mixed_kv_ratio,
        window_tokens=a.window_tokens or NO_WINDOW,
        request_s=e.request_s,
    )
