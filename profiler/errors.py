"""The error tree: what a caller does next decides the class.

    WhaleFluxError
    ├── Refused      will not work until a person changes something
    │   ├── DoesNotFit        the model, with its KV cache, exceeds the GPU's memory
    │   └── MissesObjective   nothing keeps the latency objective, even idle
    └── RetryLater   the world was not ready; come back

The command line prints a `WhaleFluxError` as one line and exits with 2; the operator turns
it into a condition. Anything else is a bug and keeps its traceback.
"""


class WhaleFluxError(Exception):
    """One clear line that names the field and the mend."""


class Refused(WhaleFluxError):
    """Will not work until a person changes something."""


class DoesNotFit(Refused):
    """Weights, activations and one sequence's KV cache exceed the memory there is."""


class MissesObjective(Refused):
    """Nothing keeps the objective, even idle; the line says what the best reaches."""


class RetryLater(WhaleFluxError):
    """The world was not ready; the caller comes back after `after_s`."""

    def __init__(self, message: str, after_s: float = 1.0) -> None:
        super().__init__(message)
        self.after_s = after_s
