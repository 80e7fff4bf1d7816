"""Stands in for vLLM on GPUs: says which it was given, then serves as the emulated engine."""

import os
import sys

GIVEN = "GPUs: "


def main() -> None:
    """Log the GPUs; become the emulated engine."""
    sys.stdout.write(f"{GIVEN}{os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}\n")
    sys.stdout.flush()
    flags = [flag for flag in sys.argv[1:] if not flag.startswith("--middleware=")]
    emulate = ("-m", "controller.cli", "emulate", *flags, "--gpu=L4", "--start-up-s=0.2")
    os.execv(sys.executable, (sys.executable, *emulate))


if __name__ == "__main__":
    main()
