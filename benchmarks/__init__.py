"""A command per figure: `python -m benchmarks.NAME`; one JSON line per case."""
