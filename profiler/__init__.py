"""The profiler: what an engine step costs, and what a scheduler makes of it.

The lowest room: every other one predicts with its twin. Modules are small and imported by
name; `profile.resolve_profile` and `twin.simulate` are where to begin.
"""
