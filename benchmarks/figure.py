"""How a benchmark tells a figure: one JSON line each; absent data in a visible line."""

import json
import sys
from pathlib import Path


def tell(case: str, metric: str, value: float, unit: str, goal: float, better: str) -> None:
    """Print one figure; `better` is lower or higher."""
    figure = {
        "case": case, "metric": metric, "value": round(value, 6), "unit": unit, "goal": goal,
        "better": better,
    }  # fmt: skip
    print(json.dumps(figure), flush=True)


def need(path: Path) -> Path:
    """Give the path, or say that the data is absent and end without a figure."""
    if not path.exists():
        print(f"skipped: no data at {path}: give its path", file=sys.stderr)
        sys.exit(0)
    return path
