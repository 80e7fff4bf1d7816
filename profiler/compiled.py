"""How the twin's kernels are compiled.

They allocate nothing and keep nothing, so references to arrays need not be counted: numba
does that at every use of a tuple of arrays, and it took more time than all the rest. On the
way of every step kernels are inlined, for a call passes each array of such a tuple in seven
words. Division by zero gives what numpy gives, without a branch. The lock of the interpreter
is let go, so that a search in a thread holds up neither the loop of a controller nor another.

The cache of numba looks at a kernel's own file only: after a change to a kernel that others
call, remove `__pycache__`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False, "nogil": True}


def kernel(function: F) -> F:
    """Compile what is called now and then."""
    compiled: F = njit(**_OPTIONS)(function)
    return compiled


def inlined(function: F) -> F:
    """Compile what every step goes through."""
    compiled: F = njit(**_OPTIONS, forceinline=True)(function)
    return compiled
