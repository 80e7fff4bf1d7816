"""The twin behind vLLM's HTTP API and `/metrics`, in real time, with faults to inject.

`build_app(cost, limits, options)` makes the application for a test; `run_process` runs it
as `whaleflux emulate` does.
"""

from profiler.emulator.clock import Clock, ManualClock, RealClock
from profiler.emulator.engine import EngineDeadError, EngineDrainingError, RealTimeEngine
from profiler.emulator.jobs import Finish, Generation, Job
from profiler.emulator.options import Options
from profiler.emulator.process import Serving, run_process
from profiler.emulator.server import ENGINE, FAULTS, build_app
from profiler.emulator.tokens import Answer, chat_pieces, pieces

__all__ = [
    "ENGINE",
    "FAULTS",
    "Answer",
    "Clock",
    "EngineDeadError",
    "EngineDrainingError",
    "Finish",
    "Generation",
    "Job",
    "ManualClock",
    "Options",
    "RealClock",
    "RealTimeEngine",
    "Serving",
    "build_app",
    "chat_pieces",
    "pieces",
    "run_process",
]
