"""Step cost from the GPU catalogue and the architecture alone, nothing measured.

Prices the operators of `operators.Replica` into a `StepCost`: each curve and constant is
what the operator says of a step that has nothing else in it.
"""

from profiler.hardware import Dtype
from profiler.operators import Floats, Replica
from profiler.scheduler import Shape
from profiler.step_cost import GRID_TOKENS, NO_WINDOW, StepCost

_NOTHING = Shape(0, 0, 0, 0.0, 0.0, 0.0, 0.0)


def analytical_cost(replica: Replica) -> StepCost:
    """Constants for one replica; the sum of its operators."""
    a, gpu, e = replica.architecture, replica.gpu, replica.efficiency
    head_s = replica.output_head(_NOTHING).seconds
    head_flops = 2.0 * a.head_parameters / replica.layout.tensor
    one_state_s = replica.linear_attention(_NOTHING._replace(sequences=1)).seconds
    return StepCost(
        step_overhead_s=replica.overhead_s + _messages_s(replica, 0),
        sequence_s=e.sequence_s
        + head_flops / (gpu.flops(Dtype.BF16) * e.compute_bf16)
        + one_state_s,
        dense_s=tuple((head_s + _dense_s(replica)).tolist()),
        token_link_s=_messages_s(replica, 1) - _messages_s(replica, 0),
        prefill_pair_s=replica.prefill_attention(_NOTHING._replace(prefill_token_pairs=1)).seconds,
        prefill_window_pair_s=replica.prefill_attention(
            _NOTHING._replace(prefill_window_token_pairs=1)
        ).seconds,
        kv_token_s=replica.decode_attention(_NOTHING._replace(kv_tokens=1)).seconds,
        kv_window_token_s=replica.decode_attention(_NOTHING._replace(kv_window_tokens=1)).seconds,
        mixed_kv_ratio=max(e.mixed_kv_ratio, 1.0),
        window_tokens=a.window_tokens or NO_WINDOW,
        request_s=e.request_s,
        padded_query_s=e.padded_query_s,
    )


def _dense_s(replica: Replica) -> Floats:
    """[GRID_SIZE] matrices and element-wise work of steps of so many tokens."""
    works = (
        replica.projections_work(GRID_TOKENS),
        replica.feed_forward_work(GRID_TOKENS),
        replica.experts_work(GRID_TOKENS),
    )
    each_s = replica.elementwise(_NOTHING._replace(tokens=1)).seconds
    total: Floats = sum((replica.work_s(work) for work in works), each_s * GRID_TOKENS)
    return total


def _messages_s(replica: Replica, tokens: int) -> float:
    shape = _NOTHING._replace(tokens=tokens)
    operators = (
        replica.all_reduce(shape),
        replica.expert_exchange(shape),
        replica.stage_hops(shape),
    )
    return sum(operator.seconds for operator in operators)
