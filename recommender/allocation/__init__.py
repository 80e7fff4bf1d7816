"""Allocation: many services over GPU pools, by integer programming.

`allocate` is the only call; the rest are the values it takes and gives.
"""

from recommender.allocation.allocate import allocate
from recommender.allocation.values import (
    Allocation,
    Binding,
    Demand,
    Effort,
    Market,
    Node,
    Placement,
    Shortfall,
    Variant,
)

__all__ = [
    "Allocation",
    "Binding",
    "Demand",
    "Effort",
    "Market",
    "Node",
    "Placement",
    "Shortfall",
    "Variant",
    "allocate",
]
