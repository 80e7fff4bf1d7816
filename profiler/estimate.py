"""A step cost with what is known of its errors.

The errors are those of groups of constants, as standard deviations of logarithms (0.1: one
in three predictions is off by more than 10 %). They say which of two sources to believe,
how far a measurement may move a prior, and how much headroom a prediction needs.
"""

from dataclasses import astuple, dataclass, fields
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from profiler.scheduler import Shape
from profiler.step_cost import GRID_TOKENS, StepCost, dense_at_s, step_s


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Relative errors of the groups, log standard deviations, taken as independent."""

    weights: float
    """The dense curve where it is flat: reading weights."""
    compute: float
    """The dense curve where it rises with the tokens."""
    prefill_attention: float
    decode_attention: float
    mixed: float
    """What decodes cost more beside a prefill."""
    link: float
    overhead: float
    sequence: float
    request: float

    def array(self) -> NDArray[np.float64]:
        """[groups] in the order of the fields."""
        return np.array(astuple(self))

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Self:
        """Give the inverse of `array`."""
        return cls(*(float(v) for v in values))


GROUPS = tuple(f.name for f in fields(Uncertainty))

DATA_SHEET = Uncertainty(0.15, 0.25, 0.4, 0.3, 0.3, 0.5, 0.5, 0.5, 0.5)
"""Computed from a data sheet."""
KERNELS = Uncertainty(0.08, 0.10, 0.15, 0.12, 0.2, 0.2, 0.5, 0.4, 0.5)
"""Kernels measured elsewhere on the same GPU type."""
OPERATORS = Uncertainty(0.03, 0.03, 0.08, 0.05, 0.08, 0.2, 0.4, 0.2, 0.5)
"""The model's own operators measured on the GPU itself."""


class Parts(NamedTuple):
    """Where the time of one step goes, seconds per group; they add up to `step_s`."""

    weights: float
    compute: float
    prefill_attention: float
    decode_attention: float
    mixed: float
    link: float
    overhead: float
    sequence: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A step cost, its errors, and where each group of it comes from."""

    cost: StepCost
    uncertainty: Uncertainty
    origins: tuple[str, ...]
    """[groups] name of the source."""

    @classmethod
    def from_source(cls, name: str, cost: StepCost, uncertainty: Uncertainty) -> Self:
        """Make an estimate whose every group comes from one source."""
        return cls(cost, uncertainty, (name,) * len(GROUPS))


_FIELDS: dict[str, tuple[str, ...]] = {
    "prefill_attention": ("prefill_pair_s", "prefill_window_pair_s", "prefill_kv_s"),
    "decode_attention": ("kv_token_s", "kv_window_token_s"),
    "mixed": ("mixed_kv_ratio", "mixed_sequence_s", "padded_query_s"),
    "link": ("token_link_s",),
    "overhead": ("step_overhead_s",),
    "sequence": ("sequence_s",),
    "request": ("request_s",),
}
"""Constants of each group; `weights` and `compute` are the two ends of `dense_s`."""


def combine(first: Estimate, second: Estimate) -> Estimate:
    """Take each group from whichever knows it better; what is measured overrides a guess.

    The dense curve is one measurement and comes from one source, the one that knows its two
    ends better together.
    """
    a, b = first.uncertainty, second.uncertainty
    better = {name: getattr(b, name) < getattr(a, name) for name in GROUPS}
    better["weights"] = better["compute"] = b.weights + b.compute < a.weights + a.compute
    cost = first.cost
    if better["weights"]:
        cost = cost._replace(dense_s=second.cost.dense_s)
    for group, names in _FIELDS.items():
        if better[group]:
            cost = cost._replace(**{n: getattr(second.cost, n) for n in names})
    chosen = [second if better[name] else first for name in GROUPS]
    return Estimate(
        cost,
        Uncertainty(*(getattr(c.uncertainty, n) for c, n in zip(chosen, GROUPS, strict=True))),
        tuple(c.origins[i] for i, c in enumerate(chosen)),
    )


def compute_share(cost: StepCost) -> NDArray[np.float64]:
    """[GRID_SIZE] how far the dense curve is bound by compute: its slope in log-log, 0 to 1."""
    curve = np.log(np.maximum(np.array(cost.dense_s), 1e-12))
    share: NDArray[np.float64] = np.clip(np.gradient(curve, np.log(GRID_TOKENS)), 0.0, 1.0)
    return share


def parts(cost: StepCost, shape: Shape) -> Parts:
    """Split a step's duration by group."""
    tokens = float(max(shape.tokens, 1))
    dense = dense_at_s(cost, tokens)
    share = float(np.interp(tokens, GRID_TOKENS, compute_share(cost)))
    mixed_less = cost._replace(mixed_kv_ratio=1.0, mixed_sequence_s=0.0, padded_query_s=0.0)
    decode = cost.kv_token_s * shape.kv_tokens + cost.kv_window_token_s * shape.kv_window_tokens
    prefill = (
        cost.prefill_pair_s * shape.prefill_token_pairs
        + cost.prefill_window_pair_s * shape.prefill_window_token_pairs
        + cost.prefill_kv_s * shape.prefill_kv_tokens
    )
    return Parts(
        weights=dense * (1.0 - share),
        compute=dense * share,
        prefill_attention=prefill,
        decode_attention=decode,
        mixed=step_s(cost, shape) - step_s(mixed_less, shape),
        link=cost.token_link_s * shape.tokens,
        overhead=cost.step_overhead_s,
        sequence=cost.sequence_s * shape.sequences,
    )


def relative_error(estimate: Estimate, shape: Shape) -> float:
    """Log standard deviation of a step's predicted duration."""
    spent = np.array(parts(estimate.cost, shape))
    errors = estimate.uncertainty.array()[: spent.size]
    return float(np.sqrt(np.sum((spent * errors) ** 2)) / spent.sum())


def scaled(cost: StepCost, log_factors: NDArray[np.float64]) -> StepCost:
    """Multiply each group by exp of its log factor ([groups], in the order of GROUPS).

    Both ends of the dense curve are scaled by their own factor, its middle by a mixture, and
    the curve is kept from falling. What is mixed scales the surplus of mixed steps.
    """
    factor = dict(zip(GROUPS, np.exp(log_factors), strict=True))
    share = compute_share(cost)
    ends = np.log(factor["weights"]) * (1 - share) + np.log(factor["compute"]) * share
    curve = np.maximum.accumulate(np.array(cost.dense_s) * np.exp(ends))
    mixed = factor["mixed"]
    changes = {
        name: getattr(cost, name) * float(factor[group])
        for group, names in _FIELDS.items()
        if group != "mixed"
        for name in names
    }
    return cost._replace(
        dense_s=tuple(curve.tolist()),
        **changes,
        mixed_kv_ratio=1.0 + (cost.mixed_kv_ratio - 1.0) * float(mixed),
        mixed_sequence_s=cost.mixed_sequence_s * float(mixed),
        padded_query_s=cost.padded_query_s * float(mixed),
    )
