"""Profile a running engine: design points, drive them, fit the step cost, keep a journal.

Called by `whaleflux profile`. What the engine publishes of itself comes in through a port
(`ReadPhases`), since reading metrics is `monitor`'s; the clock comes in as a function.
"""

from profiler.measure.profiling.assemble import Context, Names, assemble, generic_profile
from profiler.measure.profiling.bounds import CHUNK_TOKENS, MAX_NUM_SEQS, Bounds, candidates
from profiler.measure.profiling.design import Choice, next_point
from profiler.measure.profiling.drive import Driver, EngineBusy, EngineFailed
from profiler.measure.profiling.fit import Measured, fit, generic_prior
from profiler.measure.profiling.journal import Journal, fingerprint
from profiler.measure.profiling.phases import CacheFacts, Phases, ReadPhases, Total, no_phases
from profiler.measure.profiling.points import Decode, Mixed, Point, Prefill
from profiler.measure.profiling.probe import Served, probe
from profiler.measure.profiling.session import Finding, Progress, Session

__all__ = [
    "CHUNK_TOKENS",
    "MAX_NUM_SEQS",
    "Bounds",
    "CacheFacts",
    "Choice",
    "Context",
    "Decode",
    "Driver",
    "EngineBusy",
    "EngineFailed",
    "Finding",
    "Journal",
    "Measured",
    "Mixed",
    "Names",
    "Phases",
    "Point",
    "Prefill",
    "Progress",
    "ReadPhases",
    "Served",
    "Session",
    "Total",
    "assemble",
    "candidates",
    "fingerprint",
    "fit",
    "generic_prior",
    "generic_profile",
    "next_point",
    "no_phases",
    "probe",
]
